"""The folder in which everything on a worker lies, and the small JSON files in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def root() -> Path:
    """The folder: `POLYMATH_ROOT`, or where the dead man's timer made it."""
    return Path(os.environ.get("POLYMATH_ROOT", "/var/lib/polymath"))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object so that a reader sees the old one or the new one."""
    # Moved into place rather than opened: in a folder open to all, not even root may open for
    # writing what belongs to somebody else.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value) + "\n", encoding="utf-8")
    unfinished.replace(path)


def renew_lease(folder: Path) -> None:
    """Tells the dead man's timer that the machine is wanted."""
    (folder / "lease").touch()
