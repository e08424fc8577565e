"""Figures of detections and of precision; each function returns a matplotlib figure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from research.reporting.figures import DPI
from research.reporting.pages import (
    FAINT,
    FONT,
    INNER,
    LEFT,
    LETTER,
    LINE,
    TEXT,
    Band,
    shorten,
    stack,
)
from research.tasks.object_detection.average_precision import (
    RECALL,
    AveragePrecision,
    MatchedImage,
)
from research.tasks.object_detection.data import AnnotatedImages
from research.tasks.object_detection.visualization import place_labels

MAX_CURVES = 10  # classes; more colours are hard to distinguish
_COLORS = (
    *("#0969da", "#d1570c", "#1a7f37", "#8250df", "#bf3989"),
    *("#57606a", "#9a6700", "#1b9e9e", "#cf222e", "#54aeff"),
)


class _Style(NamedTuple):
    """Style of a kind of box."""

    color: str
    linestyle: str
    linewidth: float  # in points
    text_color: str  # of labels


_STYLES = {  # in drawing order; later ones are dashed or thin, so that they hide nothing
    "crowd": _Style("#c9d1d9", "--", 1.4, "black"),
    "true positive": _Style("#3fb950", "-", 1.4, "black"),
    "ground truth": _Style("white", ":", 0.9, "black"),
    "false positive": _Style("#f5a30a", "-", 1.4, "black"),
    "false negative": _Style("#cf222e", "--", 1.4, "white"),
}
_LEGEND_BACKGROUND = "#8b949e"  # white lines are invisible on white
_COLUMNS = 3  # images per row
_GAP = 0.14  # inches between images
_EDGE = LETTER - LEFT  # inches from the left end of a band to its headings
_WIDTH = (INNER - _EDGE + _GAP) / _COLUMNS - _GAP  # of an image, in inches
_MAX_PIXELS = round(DPI * _WIDTH)  # resolution of an image in a report
_LABEL: dict[str, Any] = FONT | {"fontsize": 7}
_LABEL_LETTER = 10 / DPI  # width of a letter in inches; a whole number of pixels is sharp
_LABEL_LINE = 0.13  # inches
_MAX_LABEL_LENGTH = 18  # letters


class Mark(NamedTuple):
    """A box to draw on an image."""

    kind: str  # a key of `_STYLES`
    box: np.ndarray  # [4]
    label: str  # "" for none


class Scene(NamedTuple):
    """An image with the boxes to draw on it."""

    heading: str
    image: Image.Image  # possibly downscaled
    size: tuple[int, int]  # width and height of the original, the coordinates of the boxes
    marks: Sequence[Mark]


def detection_grid(
    matched: Sequence[MatchedImage],
    images: AnnotatedImages,
    class_names: Sequence[str],
    threshold: float,
    ground_truth: bool,
) -> Figure:
    """Draws images with their detections and false negatives.

    Args:
      matched: the images to show.
      images: all images of the split.
      class_names: by label.
      threshold: minimum score of the detections in `matched`, for the legend.
      ground_truth: also draw the ground-truth boxes of detected objects.
    """
    scenes = []
    for one in matched:
        image, marks = images.image(one.image_index), _marks(one, class_names)
        if ground_truth:
            detected = ~(one.annotation.crowd | one.false_negatives)
            marks += [Mark("ground truth", box, "") for box in one.annotation.boxes[detected]]
        scenes.append(Scene(_heading(one), downscaled(image), image.size, marks))
    return scene_grid(scenes, f"score >= {threshold}, IoU threshold 0.5")


def _marks(image: MatchedImage, class_names: Sequence[str]) -> list[Mark]:
    annotation, detections = image.annotation, image.detections
    missed = annotation.select(annotation.crowd | image.false_negatives)
    marks = [
        Mark("crowd" if crowd else "false negative", box, class_names[label])
        for box, label, crowd in zip(*missed, strict=True)
    ]
    for box, score, label, index in zip(*detections, image.matched_object, strict=True):
        kind = "crowd" if index >= 0 and annotation.crowd[index] else "true positive"
        kind = "false positive" if index < 0 else kind
        marks.append(Mark(kind, box, f"{class_names[label]} {score:.2f}"))
    return marks


def _heading(image: MatchedImage) -> str:
    positives = int((~image.annotation.crowd).sum())
    false_negatives = int(image.false_negatives.sum())
    false_positives = int(image.false_positives.sum())
    true_positives = positives - false_negatives
    counts = f"{true_positives} TP, {false_positives} FP, {false_negatives} FN"
    return f"image {image.image_index}: {counts}"


def precision_recall_title(measured: AveragePrecision) -> str:
    """Returns the title of `precision_recall`, which states how many of the classes are drawn."""
    title, classes = "Precision-recall curves at IoU 0.5", len(measured.per_class)
    if classes > MAX_CURVES:
        title += f", of {MAX_CURVES} of {classes} classes, those with the most objects"
    return title


def precision_recall(measured: AveragePrecision) -> Figure:
    """Plots precision over recall at IoU 0.5, of each class and their mean.

    Of more than `MAX_CURVES` classes, those with the most objects are drawn.
    """
    classes = measured.per_class
    most = sorted(classes, key=lambda name: -classes[name].objects)[:MAX_CURVES]
    shown = [(name, one) for name, one in classes.items() if name in most]
    figure = Figure(figsize=(8.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for (name, one), color in zip(shown, _COLORS, strict=False):
        label = f"{one.ap50:.2f}  {shorten(name, _MAX_LABEL_LENGTH)} ({one.objects:,} objects)"
        axes.plot(*_attained(one.precision), color=color, linewidth=1.5, label=label)
    if len(classes) > 1:
        mean = np.mean([one.precision for one in classes.values()], axis=0)
        label = f"{measured.ap50:.2f}  mean of the {len(classes)} classes"
        axes.plot(*_attained(mean), color=TEXT, linewidth=2, linestyle="--", label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", title="AP50", frameon=False, alignment="left")
    return figure


def _attained(precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truncates a curve at the first recall that is not attained, where precision is 0."""
    end = np.count_nonzero(precision) + 1
    return RECALL[:end], precision[:end]


def downscaled(image: Image.Image) -> Image.Image:
    """Returns a copy, downscaled to the resolution of an image in a grid."""
    copy = image.copy()
    copy.thumbnail((_MAX_PIXELS, _MAX_PIXELS), reducing_gap=2.0)
    return copy


def scene_grid(scenes: Sequence[Scene], caption: str) -> Figure:
    """Draws images with boxes, three per row and scaled to equal size.

    Args:
      scenes: the images.
      caption: text of the legend.
    """
    kinds = {mark.kind for scene in scenes for mark in scene.marks}
    bands = [_legend([kind for kind in _STYLES if kind in kinds], caption)]
    for start in range(0, len(scenes), _COLUMNS):
        bands += [_row(scenes[start : start + _COLUMNS]), (0.2, None)]
    return stack(bands)


def _legend(kinds: Sequence[str], caption: str) -> Band:
    def draw(axes: Any) -> None:
        axes.axis("off")
        axes.set(xlim=(0, INNER), ylim=(2 * LINE, 0))
        left = _EDGE
        for kind in kinds:
            style = _STYLES[kind]
            corner, size = (left, 0.03), (0.28, LINE - 0.06)
            axes.add_patch(Rectangle(corner, *size, fc=_LEGEND_BACKGROUND, lw=0, clip_on=False))
            _outline(axes, style, corner, size)
            left += 0.36
            axes.text(left, LINE / 2, kind, va="center", color=TEXT, **FONT)
            left += (len(kind) + 2) * LETTER
        axes.text(left, LINE / 2, caption, va="center", color=FAINT, **FONT)

    return 2 * LINE, draw


def _row(scenes: Sequence[Scene]) -> Band:
    """A band of scenes, in coordinates of inches."""
    height = 1.3 * LINE + max(_scale(scene) * scene.size[1] for scene in scenes)

    def draw(axes: Any) -> None:
        for column, scene in enumerate(scenes):
            left = _EDGE + column * (_WIDTH + _GAP)
            axes.text(left, LINE / 2, scene.heading, va="center", color=TEXT, **FONT)
            _draw_scene(axes, scene, np.array([left, 1.3 * LINE]))
        axes.axis("off")
        axes.set(xlim=(0, INNER), ylim=(height, 0))

    return height, draw


def _scale(scene: Scene) -> float:
    """Returns the size of a pixel of the original in inches."""
    return _WIDTH / max(scene.size)


def _draw_scene(axes: Any, scene: Scene, corner: np.ndarray) -> None:
    scale = _scale(scene)
    size = scale * np.array(scene.size)
    (left, top), (right, bottom) = corner, corner + size
    extent = (left, right, bottom, top)
    axes.imshow(scene.image, extent=extent, clip_on=False)
    marks = sorted(scene.marks, key=lambda mark: list(_STYLES).index(mark.kind))
    boxes = [scale * mark.box for mark in marks]
    for mark, box in zip(marks, boxes, strict=True):
        _outline(axes, _STYLES[mark.kind], corner + box[:2], box[2:] - box[:2])
    labelled = [(mark, box) for mark, box in zip(marks, boxes, strict=True) if mark.label]
    texts = [shorten(mark.label, _MAX_LABEL_LENGTH) for mark, _ in labelled]
    sizes = [((len(text) + 0.6) * _LABEL_LETTER, _LABEL_LINE) for text in texts]
    offsets = place_labels([box for _, box in labelled], sizes, size)
    for (mark, _), text, label_size, offset in zip(labelled, texts, sizes, offsets, strict=True):
        _draw_label(axes, _STYLES[mark.kind], text, corner + offset, label_size)


def _draw_label(
    axes: Any, style: _Style, text: str, corner: np.ndarray, size: tuple[float, float]
) -> None:
    x, y = corner
    width, height = size
    axes.add_patch(Rectangle((x, y), width, height, fc=style.color, lw=0, clip_on=False))
    centred = {"ha": "center", "va": "center_baseline"}
    axes.text(x + width / 2, y + height / 2, text, color=style.text_color, **centred, **_LABEL)


def _outline(axes: Any, style: _Style, corner: Any, size: Any) -> None:
    box = Rectangle(corner, *size, fill=False, clip_on=False, ec=style.color, ls=style.linestyle)
    # A thin dark outline keeps the line visible on any image.
    edge = withStroke(linewidth=style.linewidth + 0.8, foreground="#00000080")
    box.set(linewidth=style.linewidth, path_effects=[edge])
    axes.add_patch(box)
