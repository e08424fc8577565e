"""Small files: written so that a reader sees them old or new, and read with clear errors."""

import gzip
import json
import zlib
from typing import Any

from research.common.errors import UserError
from research.common.storage import AnyPath, is_in_bucket


def write_whole(path: AnyPath, content: str | bytes) -> None:
    """Writes a file in one stroke, making its folder where there is none.

    Raises:
      UserError: the place cannot be written to.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if is_in_bucket(path):  # where an object is there whole or not at all
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished_{path.name}")
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except Exception as error:  # gcsfs raises several that are no OSError
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}; choose another place") from None


def read_lines(path: AnyPath) -> list[str]:
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


def save_json(path: AnyPath, value: dict[str, Any]) -> None:
    """Writes an object as JSON, in one stroke."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_json(path: AnyPath) -> dict[str, Any]:
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
