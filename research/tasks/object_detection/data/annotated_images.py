"""Images with object annotations."""

import abc
from collections.abc import Sequence

import numpy as np
from PIL import Image

from research.tasks.object_detection.boxes import Annotation


class AnnotatedImages(abc.ABC):
    """Images of any size, each with the objects in it; read from several threads."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def image(self, index: int) -> Image.Image:
        """An image, RGB.

        Raises:
          UserError: it is not there or cannot be decoded; names it.
        """

    @abc.abstractmethod
    def annotation(self, index: int) -> Annotation:
        """The objects of an image, in its own pixels, all boxes within it and not empty."""

    def load(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[Image.Image, Annotation]:
        """An image and its objects; what is made on the fly may make others of `rng`, if given."""
        return self.image(index), self.annotation(index)


class Part(AnnotatedImages):
    """Some of other annotated images, in the order of `indices`."""

    def __init__(self, whole: AnnotatedImages, indices: Sequence[int]):
        self.whole, self.indices = whole, indices

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self.whole.image(self.indices[index])

    def annotation(self, index: int) -> Annotation:
        return self.whole.annotation(self.indices[index])

    def load(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[Image.Image, Annotation]:
        return self.whole.load(self.indices[index], rng)
