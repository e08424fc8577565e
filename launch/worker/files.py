"""The launcher's folder on a worker, and its JSON files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def root() -> Path:
    """Returns the folder: `POLYMATH_ROOT`, or the default of the dead man's timer."""
    return Path(os.environ.get("POLYMATH_ROOT", "/var/lib/polymath"))


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a file; empty if the file is missing or invalid."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object atomically."""
    # Renamed instead of overwritten: in a world-writable folder Linux forbids even root to open
    # another user's file for writing.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value) + "\n", encoding="utf-8")
    unfinished.replace(path)


def renew_lease(folder: Path) -> None:
    """Renews the lease, without which the dead man's timer deletes the VM."""
    (folder / "lease").touch()
