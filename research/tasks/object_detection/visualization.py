"""Detections drawn on an image, for `predict`; and where the labels of boxes are written."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Light, since black letters stand on them; lines get a dark edge to be seen on light images.
_PALETTE = (
    *("#ff6b6b", "#ffd43b", "#69db7c", "#4dabf7", "#da77f2", "#ff922b"),
    *("#38d9a9", "#f783ac", "#a9e34b", "#66d9e8", "#b197fc", "#dcb48c"),
)


def draw_detections(
    image: Image.Image, boxes: np.ndarray, labels: Sequence[str], scores: np.ndarray
) -> Image.Image:
    """A copy of an image with detections drawn on it, lines and letters in proportion to it.

    Args:
      image: RGB.
      boxes: [detections, 4] in its pixels.
      labels: their class names; each has a colour, the same in every image.
      scores: [detections].
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    longer = max(image.size)
    line, letters = max(round(longer / 250), 1), max(round(longer / 50), 10)
    font = ImageFont.load_default(size=letters)
    texts = [f"{label} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    colours = [_PALETTE[sum(label.encode()) % len(_PALETTE)] for label in labels]
    sizes = [(font.getlength(text) + letters / 2, 1.2 * letters) for text in texts]
    places = label_places(boxes, sizes, np.array(image.size))
    for box, colour in zip(boxes, colours, strict=True):
        _draw_box(pen, box, colour, line)
    for text, colour, size, place in zip(texts, colours, sizes, places, strict=True):
        pen.rectangle((*place, *(place + size)), fill=colour)
        centre = (place + np.array(size) / 2).round()  # between pixels letters are blurred
        pen.text(tuple(centre), text, fill="black", font=font, anchor="mm")
    return drawn


def _draw_box(pen: ImageDraw.ImageDraw, box: np.ndarray, colour: str, line: int) -> None:
    """A line within the box, and if it is not a thin one, a dark edge on both sides of it."""
    x_min, y_min, x_max, y_max = box.round().tolist()
    x_max, y_max = max(x_max - 1, x_min), max(y_max - 1, y_min)  # the last pixels within
    edge = line // 2
    around = (x_min - edge, y_min - edge, x_max + edge, y_max + edge)
    pen.rectangle(around, outline="black", width=line + 2 * edge)
    pen.rectangle((x_min, y_min, x_max, y_max), outline=colour, width=line)


def label_places(
    boxes: Iterable[np.ndarray], sizes: Sequence[tuple[float, float]], canvas: np.ndarray
) -> list[np.ndarray]:
    """Where to write the label of each box: the upper left corners (x, y).

    A label lies at its box, above or beneath it if there is room, where it hides the least of the
    boxes and of the labels before it.

    Args:
      boxes: [4] each.
      sizes: widths and heights of the labels.
      canvas: width and height of the image, which labels do not leave.
    """
    boxes, placed = list(boxes), list[np.ndarray]()
    for (x_min, y_min, x_max, y_max), (width, height) in zip(boxes, sizes, strict=True):
        size = np.array([width, height])
        corners = [
            *((x_min, y_min - height), (x_max - width, y_min - height)),
            *((x_min, y_max), (x_max - width, y_max)),
            *((x_min, y_min), (x_max - width, y_max - height)),
        ]
        inside = np.clip(corners, 0, np.maximum(canvas - size, 0))
        candidates = np.concatenate([inside, inside + size], axis=1)
        # Letters under letters can be read no more; a box may well be covered a little.
        hidden = _hidden(boxes, candidates) + 3 * _hidden(placed, candidates)
        placed.append(candidates[hidden.round(2).argmin()])
    return [place[:2] for place in placed]


def _hidden(below: Sequence[np.ndarray], above: np.ndarray) -> np.ndarray:
    """The part of each box [4] below that lies under a box [boxes, 4] above, summed: [boxes]."""
    under = np.array(below).reshape(-1, 1, 4)
    low = np.maximum(under[..., :2], above[:, :2])
    high = np.minimum(under[..., 2:], above[:, 2:])
    covered = np.maximum(high - low, 0).prod(axis=-1)
    return (covered / np.maximum((under[..., 2:] - under[..., :2]).prod(axis=-1), 1e-9)).sum(axis=0)
