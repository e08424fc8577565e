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
    log.warning(
        "some images have more than max_objects=%d objects; only the largest are training targets",
        max_objects,
    )


class DetectionExamples(Dataset):
    """Letterboxed or augmented images with a fixed number of padded boxes.

    Each example has `image` uint8 [height, width, 3]; `boxes` float32 [max_objects, 4] in pixels of
    `image`; `labels` int32 [max_objects], -1 for padding; `crowd` bool [max_objects]; `scale`
    float32 [2], the factors of x and y from the original to `image`; and `size` float32 [2], the
    width and height of the original.

    Args:
      images: the annotated images.
      image_size: height and width of the examples.
      max_objects: number of boxes of an example; of more objects, the largest are kept. Evaluation
        is not affected: the scorer reads all objects from `images`.
      augmentation: of training images; None for letterboxing alone.
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
        resized, annotation, scale = letterbox(image, annotation, self.image_size)
        return self._padded(resized, annotation, scale, np.array(image.size, np.float32))

    def _augmented(
        self, augmentation: Augmentation, index: int, rng: np.random.Generator
    ) -> Example:
        def load(i: int) -> tuple[Image.Image, Annotation]:
            try:
                return self.images.load(i, rng)
            except UserError as error:
                if i == index:
                    raise
                # The image of a mosaic that cannot be read is replaced by the first one.
                self.skip(i, str(error))
                return self.images.load(index, rng)

        image, annotation = augmentation(load, index, len(self), self.image_size, rng)
        return self._padded(image, annotation, np.ones(2, np.float32), np.array(image.size))

    def _padded(
        self, image: Image.Image, annotation: Annotation, scale: np.ndarray, size: np.ndarray
    ) -> Example:
        if len(annotation.boxes) > self.max_objects:
            sides = annotation.boxes[:, 2:] - annotation.boxes[:, :2]
            # Crowds are dropped first, as they are no training targets.
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
