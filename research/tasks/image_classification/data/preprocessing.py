"""Preprocessing of encoded images: decoding, cropping and resizing."""

from pathlib import Path
from typing import Protocol

import numpy as np

from research.common.errors import ConfigError
from research.data.images import decode, random_resized_crop, resized_center_crop, to_array


class Preprocessing(Protocol):
    """Config keys of a source for cropping and resizing its images."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels (1 or 3)."""

    @property
    def random_resized_crop(self) -> float:
        """Minimum area of random crops, as a fraction of the image's; 0 disables them."""

    @property
    def crop_fraction(self) -> float:
        """Side of the central crop, as a fraction of the largest one."""


def check_preprocessing(source: Preprocessing) -> None:
    """Checks the ranges of the config keys.

    Raises:
      ConfigError: a value is out of range.
    """
    height, width, channels = source.image_shape
    if height < 1 or width < 1 or channels not in (1, 3):
        problem = f"invalid shape {source.image_shape}: expected (height, width, 1 or 3)"
        raise ConfigError("image_shape", problem)
    if not 0 <= source.random_resized_crop <= 1:
        problem = f"invalid area {source.random_resized_crop}: expected a number in [0, 1]"
        raise ConfigError("random_resized_crop", problem)
    if not 0 < source.crop_fraction <= 1:
        problem = f"invalid fraction {source.crop_fraction}: expected a number in (0, 1]"
        raise ConfigError("crop_fraction", problem)


def load_image(
    data: bytes | Path, source: Preprocessing, augment: bool, rng: np.random.Generator
) -> np.ndarray:
    """Decodes an image and resizes a crop of it.

    Args:
      data: an encoded image, or its path.
      source: the config of cropping and resizing.
      augment: whether the crop is random, where the source enables that, or central.
      rng: for the random crop.

    Returns:
      uint8 of `source.image_shape`.

    Raises:
      UserError: the image cannot be read.
    """
    height, width, channels = source.image_shape
    image = decode(data, channels)
    if augment and source.random_resized_crop:
        crop = random_resized_crop(image, height, width, source.random_resized_crop, rng)
        return to_array(crop)
    return to_array(resized_center_crop(image, height, width, source.crop_fraction))
