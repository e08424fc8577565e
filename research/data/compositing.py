"""Compositing of images: handwritten digits over photographs."""

from functools import cache

import numpy as np
from PIL import Image, ImageOps

_MIN_INK = 64  # of 255: fainter pixels are invisible and cropped
_OPAQUE_INK = 160  # of 255: this intensity and higher ones are opaque
_MIN_CONTRAST = 80  # of 255: difference in brightness between a digit and its background


def photograph_crop(size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random crop of one of scikit-learn's photographs, randomly mirrored.

    Args:
      size: height and width of the result, in pixels.
      rng: the random generator.

    Returns:
      uint8 [size, size, 3].
    """
    photograph = _photographs()[int(rng.integers(2))]
    largest = min(photograph.size)
    side = int(rng.integers(min(size // 2, largest), largest + 1))
    x, y = rng.integers(0, np.subtract(photograph.size, side) + 1)
    box = (x, y, x + side, y + side)
    part = photograph.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return np.array(ImageOps.mirror(part) if rng.random() < 0.5 else part)


def random_size(
    glyph: np.ndarray, heights: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Scales a glyph at random and crops it to its ink.

    Args:
      glyph: ink uint8 [8, 8]; 255 is opaque.
      heights: minimum and maximum height of the scaled glyph, in pixels.
      rng: the random generator.

    Returns:
      Ink uint8 [height, width].
    """
    height = int(rng.integers(heights[0], heights[1] + 1))
    large = np.asarray(Image.fromarray(glyph).resize((height, height), Image.Resampling.BICUBIC))
    rows, columns = np.nonzero(large >= _MIN_INK)
    top, bottom, left, right = np.min(rows), np.max(rows), np.min(columns), np.max(columns)
    return large[top : bottom + 1, left : right + 1]


def paste(
    scene: np.ndarray, ink: np.ndarray, corner: tuple[int, int], rng: np.random.Generator
) -> None:
    """Draws ink into a scene, in a random colour that contrasts with the background.

    Args:
      scene: uint8 [height, width, 3], modified in place.
      ink: uint8 [height, width].
      corner: x and y of the ink's upper left corner, in pixels.
      rng: the random generator.
    """
    x, y = corner
    background = scene[y : y + ink.shape[0], x : x + ink.shape[1]]
    brightness, colour = background.mean(), rng.integers(0, 256, size=3)
    while abs(colour.mean() - brightness) < _MIN_CONTRAST:
        colour = rng.integers(0, 256, size=3)
    opacity = np.minimum(ink[..., None] / _OPAQUE_INK, 1)
    background[...] = np.round(opacity * colour + (1 - opacity) * background)


@cache
def _photographs() -> tuple[Image.Image, ...]:
    from sklearn.datasets import load_sample_image  # takes a second to import

    return tuple(Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
