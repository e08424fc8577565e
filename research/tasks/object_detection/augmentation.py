"""Augmentation of images and boxes together, on the host: pure functions of a generator."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from research.common.errors import ConfigError
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.transforms import canvas, fitting_scale, paste, scaled_size

Load = Callable[[int], tuple[Image.Image, Annotation]]


@dataclass(frozen=True)
class Augmentation:
    """What is done to the training images. By default nothing."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Least and greatest factor beside that at which the whole image fits. Where it does not fit, a
    window of it is taken; where it leaves room, the image lies somewhere on grey."""

    flip: bool = False
    """Mirror half of the images left to right."""

    flip_vertically: bool = False
    """Turn half of them upside down, for what has no up, such as cells and aerial pictures."""

    colour: float = 0.0
    """Change brightness, contrast and saturation each by a factor of up to 1 ± this."""

    mosaic: float = 0.0
    """The part of the examples that are put together of four images (Bochkovskiy et al. 2020)."""

    def __post_init__(self):
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError("scale", f"must be (least, greatest), positive, is {self.scale}")
        for key in ("colour", "mosaic"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(key, f"must lie in [0, 1], is {getattr(self, key)}")

    def __call__(
        self,
        load: Load,
        index: int,
        others: int,
        image_size: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[Image.Image, Annotation]:
        """An image of `image_size` (height, width) and its objects.

        Args:
          load: an image and its objects, by index.
          index: of the image to augment.
          others: the number of images that a mosaic may take further ones of.
          image_size: height and width of the result.
          rng: where all that is random comes from.
        """
        below = canvas(image_size)
        if rng.random() < self.mosaic:
            indices = [index, *rng.integers(others, size=3).tolist()]
            annotation = self._mosaic(below, [load(i) for i in indices], rng)
        else:
            annotation = self._place(below, *load(index), (0, 0, *below.size), rng)
        return self._recoloured(below, rng), annotation

    def _mosaic(
        self,
        below: Image.Image,
        loaded: list[tuple[Image.Image, Annotation]],
        rng: np.random.Generator,
    ) -> Annotation:
        """Four images in the quadrants around a point near the middle."""
        width, height = below.size
        x = int(rng.integers(width // 4, width - width // 4 + 1))
        y = int(rng.integers(height // 4, height - height // 4 + 1))
        regions = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        parts = [
            self._place(below, *one, region, rng)
            for one, region in zip(loaded, regions, strict=True)
        ]
        return Annotation(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _place(
        self,
        below: Image.Image,
        image: Image.Image,
        annotation: Annotation,
        region: tuple[int, int, int, int],
        rng: np.random.Generator,
    ) -> Annotation:
        """Draws an image, perhaps mirrored, at a random scale and place into a region."""
        if self.flip and rng.random() < 0.5:
            image, annotation = mirrored(image, annotation)
        if self.flip_vertically and rng.random() < 0.5:
            image, annotation = upside_down(image, annotation)
        jitter = np.exp(rng.uniform(*np.log(self.scale)))
        size = scaled_size(image, fitting_scale(image, below.size[::-1]) * jitter)
        # Where there is room, anywhere in it; where there is none, any window.
        x, y = (
            int(rng.integers(min(low, high - length), max(low, high - length) + 1))
            for low, high, length in zip(region[:2], region[2:], size, strict=True)
        )
        return paste(below, image, annotation, size, (x, y), region)

    def _recoloured(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if self.colour:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhance(image).enhance(1 + rng.uniform(-self.colour, self.colour))
        return image


def mirrored(image: Image.Image, annotation: Annotation) -> tuple[Image.Image, Annotation]:
    """Left is right."""
    boxes = annotation.boxes
    x_min, x_max = image.width - boxes[:, 2], image.width - boxes[:, 0]
    boxes = np.stack([x_min, boxes[:, 1], x_max, boxes[:, 3]], axis=1)
    return ImageOps.mirror(image), annotation._replace(boxes=boxes)


def upside_down(image: Image.Image, annotation: Annotation) -> tuple[Image.Image, Annotation]:
    """Up is down."""
    boxes = annotation.boxes
    y_min, y_max = image.height - boxes[:, 3], image.height - boxes[:, 1]
    boxes = np.stack([boxes[:, 0], y_min, boxes[:, 2], y_max], axis=1)
    return ImageOps.flip(image), annotation._replace(boxes=boxes)
