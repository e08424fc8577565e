"""Geometric transforms of an image together with its boxes.

Sizes and offsets are whole pixels, so that boxes stay exact.
"""

import numpy as np
from PIL import Image, ImageOps

from research.tasks.object_detection.boxes import Annotation

GREY = (114, 114, 114)  # padding
_MIN_VISIBLE = 0.3  # fraction of an object's area; truncated further, it is ignored as a crowd


def canvas(image_size: tuple[int, int]) -> Image.Image:
    """Returns a grey image; `image_size` is (height, width)."""
    return Image.new("RGB", image_size[::-1], GREY)


def fitting_scale(image: Image.Image, image_size: tuple[int, int]) -> float:
    """Returns the largest scale at which an image fits into `image_size`, (height, width)."""
    return min(image_size[0] / image.height, image_size[1] / image.width)


def scaled_size(image: Image.Image, scale: float) -> tuple[int, int]:
    """Returns the scaled width and height in whole pixels, at least 1."""
    return max(round(image.width * scale), 1), max(round(image.height * scale), 1)


def letterbox(
    image: Image.Image, annotation: Annotation, image_size: tuple[int, int]
) -> tuple[Image.Image, Annotation, np.ndarray]:
    """Resizes an image to fit into `image_size` and pads it at the right and bottom.

    Args:
      image: of any size.
      annotation: its objects.
      image_size: height and width of the result.

    Returns:
      The padded image; its objects; and the scale factors of x and y, [2] float32.
    """
    background = canvas(image_size)
    size = scaled_size(image, fitting_scale(image, image_size))
    pasted = paste(background, image, annotation, size, (0, 0), (0, 0, *background.size))
    return background, pasted, np.divide(size, image.size).astype(np.float32)


def paste(
    background: Image.Image,
    image: Image.Image,
    annotation: Annotation,
    size: tuple[int, int],
    corner: tuple[int, int],
    region: tuple[int, int, int, int],
) -> Annotation:
    """Resizes an image and pastes it into a region of `background`, in place.

    Args:
      background: the image to paste onto.
      image: the image to paste.
      annotation: its objects, in its own pixels.
      size: width and height that it is resized to.
      corner: x and y of its upper left corner on the background; may be negative.
      region: the box (x_min, y_min, x_max, y_max) of the background to paste into.

    Returns:
      The objects in pixels of the background, clipped to the region. Those truncated to less than
      30 % of their area are marked as crowds, those thinner than a pixel are removed.
    """
    factors = np.divide(size, image.size)
    left, top = max(corner[0], region[0]), max(corner[1], region[1])
    right = min(corner[0] + size[0], region[2])
    bottom = min(corner[1] + size[1], region[3])
    if left < right and top < bottom:
        window = (np.reshape((left, top, right, bottom), (2, 2)) - corner) / factors
        # Pillow refuses a window that exceeds the image by a rounding error.
        x_min, y_min, x_max, y_max = np.clip(window, 0, image.size).ravel().tolist()
        part = image.resize(
            (right - left, bottom - top),
            Image.Resampling.BILINEAR,
            box=(x_min, y_min, x_max, y_max),
            reducing_gap=2.0,
        )
        background.paste(part, (left, top))
    whole = annotation.boxes * np.tile(factors, 2) + np.tile(corner, 2)
    clipped = np.clip(whole, (left, top, left, top), (right, bottom, right, bottom))
    sides = np.maximum(clipped[:, 2:] - clipped[:, :2], 0)
    fraction = sides.prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1)
    crowd = annotation.crowd | (fraction < _MIN_VISIBLE)
    kept = (sides >= 1).all(axis=1)
    return Annotation(clipped.astype(np.float32), annotation.labels, crowd).select(kept)


def horizontal_flip(image: Image.Image, annotation: Annotation) -> tuple[Image.Image, Annotation]:
    """Mirrors an image and its boxes left to right."""
    boxes = annotation.boxes
    x_min, x_max = image.width - boxes[:, 2], image.width - boxes[:, 0]
    boxes = np.stack([x_min, boxes[:, 1], x_max, boxes[:, 3]], axis=1)
    return ImageOps.mirror(image), annotation._replace(boxes=boxes)


def vertical_flip(image: Image.Image, annotation: Annotation) -> tuple[Image.Image, Annotation]:
    """Mirrors an image and its boxes top to bottom."""
    boxes = annotation.boxes
    y_min, y_max = image.height - boxes[:, 3], image.height - boxes[:, 1]
    boxes = np.stack([boxes[:, 0], y_min, boxes[:, 2], y_max], axis=1)
    return ImageOps.flip(image), annotation._replace(boxes=boxes)
