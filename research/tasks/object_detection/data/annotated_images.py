"""Images with object annotations."""

import abc
from collections.abc import Sequence

import numpy as np
from PIL import Image

from research.tasks.object_detection.boxes import Annotation


class AnnotatedImages(abc.ABC):
    """Images of any size with the objects in each, read from several threads at once."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def image(self, index: int) -> Image.Image:
        """Returns an RGB image.

        Raises:
          UserError: the image is missing or cannot be decoded.
        """

    @abc.abstractmethod
    def annotation(self, index: int) -> Annotation:
        """Returns the objects of an image, with boxes of positive area within the image."""

    def load(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[Image.Image, Annotation]:
        """Returns an image and its objects.

        Args:
          index: of the image.
          rng: for synthetic images, which are then new samples; None for the fixed images that
            `image` and `annotation` return.
        """
        return self.image(index), self.annotation(index)


class AnnotatedSubset(AnnotatedImages):
    """A subset of other annotated images, in the order of `indices`."""

    def __init__(self, parent: AnnotatedImages, indices: Sequence[int] | np.ndarray):
        self.parent, self.indices = parent, indices

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self.parent.image(int(self.indices[index]))

    def annotation(self, index: int) -> Annotation:
        return self.parent.annotation(int(self.indices[index]))

    def load(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[Image.Image, Annotation]:
        return self.parent.load(int(self.indices[index]), rng)
