"""Runs make, for the tests of the Makefile."""

import os
import subprocess
from pathlib import Path

MAKEFILE = Path(__file__).parents[1] / "Makefile"


def make(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs the Makefile in a folder, with messages in English.

    `make test` would make it a make within a make, which has other messages and variables.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", "-f", MAKEFILE, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment | {"LC_ALL": "C"},
    )
