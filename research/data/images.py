"""Image files on the host: decoding, cropping, resizing and writing."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from research.common.errors import UserError
from research.common.files import write_atomically
from research.common.storage import AnyPath

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB"}
_RESIZE = Image.Resampling.BILINEAR


def decode(data: bytes | Path, channels: int) -> Image.Image:
    """Decodes an image, and applies the orientation of its EXIF data; transparency becomes white.

    Args:
      data: an encoded image, or its path.
      channels: of the result: 1 (grey) or 3 (RGB).

    Raises:
      UserError: the file is missing or damaged, or Pillow does not know its format.
    """
    name = str(data) if isinstance(data, Path) else f"{len(data)} bytes"
    try:
        encoded = Image.open(data if isinstance(data, Path) else io.BytesIO(data))
        image = ImageOps.exif_transpose(encoded)
        if image.mode.startswith("I"):  # Pillow would clip 16-bit values at 255
            image = Image.fromarray((np.asarray(image) / 256).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:  # Pillow would show the hidden colours, mostly black
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert(_MODES[channels])
    except IsADirectoryError:
        raise UserError(f"invalid image {name}: it is a folder; expected a file") from None
    except FileNotFoundError:
        raise UserError(f"cannot read image {name}: no such file") from None
    except Exception as error:  # the decoders of Pillow raise many types for damaged files
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown image format" if unknown else str(error)
        raise UserError(f"cannot read image {name}: {reason}") from None


def image_size(data: bytes | Path) -> tuple[int, int]:
    """Returns width and height of the decoded image, from the file header where possible.

    Args:
      data: an encoded image, or its path.

    Raises:
      UserError: the image cannot be read.
    """
    try:
        with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as image:
            # EXIF orientations 5 to 8 swap rows and columns.
            is_transposed = image.getexif().get(ExifTags.Base.Orientation) in range(5, 9)
            return image.size[::-1] if is_transposed else image.size
    except Exception:  # `decode` raises an error with the reason
        return decode(data, 3).size


def save_image(path: AnyPath, image: Image.Image) -> None:
    """Writes an image atomically, in the format of the path's suffix; creates the folder.

    Raises:
      UserError: the path cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[path.suffix])
    write_atomically(path, buffer.getvalue())


def to_array(image: Image.Image) -> np.ndarray:
    """Converts an image to a uint8 array [height, width, channels]."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def drawing_on_black(image: Image.Image) -> Image.Image:
    """Converts a drawing to white on black, and crops it to the square around its strokes.

    Args:
      image: grey; the median of its border is the background. Strokes are lighter or darker.
    """
    pixels = np.asarray(image, np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    strokes = np.abs(pixels - np.median(border))
    if not strokes.any():
        return image
    strokes *= 255 / strokes.max()
    rows, columns = np.nonzero(strokes > 127)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    cropped = Image.fromarray(strokes.round().astype(np.uint8)).crop(box)
    side = max(cropped.size)
    square = Image.new("L", (side, side))
    square.paste(cropped, ((side - cropped.width) // 2, (side - cropped.height) // 2))
    return square


def resized_center_crop(
    image: Image.Image, height: int, width: int, crop_fraction: float
) -> Image.Image:
    """Crops the centre of an image, with the aspect ratio of the result, and resizes the crop.

    An image that has the result's size already is returned unchanged.

    Args:
      image: of any size.
      height: of the result, in pixels.
      width: of the result, in pixels.
      crop_fraction: side of the crop, as a fraction of the largest crop with the result's aspect
        ratio; 0.875 is common for ImageNet.
    """
    if image.size == (width, height):
        return image
    scale = crop_fraction * min(image.width / width, image.height / height)
    crop_width, crop_height = scale * width, scale * height
    left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
    return _resize(image, (left, top, crop_width, crop_height), height, width)


def random_resized_crop(
    image: Image.Image, height: int, width: int, min_area: float, rng: np.random.Generator
) -> Image.Image:
    """Crops a random area with a random aspect ratio, and resizes it (Szegedy et al. 2014).

    Args:
      image: of any size.
      height: of the result, in pixels.
      width: of the result, in pixels.
      min_area: minimum area of the crop, as a fraction of the image's.
      rng: for the area, the aspect ratio (3:4 to 4:3 times the result's) and the position.
    """
    for _ in range(10):
        area = image.width * image.height * rng.uniform(min_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3))) * width / height
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= image.width and crop_height <= image.height:
            left = rng.uniform(0, image.width - crop_width)
            top = rng.uniform(0, image.height - crop_height)
            return _resize(image, (left, top, crop_width, crop_height), height, width)
    return resized_center_crop(image, height, width, 1.0)


def _resize(
    image: Image.Image, crop: tuple[float, float, float, float], height: int, width: int
) -> Image.Image:
    """Resizes the crop (left, top, width, height) of an image."""
    # Rounding errors can put an edge slightly outside of the image, which Pillow refuses.
    left, top = max(crop[0], 0.0), max(crop[1], 0.0)
    right, bottom = min(left + crop[2], image.width), min(top + crop[3], image.height)
    return image.resize((width, height), _RESIZE, box=(left, top, right, bottom), reducing_gap=2.0)
