"""Image files whose annotations are kept in memory as arrays."""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from research.common.config import suggest
from research.common.errors import ConfigError, UserError
from research.data.images import decode
from research.tasks.object_detection.boxes import Annotation, format_box, sanitize
from research.tasks.object_detection.data.annotated_images import AnnotatedImages

log = logging.getLogger(__name__)


class AnnotationErrors:
    """Errors in annotations that do not stop a run: the count and first example of each kind."""

    def __init__(self) -> None:
        self._errors: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Counts `count` errors of a kind; `example` names the first of them."""
        known, first = self._errors.get(kind, (0, example))
        self._errors[kind] = (known + count, first)

    def log(self, source: str) -> None:
        """Logs one warning that lists all kinds; none without errors."""
        if self._errors:
            kinds = [
                f"{kind}: {count}, e.g. {example}"
                for kind, (count, example) in self._errors.items()
            ]
            _warn_once(f"{source}: {'; '.join(kinds)}")


@cache  # a run opens some splits several times
def _warn_once(message: str) -> None:
    log.warning("%s", message)


class AnnotationTable(NamedTuple):
    """The annotations of a split as arrays: 25 bytes for each of COCO's 860,000 objects."""

    source: str  # the annotation files, for messages
    classes: tuple[str, ...]  # by label of `objects`
    files: list[str]  # by image, relative to the image directory
    sizes: np.ndarray  # [images, 2] int32: width and height in pixels
    image_index: np.ndarray  # [objects] int32: the image of each object
    objects: Annotation  # of all images
    errors: AnnotationErrors

    def sanitized(self, name: Callable[[int], str]) -> "AnnotationTable":
        """Returns the table with boxes of positive area within their images; records the errors.

        Args:
          name: names an object, given by its position, in messages.
        """
        boxes, limits = self.objects.boxes.copy(), self.sizes[self.image_index]
        low, high = boxes[:, :2], boxes[:, 2:]
        # Valid boxes are found in one vectorised pass: COCO's one by one would take 20 s.
        kept = ((low >= 0) & (low < high) & (high <= limits)).all(axis=1)
        for i in np.flatnonzero(~kept).tolist():
            width, height = limits[i].tolist()
            one, errors = sanitize(self.objects.select(np.array([i])), width, height)
            for kind, _ in errors:
                self.errors.add(kind, f"{format_box(boxes[i])} of {name(i)}")
            if len(one.boxes):
                boxes[i], kept[i] = one.boxes[0], True
        objects = self.objects._replace(boxes=boxes).select(kept)
        return self._replace(objects=objects, image_index=self.image_index[kept])


class AnnotatedFiles(AnnotatedImages):
    """The images of an annotation table.

    Args:
      directory: directory that the table's files are relative to.
      table: the files and their objects.
      class_names: by label.

    Raises:
      UserError: the table has objects of other classes.
    """

    def __init__(self, directory: Path, table: AnnotationTable, class_names: tuple[str, ...]):
        self.directory, self.files, self.sizes = directory, table.files, table.sizes
        objects = table.objects._replace(labels=_relabel(table, class_names))
        order = np.argsort(table.image_index, kind="stable")
        self.objects = objects.select(order)
        # The objects of image i are those from starts[i] to starts[i + 1].
        self.starts = np.searchsorted(table.image_index[order], np.arange(len(self.files) + 1))

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        """Returns the path of an image."""
        return self.directory / self.files[index]

    def image(self, index: int) -> Image.Image:
        path = self.path(index)
        image, (width, height) = decode(path, 3), self.sizes[index].tolist()
        if image.size != (width, height):
            raise UserError(
                f"invalid size {image.width} x {image.height} of {path}: its annotation has "
                f"{width} x {height}; correct the annotation"
            )
        return image

    def annotation(self, index: int) -> Annotation:
        return self.objects.select(np.arange(self.starts[index], self.starts[index + 1]))


def unique_class_names(classes: Sequence[str], key: str, source: Path | str) -> tuple[str, ...]:
    """Returns class names without repetitions, in order.

    Args:
      classes: class names of the annotations.
      key: config key that the error names.
      source: the annotations, for the error.

    Raises:
      ConfigError: there are no classes.
    """
    if not classes:
        problem = f"no classes in {source}; annotate objects, or set class_names"
        raise ConfigError(key, problem)
    return tuple(dict.fromkeys(classes))


def _relabel(table: AnnotationTable, class_names: tuple[str, ...]) -> np.ndarray:
    """Maps the labels of a table to positions in `class_names`: [objects] int32."""
    label_of = {name: label for label, name in enumerate(class_names)}
    mapping = np.array([label_of.get(name, -1) for name in table.classes], np.int32)
    labels = mapping[table.objects.labels]
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        name = table.classes[table.objects.labels[unknown[0]]]
        file = table.files[table.image_index[unknown[0]]]
        raise UserError(
            f"unknown classes in {table.source}: {len(unknown)} objects, e.g. '{name}' in {file} "
            f"({suggest(name, class_names)}); correct it or add it to class_names"
        )
    return labels
