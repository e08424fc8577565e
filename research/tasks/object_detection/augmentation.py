"""Augmentation of images and boxes on the host: pure functions of a random generator."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from research.common.config import renamed_from
from research.common.errors import ConfigError
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.transforms import (
    canvas,
    fitting_scale,
    horizontal_flip,
    paste,
    scaled_size,
    vertical_flip,
)

Load = Callable[[int], tuple[Image.Image, Annotation]]


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images; the defaults leave images unchanged."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Minimum and maximum of a random scale, relative to the scale at which the whole image fits.
    A larger image is cropped at random; a smaller one is padded on all sides at random."""

    horizontal_flip: bool = renamed_from("flip", default=False)
    """Mirror images left to right, with probability 0.5."""

    vertical_flip: bool = renamed_from("flip_vertically", default=False)
    """Mirror images top to bottom, with probability 0.5; for images without an upright orientation,
    such as microscopy and aerial images."""

    color_jitter: float = renamed_from("colour", default=0.0)
    """Scale brightness, contrast and saturation by random factors in 1 ± `color_jitter`."""

    mosaic_probability: float = renamed_from("mosaic", default=0.0)
    """Probability of a mosaic of four images (Bochkovskiy et al. 2020)."""

    def __post_init__(self):
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            problem = f"invalid value {self.scale}: expected 0 < minimum <= maximum"
            raise ConfigError("scale", problem)
        for key in ("color_jitter", "mosaic_probability"):
            if not 0 <= getattr(self, key) <= 1:
                problem = f"invalid value {getattr(self, key)}: expected a number in [0, 1]"
                raise ConfigError(key, problem)

    def __call__(
        self,
        load: Load,
        index: int,
        num_images: int,
        image_size: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[Image.Image, Annotation]:
        """Returns an augmented image and its objects.

        Args:
          load: returns an image and its objects, by index.
          index: of the image to augment.
          num_images: number of images that a mosaic samples from.
          image_size: height and width of the result.
          rng: source of all randomness.
        """
        background = canvas(image_size)
        if rng.random() < self.mosaic_probability:
            indices = [index, *rng.integers(num_images, size=3).tolist()]
            annotation = self._mosaic(background, [load(i) for i in indices], rng)
        else:
            region = (0, 0, *background.size)
            annotation = self._paste_randomly(background, *load(index), region, rng)
        return self._jitter_color(background, rng), annotation

    def _mosaic(
        self,
        background: Image.Image,
        loaded: list[tuple[Image.Image, Annotation]],
        rng: np.random.Generator,
    ) -> Annotation:
        """Pastes four images into the quadrants around a random point near the centre."""
        width, height = background.size
        x = int(rng.integers(width // 4, width - width // 4 + 1))
        y = int(rng.integers(height // 4, height - height // 4 + 1))
        regions = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        parts = [
            self._paste_randomly(background, *one, region, rng)
            for one, region in zip(loaded, regions, strict=True)
        ]
        return Annotation(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _paste_randomly(
        self,
        background: Image.Image,
        image: Image.Image,
        annotation: Annotation,
        region: tuple[int, int, int, int],
        rng: np.random.Generator,
    ) -> Annotation:
        """Pastes an image into a region with random flips, scale and offset."""
        if self.horizontal_flip and rng.random() < 0.5:
            image, annotation = horizontal_flip(image, annotation)
        if self.vertical_flip and rng.random() < 0.5:
            image, annotation = vertical_flip(image, annotation)
        jitter = np.exp(rng.uniform(*np.log(self.scale)))
        size = scaled_size(image, fitting_scale(image, background.size[::-1]) * jitter)
        # A smaller image lies anywhere within the region; of a larger one, any window is visible.
        x, y = (
            int(rng.integers(min(low, high - length), max(low, high - length) + 1))
            for low, high, length in zip(region[:2], region[2:], size, strict=True)
        )
        return paste(background, image, annotation, size, (x, y), region)

    def _jitter_color(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if self.color_jitter:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                factor = 1 + rng.uniform(-self.color_jitter, self.color_jitter)
                image = enhance(image).enhance(factor)
        return image
