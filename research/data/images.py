"""Image files on the host: decoding, and fitting to a fixed size."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from research.common.errors import UserError
from research.common.files import write_whole
from research.common.storage import AnyPath

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB"}
_RESIZE = Image.Resampling.BILINEAR


def decode(data: bytes | Path, channels: int) -> Image.Image:
    """An image with 1 (grey) or 3 (RGB) channels.

    Raises:
      UserError: the bytes, or the file, are no image that Pillow can read, or are damaged.
    """
    name = str(data) if isinstance(data, Path) else f"{len(data)} bytes"
    try:
        opened = Image.open(data if isinstance(data, Path) else io.BytesIO(data))
        image = ImageOps.exif_transpose(opened)  # cameras store an image as it came, and its turn
        if image.mode.startswith("I"):  # Pillow cuts 16 bits off at 255
            image = Image.fromarray((np.asarray(image) / 256).clip(0, 255).astype(np.uint8))
        return image.convert(_MODES[channels])
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except Exception as error:  # damaged files raise whatever their decoder stumbles over
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{name}: cannot be read as an image ({reason})") from None


def image_size(data: bytes | Path) -> tuple[int, int]:
    """Width and height of what `decode` makes of an image, if possible from its header alone.

    Raises:
      UserError: it cannot be read as an image.
    """
    try:
        with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as image:
            # From 5 to 8 the camera was held upright: lines of the file are columns to look at.
            upright = image.getexif().get(ExifTags.Base.Orientation) in range(5, 9)
            return image.size[::-1] if upright else image.size
    except Exception:  # `decode` says what is wrong with it
        return decode(data, 3).size


def save_image(path: AnyPath, image: Image.Image) -> None:
    """Writes an image atomically, in the format of its suffix, and creates its folder.

    Raises:
      UserError: the path cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[path.suffix])
    write_whole(path, buffer.getvalue())


def to_array(image: Image.Image) -> np.ndarray:
    """[height, width, channels] uint8."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def fit(image: Image.Image, height: int, width: int, crop_fraction: float) -> Image.Image:
    """The central `crop_fraction` of an image at a fixed size, its proportions kept.

    1 takes the largest window of the target's proportions; ImageNet's custom is 0.875.
    """
    if image.size == (width, height):
        return image
    scale = crop_fraction * min(image.width / width, image.height / height)
    window_width, window_height = scale * width, scale * height
    left, top = (image.width - window_width) / 2, (image.height - window_height) / 2
    return _resize(image, (left, top, window_width, window_height), height, width)


def random_resized_crop(
    image: Image.Image, height: int, width: int, smallest: float, rng: np.random.Generator
) -> Image.Image:
    """A window of random area and proportions (3:4 to 4:3) at a fixed size (Szegedy et al. 2014).

    Args:
      image: any size.
      height: of the result, in pixels.
      width: of the result, in pixels.
      smallest: least fraction of the image's area that the window may have.
      rng: where the window comes from.
    """
    for _ in range(10):
        area = image.width * image.height * rng.uniform(smallest, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3))) * width / height
        window_width, window_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if window_width <= image.width and window_height <= image.height:
            left = rng.uniform(0, image.width - window_width)
            top = rng.uniform(0, image.height - window_height)
            return _resize(image, (left, top, window_width, window_height), height, width)
    return fit(image, height, width, 1.0)


def _resize(
    image: Image.Image, window: tuple[float, float, float, float], height: int, width: int
) -> Image.Image:
    """The window (left, top, width, height) of an image at another size."""
    left, top = max(window[0], 0.0), max(window[1], 0.0)
    # Rounding may put an edge a hair outside, which Pillow refuses.
    right, bottom = min(left + window[2], image.width), min(top + window[3], image.height)
    return image.resize((width, height), _RESIZE, box=(left, top, right, bottom), reducing_gap=2.0)
