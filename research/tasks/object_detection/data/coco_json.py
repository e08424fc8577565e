"""COCO's annotation files: JSON with lists of images, of the objects in them and of categories.

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
from research.tasks.object_detection.data.annotated_files import Faults, Listing

_USED = {
    *("images", "id", "file_name", "width", "height"),
    *("annotations", "image_id", "category_id", "bbox", "iscrowd"),
    *("categories", "name"),
}


def read_coco(path: Path) -> Listing:
    """What a file says; the classes are its categories in the order of their ids.

    Raises:
      UserError: it cannot be read, lacks something or contradicts itself; names it and the place.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from None


@lru_cache(maxsize=3)  # a run asks for the classes, and may open two splits out of one file
def _read(path: Path, modified: int) -> Listing:
    content, faults = _load(path), Faults()
    images, annotations, categories = (
        _Table(path, key, content.get(key)) for key in ("images", "annotations", "categories")
    )
    categories = _sorted(categories)
    files, places = list(map(str, images.column("file_name"))), images.places()
    annotations = _with_image(annotations, places, faults)
    owners = np.array([places[one] for one in annotations.column("image_id")], np.int32)

    def name(i: int) -> str:
        return f"annotation {annotations.rows[i].get('id', 'without id')} in {files[owners[i]]}"

    objects = Annotation(
        _corners(annotations.numbers("bbox", 4)),
        _labels(annotations, categories, name),
        np.array([bool(row.get("iscrowd")) for row in annotations.rows], bool),
    )
    classes = tuple(map(str, categories.column("name")))
    listing = Listing(str(path), classes, files, _sizes(images), owners, objects, faults)
    return listing.repaired(name)


def _load(path: Path) -> dict[str, Any]:
    """The object in a JSON file, without what is not used here.

    The outlines of the objects, most of a file, are dropped as soon as they are read.
    """

    def used(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key in _USED}

    try:
        with path.open("rb") as file:
            content = json.load(file, object_hook=used)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); restore it") from None
    return content if isinstance(content, dict) else {}


class _Table:
    """One of the lists in a file: rows with the same keys. Its errors name the file and the row."""

    def __init__(self, path: Path, name: str, rows: Any):
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: has no list '{name}', as COCO's annotations do; add it")
        self.path, self.name, self.rows = path, name, rows

    def column(self, key: str) -> list[Any]:
        """The values of a key, by row."""
        try:
            return [row[key] for row in self.rows]
        except KeyError:
            row = next(row for row in self.rows if key not in row)
            raise self.error(f"{row} has no '{key}'") from None

    def numbers(self, key: str, *shape: int) -> np.ndarray:
        """The values of a key that are numbers, or lists of them: float64 [rows, *shape]."""
        values = self.column(key)
        if not values:
            return np.zeros((0, *shape))
        array = _numbers(values, (len(values), *shape))
        if array is None:
            row = next(row for row in self.rows if _numbers(row[key], shape) is None)
            kind = f"{shape[0]} numbers" if shape else "a number"
            raise self.error(f"{row} must have {kind} as '{key}'")
        return array

    def ids(self, key: str) -> list[Hashable]:
        """The values of a key that names rows."""
        values = self.column(key)
        for row, value in zip(self.rows, values, strict=True):
            if isinstance(value, list | dict):
                raise self.error(f"{row} must have a number as '{key}'")
        return values

    def places(self) -> dict[Hashable, int]:
        """The position of the row with an id."""
        ids = self.ids("id")
        places = {one: place for place, one in enumerate(ids)}
        for place, one in enumerate(ids):
            if places[one] != place:
                raise self.error(f"{self.rows[places[one]]} has the id of {self.rows[place]}")
        return places

    def error(self, problem: str) -> UserError:
        """To be raised."""
        return UserError(f"{self.path}: in '{self.name}' {problem}; correct the file")


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """A float64 array of that shape, if the value is one."""
    try:
        array = np.array(value, np.float64)
    except (OverflowError, TypeError, ValueError):
        return None
    return array if array.shape == shape else None


def _with_image(annotations: _Table, places: Mapping[Hashable, int], faults: Faults) -> _Table:
    """The annotations whose image the file has; a fault tells of the others."""
    owners = annotations.ids("image_id")
    strays = [i for i, owner in enumerate(owners) if owner not in places]
    if not strays:
        return annotations
    faults.note(
        "an annotation whose image is not in 'images', left out",
        f"annotation {annotations.rows[strays[0]].get('id', 'without id')} "
        f"of image {owners[strays[0]]}",
        len(strays),
    )
    rows = [row for row, owner in zip(annotations.rows, owners, strict=True) if owner in places]
    return _Table(annotations.path, annotations.name, rows)


def _sizes(images: _Table) -> np.ndarray:
    """Width and height of the images [images, 2] int32."""
    if not images.rows:
        raise images.error("there is no image")
    sizes = np.stack([images.numbers(key) for key in ("width", "height")], axis=1)
    wrong = np.flatnonzero(~(sizes >= 1).all(axis=1))
    if len(wrong):
        raise images.error(f"{images.rows[wrong[0]]} must have a width and a height")
    return sizes.astype(np.int32)


def _sorted(categories: _Table) -> _Table:
    """By their ids, which may leave numbers out: the position is the label then."""
    order = np.argsort(categories.numbers("id"), kind="stable")
    rows = [categories.rows[i] for i in order]
    return _Table(categories.path, categories.name, rows)


def _labels(annotations: _Table, categories: _Table, name: Callable[[int], str]) -> np.ndarray:
    """The position of each annotation's category [annotations] int32."""
    label_of, given = categories.places(), annotations.ids("category_id")
    labels = np.array([label_of.get(one, -1) for one in given], np.int32)
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        first = int(unknown[0])
        raise annotations.error(
            f"categories that 'categories' has not: {len(unknown)}, the first "
            f"{given[first]} of {name(first)} ({suggest(str(given[first]), map(str, label_of))})"
        )
    return labels


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (x, y, width, height) as corners [boxes, 4] float32."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
