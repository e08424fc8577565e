"""Reader of COCO's annotation files: JSON with lists of images, annotations and categories.

https://cocodataset.org/#format-data
"""

import json
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from research.common.config import suggest
from research.common.errors import UserError
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data.annotated_files import AnnotationErrors, AnnotationTable

_KEYS = {
    *("images", "id", "file_name", "width", "height"),
    *("annotations", "image_id", "category_id", "bbox", "iscrowd"),
    *("categories", "name"),
}


def read_coco(path: Path) -> AnnotationTable:
    """Reads an annotation file; the classes are its categories in the order of their ids.

    Raises:
      UserError: the file cannot be read, or is incomplete or inconsistent; names the entry.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from None


@lru_cache(maxsize=3)  # a run reads the classes, and may open two splits of one file
def _read(path: Path, modified: int) -> AnnotationTable:
    content, errors = _load(path), AnnotationErrors()
    images, annotations, categories = (
        _Entries(path, key, content.get(key)) for key in ("images", "annotations", "categories")
    )
    categories = _sort_by_id(categories)
    files, positions = list(map(str, images.column("file_name"))), images.positions()
    annotations = _of_known_images(annotations, positions, errors)
    image_index = np.array([positions[i] for i in annotations.column("image_id")], np.int32)

    def name(i: int) -> str:
        number = annotations.rows[i].get("id", "without id")
        return f"annotation {number} in {files[image_index[i]]}"

    objects = Annotation(
        _corners(annotations.numbers("bbox", 4)),
        _labels(annotations, categories, name),
        np.array([bool(row.get("iscrowd")) for row in annotations.rows], bool),
    )
    classes = tuple(map(str, categories.column("name")))
    sizes = _sizes(images)
    table = AnnotationTable(str(path), classes, files, sizes, image_index, objects, errors)
    return table.sanitized(name)


def _load(path: Path) -> dict[str, Any]:
    """Loads the JSON object of a file, restricted to the keys that are used here.

    Segmentations, most of a file, are dropped while parsing, to save memory.
    """

    def select(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key in _KEYS}

    try:
        with path.open("rb") as file:
            content = json.load(file, object_hook=select)
    except (ValueError, RecursionError) as error:
        raise UserError(f"invalid JSON in {path}: {error}; restore the file") from None
    return content if isinstance(content, dict) else {}


class _Entries:
    """One of the lists of a file, of rows with the same keys; errors name the file and the row."""

    def __init__(self, path: Path, name: str, rows: Any):
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"missing list '{name}' in {path}: expected COCO annotations")
        self.path, self.name, self.rows = path, name, rows

    def column(self, key: str) -> list[Any]:
        """Returns the values of a key by row."""
        try:
            return [row[key] for row in self.rows]
        except KeyError:
            row = next(row for row in self.rows if key not in row)
            raise self.error(f"missing '{key}'", row) from None

    def numbers(self, key: str, *shape: int) -> np.ndarray:
        """Returns the values of a numeric key, float64 [rows, *shape]."""
        values = self.column(key)
        if not values:
            return np.zeros((0, *shape))
        array = _to_array(values, (len(values), *shape))
        if array is None:
            row = next(row for row in self.rows if _to_array(row[key], shape) is None)
            expected = f"{shape[0]} numbers" if shape else "a number"
            raise self.error(f"invalid '{key}', expected {expected},", row)
        return array

    def ids(self, key: str) -> list[Hashable]:
        """Returns the values of a key that identifies rows."""
        values = self.column(key)
        for row, value in zip(self.rows, values, strict=True):
            if isinstance(value, list | dict):
                raise self.error(f"invalid '{key}', expected a number,", row)
        return values

    def positions(self) -> dict[Hashable, int]:
        """Returns the position of each row by its id."""
        ids = self.ids("id")
        positions = {one: i for i, one in enumerate(ids)}
        for i, one in enumerate(ids):
            if positions[one] != i:
                raise self.error(f"duplicate id of {self.rows[i]}", self.rows[positions[one]])
        return positions

    def error(self, problem: str, row: Mapping[str, Any] | None = None) -> UserError:
        """Returns the error for a problem, of one row or of the whole list."""
        where = f"'{self.name}' of {self.path}"
        where = where if row is None else f"{row} of {where}"
        return UserError(f"{problem} in {where}; correct the file")


def _to_array(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns a float64 array of a shape; None if the value is not one."""
    try:
        array = np.array(value, np.float64)
    except (OverflowError, TypeError, ValueError):
        return None
    return array if array.shape == shape else None


def _of_known_images(
    annotations: _Entries, positions: Mapping[Hashable, int], errors: AnnotationErrors
) -> _Entries:
    """Removes annotations of images that the file does not list; records them as an error."""
    image_ids = annotations.ids("image_id")
    unknown = [i for i, image_id in enumerate(image_ids) if image_id not in positions]
    if not unknown:
        return annotations
    errors.add(
        "annotations of unknown images, removed",
        f"annotation {annotations.rows[unknown[0]].get('id', 'without id')} "
        f"of image {image_ids[unknown[0]]}",
        len(unknown),
    )
    rows = [row for row, i in zip(annotations.rows, image_ids, strict=True) if i in positions]
    return _Entries(annotations.path, annotations.name, rows)


def _sizes(images: _Entries) -> np.ndarray:
    """Returns the width and height of the images, [images, 2] int32."""
    if not images.rows:
        raise images.error("no images")
    sizes = np.stack([images.numbers(key) for key in ("width", "height")], axis=1)
    invalid = np.flatnonzero(~(sizes >= 1).all(axis=1))
    if len(invalid):
        raise images.error("invalid width or height", images.rows[invalid[0]])
    return sizes.astype(np.int32)


def _sort_by_id(categories: _Entries) -> _Entries:
    """Sorts categories by id, so that a label is a position; ids need not be consecutive."""
    order = np.argsort(categories.numbers("id"), kind="stable")
    rows = [categories.rows[i] for i in order]
    return _Entries(categories.path, categories.name, rows)


def _labels(annotations: _Entries, categories: _Entries, name: Callable[[int], str]) -> np.ndarray:
    """Returns the position of each annotation's category, [annotations] int32."""
    label_of, category_ids = categories.positions(), annotations.ids("category_id")
    labels = np.array([label_of.get(one, -1) for one in category_ids], np.int32)
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        first = int(unknown[0])
        category = category_ids[first]
        hint = suggest(str(category), map(str, label_of))
        raise annotations.error(
            f"{len(unknown)} annotations with unknown categories, e.g. {category} of "
            f"{name(first)} ({hint}),"
        )
    return labels


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Converts boxes (x, y, width, height) to corners, [boxes, 4] float32."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
