"""Images at another size and place, and their boxes with them.

An image is resized to whole pixels and laid at whole pixels, so a box follows its pixels exactly.
"""

import numpy as np
from PIL import Image

from research.tasks.object_detection.boxes import Annotation

GREY = (114, 114, 114)  # what lies where no image does
_VISIBLE = 0.3  # of an object's area; what is cut off further is neither learned nor background


def canvas(image_size: tuple[int, int]) -> Image.Image:
    """A grey image of that height and width."""
    return Image.new("RGB", image_size[::-1], GREY)


def fitting_scale(image: Image.Image, image_size: tuple[int, int]) -> float:
    """The greatest factor at which the whole image fits into that height and width."""
    return min(image_size[0] / image.height, image_size[1] / image.width)


def scaled_size(image: Image.Image, scale: float) -> tuple[int, int]:
    """Width and height in whole pixels, at least one."""
    return max(round(image.width * scale), 1), max(round(image.height * scale), 1)


def letterbox(
    image: Image.Image, annotation: Annotation, image_size: tuple[int, int]
) -> tuple[Image.Image, Annotation, np.ndarray]:
    """The whole image, its proportions kept, at the upper left of a canvas.

    Returns:
      The canvas; the objects in its pixels; and the factors [2] float32 of x and y.
    """
    below = canvas(image_size)
    size = scaled_size(image, fitting_scale(image, image_size))
    placed = paste(below, image, annotation, size, (0, 0), (0, 0, *below.size))
    return below, placed, np.divide(size, image.size).astype(np.float32)


def paste(
    below: Image.Image,
    image: Image.Image,
    annotation: Annotation,
    size: tuple[int, int],
    corner: tuple[int, int],
    region: tuple[int, int, int, int],
) -> Annotation:
    """Draws an image onto the canvas `below`, and says where its objects are then.

    Args:
      below: what is drawn on.
      image: what is drawn.
      annotation: its objects, in its own pixels.
      size: width and height that it is resized to.
      corner: x and y of its upper left on the canvas, which may be negative.
      region: the part (x_min, y_min, x_max, y_max) of the canvas that is drawn on.

    Returns:
      The objects that are seen in the region, in pixels of the canvas; those that are mostly cut
      off as crowds.
    """
    factors = np.divide(size, image.size)
    left, top = max(corner[0], region[0]), max(corner[1], region[1])
    right = min(corner[0] + size[0], region[2])
    bottom = min(corner[1] + size[1], region[3])
    if left < right and top < bottom:
        window = (np.reshape((left, top, right, bottom), (2, 2)) - corner) / factors
        # Rounding may put an edge a hair outside, which Pillow refuses.
        x_min, y_min, x_max, y_max = np.clip(window, 0, image.size).ravel().tolist()
        part = image.resize(
            (right - left, bottom - top),
            Image.Resampling.BILINEAR,
            box=(x_min, y_min, x_max, y_max),
            reducing_gap=2.0,
        )
        below.paste(part, (left, top))
    whole = annotation.boxes * np.tile(factors, 2) + np.tile(corner, 2)
    seen = np.clip(whole, (left, top, left, top), (right, bottom, right, bottom))
    sides = np.maximum(seen[:, 2:] - seen[:, :2], 0)
    fraction = sides.prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1)
    crowd = annotation.crowd | (fraction < _VISIBLE)
    # Less than a pixel of an object cannot be seen.
    kept = (sides >= 1).all(axis=1)
    return Annotation(seen.astype(np.float32), annotation.labels, crowd).select(kept)
