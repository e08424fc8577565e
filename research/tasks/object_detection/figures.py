"""Pictures of a detector at work. Each function returns a matplotlib figure."""

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
from research.tasks.object_detection.visualization import label_places

MAX_CURVES = 10  # classes; more cannot be told apart
_CURVES = (
    *("#0969da", "#d1570c", "#1a7f37", "#8250df", "#bf3989"),
    *("#57606a", "#9a6700", "#1b9e9e", "#cf222e", "#54aeff"),
)


class _Style(NamedTuple):
    """How a kind of box is drawn."""

    colour: str
    line: str
    points: float  # the width of the line
    letters: str  # the colour of text on it


_STYLES = {  # those further down lie above the others, and let them be seen
    "crowd": _Style("#c9d1d9", "--", 1.4, "black"),
    "true positive": _Style("#3fb950", "-", 1.4, "black"),
    "ground truth": _Style("white", ":", 0.9, "black"),
    "false positive": _Style("#f5a30a", "-", 1.4, "black"),
    "false negative": _Style("#cf222e", "--", 1.4, "white"),
}
_PHOTOGRAPH = "#8b949e"  # stands for one in the legend: white lines are not seen on white
_ACROSS = 3  # images beside each other
_GAP = 0.14  # inches between them
_EDGE = LETTER - LEFT  # inches from a band's left end to where headings begin
_WIDTH = (INNER - _EDGE + _GAP) / _ACROSS - _GAP  # inches of an image
_SHARP = round(DPI * _WIDTH)  # pixels across an image that are seen in a report
_LABEL: dict[str, Any] = FONT | {"fontsize": 7}
_LABEL_LETTER = 10 / DPI  # inches; at this size letters are drawn with whole pixels
_LABEL_LINE = 0.13  # inches
_LONGEST_LABEL = 18  # letters


class Mark(NamedTuple):
    """A box in a scene."""

    kind: str  # a key of `_STYLES`
    box: np.ndarray  # [4]
    label: str  # "" for none


class Scene(NamedTuple):
    """What is shown of one image."""

    heading: str
    image: Image.Image  # the original, or the same with fewer pixels
    size: tuple[int, int]  # width and height of the original, in whose pixels the boxes are
    marks: Sequence[Mark]


def detection_grid(
    matched: Sequence[MatchedImage],
    images: AnnotatedImages,
    class_names: Sequence[str],
    threshold: float,
    ground_truth: bool,
) -> Figure:
    """Images with their detections and missed objects.

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
        scenes.append(Scene(_heading(one), reduced(image), image.size, marks))
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
    """Precision over recall at IoU 0.5, of each class and their mean.

    Of many classes, the ten with the most objects are drawn.
    """
    classes = measured.per_class
    most = sorted(classes, key=lambda name: -classes[name].objects)[:MAX_CURVES]
    shown = [(name, one) for name, one in classes.items() if name in most]
    figure = Figure(figsize=(8.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for (name, one), colour in zip(shown, _CURVES, strict=False):
        label = f"{one.ap50:.2f}  {shorten(name, _LONGEST_LABEL)} ({one.objects:,} objects)"
        axes.plot(*_reached(one.precision), color=colour, linewidth=1.5, label=label)
    if len(classes) > 1:
        mean = np.mean([one.precision for one in classes.values()], axis=0)
        label = f"{measured.ap50:.2f}  mean of the {len(classes)} classes"
        axes.plot(*_reached(mean), color=TEXT, linewidth=2, linestyle="--", label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", title="AP50", frameon=False, alignment="left")
    return figure


def _reached(precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve down to the first recall that is not reached, where precision is 0."""
    end = np.count_nonzero(precision) + 1
    return RECALL[:end], precision[:end]


def reduced(image: Image.Image) -> Image.Image:
    """A copy with no more pixels than a picture of many shows."""
    copy = image.copy()
    copy.thumbnail((_SHARP, _SHARP), reducing_gap=2.0)
    return copy


def scene_grid(scenes: Sequence[Scene], caption: str) -> Figure:
    """Images with their boxes, three beside each other, small ones enlarged.

    `caption` says in the legend what is drawn.
    """
    kinds = {mark.kind for scene in scenes for mark in scene.marks}
    bands = [_legend([kind for kind in _STYLES if kind in kinds], caption)]
    for start in range(0, len(scenes), _ACROSS):
        bands += [_row(scenes[start : start + _ACROSS]), (0.2, None)]
    return stack(bands)


def _legend(kinds: Sequence[str], caption: str) -> Band:
    def draw(axes: Any) -> None:
        axes.axis("off")
        axes.set(xlim=(0, INNER), ylim=(2 * LINE, 0))
        left = _EDGE
        for kind in kinds:
            style = _STYLES[kind]
            corner, size = (left, 0.03), (0.28, LINE - 0.06)
            axes.add_patch(Rectangle(corner, *size, fc=_PHOTOGRAPH, lw=0, clip_on=False))
            _outline(axes, style, corner, size)
            left += 0.36
            axes.text(left, LINE / 2, kind, va="center", color=TEXT, **FONT)
            left += (len(kind) + 2) * LETTER
        axes.text(left, LINE / 2, caption, va="center", color=FAINT, **FONT)

    return 2 * LINE, draw


def _row(scenes: Sequence[Scene]) -> Band:
    """Some scenes in a band whose unit is an inch."""
    height = 1.3 * LINE + max(_scale(scene) * scene.size[1] for scene in scenes)

    def draw(axes: Any) -> None:
        for place, scene in enumerate(scenes):
            left = _EDGE + place * (_WIDTH + _GAP)
            axes.text(left, LINE / 2, scene.heading, va="center", color=TEXT, **FONT)
            _draw_scene(axes, scene, np.array([left, 1.3 * LINE]))
        axes.axis("off")
        axes.set(xlim=(0, INNER), ylim=(height, 0))

    return height, draw


def _scale(scene: Scene) -> float:
    """Inches of a pixel of the original."""
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
    texts = [shorten(mark.label, _LONGEST_LABEL) for mark, _ in labelled]
    sizes = [((len(text) + 0.6) * _LABEL_LETTER, _LABEL_LINE) for text in texts]
    places = label_places([box for _, box in labelled], sizes, size)
    for (mark, _), text, one, place in zip(labelled, texts, sizes, places, strict=True):
        _write_label(axes, _STYLES[mark.kind], text, corner + place, one)


def _write_label(
    axes: Any, style: _Style, text: str, corner: np.ndarray, size: tuple[float, float]
) -> None:
    x, y = corner
    width, height = size
    axes.add_patch(Rectangle((x, y), width, height, fc=style.colour, lw=0, clip_on=False))
    centred = {"ha": "center", "va": "center_baseline"}
    axes.text(x + width / 2, y + height / 2, text, color=style.letters, **centred, **_LABEL)


def _outline(axes: Any, style: _Style, corner: Any, size: Any) -> None:
    box = Rectangle(corner, *size, fill=False, clip_on=False, ec=style.colour, ls=style.line)
    # A thin dark edge, so that it is seen on any image.
    edge = withStroke(linewidth=style.points + 0.8, foreground="#00000080")
    box.set(linewidth=style.points, path_effects=[edge])
    axes.add_patch(box)
