"""Small files: written so that a reader sees them old or new, and read with clear errors."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL.Image import Image

from research.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in one stroke, making its folder where there is none.

    Raises:
      UserError: the place cannot be written to.
    """
    _in_one_stroke(path, lambda unfinished: unfinished.write_text(text))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, which may be gzip's.

    Raises:
      UserError: it cannot be read, or a line, which is named, is not UTF-8.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{number} is not UTF-8; convert the file to it") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path} ({reason}); check the file") from None
    # Not `splitlines`, which splits at U+2028 and its like too: two files would get out of step.
    lines = text.removesuffix("\n").split("\n")
    return [line.rstrip("\r") for line in lines] if text else []


def save_image(path: Path, image: Image) -> None:
    """Writes an image in the format of its suffix, in one stroke, making its folder.

    Raises:
      UserError: the place cannot be written to.
    """
    _in_one_stroke(path, image.save)


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


def _in_one_stroke(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` write beside the path, with its suffix, and then moves what is whole there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished_{path.name}")
        write(unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from None
