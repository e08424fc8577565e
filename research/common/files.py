"""Small files: written atomically, and read with errors that name the file."""

import gzip
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from research.common.errors import UserError
from research.common.storage import AnyPath, is_in_bucket


def write_atomically(path: AnyPath, content: str | bytes) -> None:
    """Writes a file atomically; creates its folder if missing.

    Raises:
      UserError: the path cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if is_in_bucket(path):  # Cloud Storage replaces objects atomically
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished_{path.name}")
        try:
            unfinished.write_bytes(data)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except Exception as error:  # gcsfs raises several types other than OSError
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}; choose another path") from None


def check_is_writable(folder: AnyPath) -> None:
    """Checks that files can be created in a folder on disk, which may not exist yet.

    Raises:
      UserError: the path or one of its parents is a file, or permissions are missing.
    """
    if is_in_bucket(folder):
        return
    parent = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not parent.is_dir():
        raise UserError(f"invalid folder {folder}: {parent} is a file; choose another path")
    if not os.access(parent, os.W_OK):
        raise UserError(
            f"cannot write {folder}: permission denied in {parent}; choose another path"
        )


def check_is_new(folder: Path) -> None:
    """Checks that a folder can be created at a path.

    Raises:
      UserError: a file, or a folder that is not empty, is already there.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; remove it or choose another")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, to which it is renamed at the end of the block.

    If the block raises an error, the temporary folder is removed and `path` does not change.

    Raises:
      UserError: `path` exists and is not an empty folder, or cannot be written.
    """
    check_is_new(path)
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"unfinished_{path.name}_", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another path") from None
    unfinished.chmod(0o755)  # mkdtemp's is private
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read_lines(path: AnyPath) -> list[str]:
    """Returns the lines of a UTF-8 text file; one that ends in `.gz` is decompressed.

    Raises:
      UserError: the file cannot be read, or a line is not UTF-8; the message names it.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{number} is not UTF-8; convert the file") from None
    except FileNotFoundError:
        raise UserError(f"missing file {path}; check the path") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path} ({reason}); check the file") from None
    # `splitlines` also splits at U+2028 and similar, which would misalign parallel files.
    lines = text.removesuffix("\n").split("\n")
    return [line.rstrip("\r") for line in lines] if text else []


def finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replaces numbers that are not finite by None: JSON has none, and other programs refuse it."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def save_json(path: AnyPath, value: dict[str, Any]) -> None:
    """Writes an object as JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_json(path: AnyPath) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      UserError: the file cannot be read, or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it or remove it") from None
    if not isinstance(value, dict):
        raise UserError(f"invalid {path}: expected a JSON object; restore it or remove it")
    return value
