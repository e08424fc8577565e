"""Fixed-shape examples of annotated images."""

import logging
from functools import cache

import numpy as np
from PIL import Image

from research.common.errors import UserError
from research.data.dataset import Dataset, Example
from research.data.images import to_array
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data.annotated_images import AnnotatedImages
from research.tasks.object_detection.transforms import letterbox

log = logging.getLogger(__name__)


@cache
def _warn_once(max_objects: int) -> None:
    log.warning("some images have more than max_objects=%d; the largest are learned", max_objects)


class DetectionExamples(Dataset):
    """Images at one size, with their boxes padded to one number.

    Each example has `image` uint8 [height, width, 3], in which the whole image lies at the upper
    left and grey fills the rest; `boxes` float32 [max_objects, 4] in pixels of that; `labels` int32
    [max_objects], -1 where there is no object; `crowd` bool [max_objects]; `scale` float32 [2],
    by which x and y of the original were multiplied; and `size` float32 [2], the width and height
    of the original.

    Args:
      images: what they are made of.
      image_size: height and width.
      max_objects: what the objects are padded to; of more, the largest are kept. What is scored is
        not cut off: the scorer asks `images` for all.
      augmentation: what is done to training images; None: nothing.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        image_size: tuple[int, int],
        max_objects: int,
        augmentation: Augmentation | None = None,
    ):
        super().__init__()
        self.images, self.image_size, self.max_objects = images, image_size, max_objects
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.images)

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        try:
            if self.augmentation:
                return self._augmented(self.augmentation, index, rng)
            image, annotation = self.images.load(index)
        except UserError as error:
            self.skip(index, str(error))
            return None
        placed, annotation, scale = letterbox(image, annotation, self.image_size)
        return self._padded(placed, annotation, scale, np.array(image.size, np.float32))

    def _augmented(
        self, augmentation: Augmentation, index: int, rng: np.random.Generator
    ) -> Example:
        def load(i: int) -> tuple[Image.Image, Annotation]:
            try:
                return self.images.load(i, rng)
            except UserError as error:
                if i == index:
                    raise
                self.skip(i, str(error))  # of a mosaic: another stands in for it
                return self.images.load(index, rng)

        image, annotation = augmentation(load, index, len(self), self.image_size, rng)
        return self._padded(image, annotation, np.ones(2, np.float32), np.array(image.size))

    def _padded(
        self, image: Image.Image, annotation: Annotation, scale: np.ndarray, size: np.ndarray
    ) -> Example:
        if len(annotation.boxes) > self.max_objects:
            sides = annotation.boxes[:, 2:] - annotation.boxes[:, :2]
            # Crowds last: they teach nothing.
            order = np.lexsort((-sides.prod(axis=1), annotation.crowd))
            annotation = annotation.select(np.sort(order[: self.max_objects]))
            _warn_once(self.max_objects)
        count = len(annotation.boxes)
        boxes = np.zeros((self.max_objects, 4), np.float32)
        labels = np.full(self.max_objects, -1, np.int32)
        crowd = np.zeros(self.max_objects, bool)
        boxes[:count], labels[:count], crowd[:count] = annotation
        return {
            "image": to_array(image),
            "boxes": boxes,
            "labels": labels,
            "crowd": crowd,
            "scale": scale,
            "size": size.astype(np.float32),
        }
