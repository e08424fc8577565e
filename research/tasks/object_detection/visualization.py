"""Drawing of detections onto an image, and placement of box labels."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Light colours, for black text; lines get a dark outline for contrast on light images.
_PALETTE = (
    *("#ff6b6b", "#ffd43b", "#69db7c", "#4dabf7", "#da77f2", "#ff922b"),
    *("#38d9a9", "#f783ac", "#a9e34b", "#66d9e8", "#b197fc", "#dcb48c"),
)


def draw_detections(
    image: Image.Image, boxes: np.ndarray, labels: Sequence[str], scores: np.ndarray
) -> Image.Image:
    """Draws detections onto a copy of an image; lines and text scale with the image.

    Args:
      image: RGB.
      boxes: [detections, 4] in pixels.
      labels: class names; the colour of a class is the same in every image.
      scores: [detections].
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    longer = max(image.size)
    line_width, font_size = max(round(longer / 250), 1), max(round(longer / 50), 10)
    font = ImageFont.load_default(size=font_size)
    texts = [f"{label} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    colors = [_PALETTE[sum(label.encode()) % len(_PALETTE)] for label in labels]
    sizes = [(font.getlength(text) + font_size / 2, 1.2 * font_size) for text in texts]
    corners = place_labels(boxes, sizes, np.array(image.size))
    for box, color in zip(boxes, colors, strict=True):
        _draw_box(pen, box, color, line_width)
    for text, color, size, corner in zip(texts, colors, sizes, corners, strict=True):
        pen.rectangle((*corner, *(corner + size)), fill=color)
        centre = (corner + np.array(size) / 2).round()  # whole pixels keep the text sharp
        pen.text(tuple(centre), text, fill="black", font=font, anchor="mm")
    return drawn


def _draw_box(pen: ImageDraw.ImageDraw, box: np.ndarray, color: str, line_width: int) -> None:
    """Draws a line within the box, with a dark outline unless it is thin."""
    x_min, y_min, x_max, y_max = box.round().tolist()
    x_max, y_max = max(x_max - 1, x_min), max(y_max - 1, y_min)  # the last pixels inside
    edge = line_width // 2
    around = (x_min - edge, y_min - edge, x_max + edge, y_max + edge)
    pen.rectangle(around, outline="black", width=line_width + 2 * edge)
    pen.rectangle((x_min, y_min, x_max, y_max), outline=color, width=line_width)


def place_labels(
    boxes: Iterable[np.ndarray], sizes: Sequence[tuple[float, float]], canvas: np.ndarray
) -> list[np.ndarray]:
    """Chooses the position of each box's label so that it covers little of other boxes and labels.

    Candidate positions are at the corners of the box, above, below or inside it.

    Args:
      boxes: [4] each.
      sizes: width and height of each label.
      canvas: width and height of the image; labels lie within it.

    Returns:
      The upper left corner (x, y) of each label.
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
        # Covering another label is worse than covering a part of a box: its text is unreadable.
        cost = _covered(boxes, candidates) + 3 * _covered(placed, candidates)
        placed.append(candidates[cost.round(2).argmin()])
    return [label[:2] for label in placed]


def _covered(below: Sequence[np.ndarray], above: np.ndarray) -> np.ndarray:
    """Sums the fractions of the boxes [4] below that each box [boxes, 4] above covers: [boxes]."""
    under = np.array(below).reshape(-1, 1, 4)
    low = np.maximum(under[..., :2], above[:, :2])
    high = np.minimum(under[..., 2:], above[:, 2:])
    covered = np.maximum(high - low, 0).prod(axis=-1)
    return (covered / np.maximum((under[..., 2:] - under[..., :2]).prod(axis=-1), 1e-9)).sum(axis=0)
