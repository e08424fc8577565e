"""Annotated images from TFDS records."""

import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from research.common.errors import UserError
from research.data.images import decode, image_size
from research.tasks.object_detection.boxes import Annotation, format_box, sanitize
from research.tasks.object_detection.data.annotated_images import AnnotatedImages

log = logging.getLogger(__name__)
_MAX_LOGGED = 20  # images with invalid objects that are named; a data set can have thousands


class RecordFeatures(NamedTuple):
    """Names of the features of a record."""

    image: str
    """The encoded image, bytes."""

    objects: str
    """The objects: `bbox`, (y_min, x_min, y_max, x_max) relative to height and width, and
    `label`."""

    crowd: str
    """The feature of an object that marks it as a crowd; empty: none."""


class AnnotatedRecords(AnnotatedImages):
    """Images and their objects, read from records on access.

    Args:
      name: name of the records in messages.
      records: mappings by index.
      features: names of their features.
      labels: new label of each class of the records, [classes] int32.
    """

    def __init__(
        self, name: str, records: Sequence[Any], features: RecordFeatures, labels: np.ndarray
    ):
        self.name, self.records, self.features = name, records, features
        self.labels = np.append(labels, np.int32(-1))  # TFDS uses -1 for objects without a label
        self._invalid: set[int] = set()
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
            raise UserError(f"{self.name}:{index}: {error}") from None
        return self._annotation(index, record, width, height)

    def load(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[Image.Image, Annotation]:
        record = self.records[index]  # read once for both
        image = self._decode(index, record)
        return image, self._annotation(index, record, *image.size)

    def _decode(self, index: int, record: Any) -> Image.Image:
        try:
            return decode(record[self.features.image], 3)
        except UserError as error:
            raise UserError(f"{self.name}:{index}: {error}") from None

    def _annotation(self, index: int, record: Any, width: int, height: int) -> Annotation:
        objects = record[self.features.objects]
        relative = np.array(objects["bbox"], np.float32).reshape(-1, 4)
        labels = self.labels[np.array(objects["label"], np.int64)]
        crowd = np.zeros(len(labels), bool)
        if self.features.crowd:
            crowd = np.array(objects[self.features.crowd], bool)
        y_first = relative * np.array([height, width, height, width], np.float32)
        labelled = Annotation(y_first[:, [1, 0, 3, 2]], labels, crowd).select(labels >= 0)
        annotation, errors = sanitize(labelled, width, height)
        problems = [f"{format_box(labelled.boxes[i])} {kind}" for kind, i in errors]
        if (labels < 0).any():
            problems.append(f"{(labels < 0).sum()} objects without a label, removed")
        if problems:
            self._log(index, problems)
        return annotation

    def _log(self, index: int, problems: Sequence[str]) -> None:
        """Logs the invalid objects of an image once, for the first images.

        Further images are only counted; the count is logged whenever it doubles.
        """
        with self._lock:
            if index in self._invalid:
                return
            self._invalid.add(index)
            count = len(self._invalid)
        if count <= _MAX_LOGGED:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            log.warning("%s:%d: %s%s", self.name, index, problems[0], more)
        elif count & (count - 1) == 0:
            log.warning("%s: %d images with invalid objects so far", self.name, count)
