"""Annotated images out of the records of TensorFlow Datasets."""

import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from research.common.errors import UserError
from research.data.images import decode, image_size
from research.tasks.object_detection.boxes import Annotation, named, repaired
from research.tasks.object_detection.data.annotated_images import AnnotatedImages

log = logging.getLogger(__name__)
_NAMED = 20  # faulty images that are named; a large data set can have many thousands


class Features(NamedTuple):
    """What the parts of a record are called."""

    image: str
    """The encoded image, bytes."""

    objects: str
    """Its objects: `bbox`, parts (y_min, x_min, y_max, x_max) of height and width, and `label`."""

    crowd: str
    """A third entry of the objects, which is true of crowds; empty: there is none."""


class AnnotatedRecords(AnnotatedImages):
    """Images and their objects, read when they are asked for.

    Args:
      where: what messages call the records.
      records: mappings, by index.
      features: what is where in them.
      labels: what each of their labels becomes, [classes] int32.
    """

    def __init__(self, where: str, records: Sequence[Any], features: Features, labels: np.ndarray):
        self.where, self.records, self.features = where, records, features
        self.labels = np.append(labels, np.int32(-1))  # -1 is TFDS's label of what has none
        self._faulty: set[int] = set()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> Image.Image:
        return self._decode(index, self.records[index])

    def annotation(self, index: int) -> Annotation:
        record = self.records[index]
        try:
            width, height = image_size(record[self.features.image])
        except UserError as error:
            raise UserError(f"{self.where}:{index}: {error}") from None
        return self._annotation(index, record, width, height)

    def load(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[Image.Image, Annotation]:
        record = self.records[index]  # once for both
        image = self._decode(index, record)
        return image, self._annotation(index, record, *image.size)

    def _decode(self, index: int, record: Any) -> Image.Image:
        try:
            return decode(record[self.features.image], 3)
        except UserError as error:
            raise UserError(f"{self.where}:{index}: {error}") from None

    def _annotation(self, index: int, record: Any, width: int, height: int) -> Annotation:
        objects = record[self.features.objects]
        relative = np.array(objects["bbox"], np.float32).reshape(-1, 4)
        labels = self.labels[np.array(objects["label"], np.int64)]
        crowd = np.zeros(len(labels), bool)
        if self.features.crowd:
            crowd = np.array(objects[self.features.crowd], bool)
        y_first = relative * np.array([height, width, height, width], np.float32)
        given = Annotation(y_first[:, [1, 0, 3, 2]], labels, crowd).select(labels >= 0)
        annotation, faults = repaired(given, width, height)
        problems = [f"{named(given.boxes[place])} {kind}" for kind, place in faults]
        if (labels < 0).any():
            problems.append(f"{(labels < 0).sum()} objects have no label, left out")
        if problems:
            self._tell(index, problems)
        return annotation

    def _tell(self, index: int, problems: Sequence[str]) -> None:
        """Says what is wrong with the objects of an image the first time, of the first images.

        How many there are is said later on, whenever they have doubled.
        """
        with self._lock:
            if index in self._faulty:
                return
            self._faulty.add(index)
            count = len(self._faulty)
        if count <= _NAMED:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            log.warning("%s:%d: %s%s", self.where, index, problems[0], more)
        elif count & (count - 1) == 0:
            log.warning("%s: %d images with such objects so far", self.where, count)
