"""Small files that a reader sees old or new, and never half-written."""

import json
from pathlib import Path
from typing import Any

from research.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in one stroke, making its folder where there is none.

    Raises:
      UserError: the place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(text)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from None


def save_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object as JSON, in one stroke."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: the file is not there, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it or remove it") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; restore it or remove it")
    return value
