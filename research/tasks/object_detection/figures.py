"""Figures of detections: images with boxes, curves of precision and F1, confusions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from research.reporting.charts import NUM_COLORS, Axis, Series, legend, line_chart
from research.reporting.elements import Cell, Number, confusion_matrix, gallery, image_uri, table
from research.reporting.figures import Figure
from research.reporting.html import Html, element, join
from research.tasks.object_detection.average_precision import (
    RECALL,
    AveragePrecision,
    ClassCurve,
    MatchedImage,
)
from research.tasks.object_detection.data import AnnotatedImages
from research.tasks.object_detection.visualization import place_labels

MAX_CURVES = NUM_COLORS - 1  # classes; more curves are hard to distinguish
_MEAN, _MEAN_COLOR = "mean", NUM_COLORS - 1
_KINDS = {  # names by style, in drawing order; later ones are dashed, so that they hide nothing
    "crowd": "crowd",
    "tp": "true positive",
    "gt": "ground truth",
    "fp": "false positive",
    "fn": "false negative",
}
_SIDE = 360  # of an image, in units of its drawing
_MAX_PIXELS = 480  # of an embedded image
_LETTER, _LINE = 6.4, 13  # size of a letter of a label, in units of the drawing
_MAX_LABEL = 18  # letters


class Mark(NamedTuple):
    """A box to draw on an image."""

    kind: str  # a key of `_KINDS`
    box: np.ndarray  # [4]
    label: str  # "" for none


class Scene(NamedTuple):
    """An image with the boxes to draw on it."""

    heading: str
    image: Image.Image  # possibly downscaled
    size: tuple[int, int]  # width and height of the original, the coordinates of the boxes
    marks: Sequence[Mark]


def detection_grid(
    title: str,
    caption: str,
    matched: Sequence[MatchedImage],
    images: AnnotatedImages,
    class_names: Sequence[str],
    ground_truth: bool,
) -> Figure:
    """Draws images with their detections and false negatives.

    Args:
      title: of the figure.
      caption: of the figure.
      matched: the images to show.
      images: all images of the split.
      class_names: by label.
      ground_truth: also draw the ground-truth boxes of detected objects.
    """
    scenes = []
    for one in matched:
        image, marks = images.image(one.image_index), _marks(one, class_names)
        if ground_truth:
            detected = ~(one.annotation.crowd | one.false_negatives)
            marks += [Mark("gt", box, "") for box in one.annotation.boxes[detected]]
        scenes.append(Scene(_heading(one), downscaled(image), image.size, marks))
    return Figure(title, scene_grid(scenes), caption)


def _marks(image: MatchedImage, class_names: Sequence[str]) -> list[Mark]:
    annotation, detections = image.annotation, image.detections
    missed = annotation.select(annotation.crowd | image.false_negatives)
    marks = [
        Mark("crowd" if crowd else "fn", box, class_names[label])
        for box, label, crowd in zip(*missed, strict=True)
    ]
    for box, score, label, index in zip(*detections, image.matched_object, strict=True):
        kind = "crowd" if index >= 0 and annotation.crowd[index] else "tp"
        kind = "fp" if index < 0 else kind
        marks.append(Mark(kind, box, f"{class_names[label]} {score:.2f}"))
    return marks


def _heading(image: MatchedImage) -> str:
    positives = int((~image.annotation.crowd).sum())
    false_negatives = int(image.false_negatives.sum())
    false_positives = int(image.false_positives.sum())
    true_positives = positives - false_negatives
    counts = f"{true_positives} TP, {false_positives} FP, {false_negatives} FN"
    return f"image {image.image_index}: {counts}"


def curves(measured: AveragePrecision, of_classes: Mapping[str, ClassCurve]) -> Figure:
    """Plots precision over recall, and F1 over the least score of a detection, at IoU 0.5.

    Of many classes, those with the most objects are drawn; the mean is that of all classes.

    Args:
      measured: average precision of the classes.
      of_classes: precision, recall and F1 by name of the class.
    """
    classes = measured.per_class
    most = sorted(classes, key=lambda name: -classes[name].objects)[:MAX_CURVES]
    names = [name for name in classes if name in most]
    threshold = np.linspace(0, 1, len(next(iter(of_classes.values())).f1))
    mean_f1 = np.mean([one.f1 for one in of_classes.values()], axis=0)
    mean_precision = np.mean([one.precision for one in classes.values()], axis=0)
    left = [_series(i, name, *_attained(classes[name].precision)) for i, name in enumerate(names)]
    right = [_series(i, name, threshold, of_classes[name].f1) for i, name in enumerate(names)]
    entries = {name: f"{name}: AP50 {classes[name].ap50:.2f}" for name in names}
    if len(classes) > 1:
        left.append(_series(_MEAN_COLOR, _MEAN, *_attained(mean_precision), "dashed"))
        right.append(_series(_MEAN_COLOR, _MEAN, threshold, mean_f1, "dashed"))
        entries[_MEAN] = f"mean of {len(classes)} classes: AP50 {measured.ap50:.2f}"
    charts = [
        line_chart("Precision over recall", Axis("recall", 0, 1), Axis("precision", 0, 1), left),
        line_chart("F1 over confidence", Axis("least score", 0, 1), Axis("F1", 0, 1), right),
    ]
    best = f"{mean_f1.max():.2f}, with scores of at least {threshold[np.argmax(mean_f1)]:.2f}"
    caption = f"At IoU 0.5. The mean F1 is highest, {best}."
    if len(names) < len(classes):
        caption += f" Curves of the {len(names)} of {len(classes)} classes with the most objects."
    body = join([legend(entries, left), element("div", *charts, class_="charts")])
    return Figure("Precision, recall and F1", body, caption)


def _series(color: int, name: str, x: np.ndarray, y: np.ndarray, kind: str = "thin") -> Series:
    return Series(name, x.tolist(), y.tolist(), color, kind)


def _attained(precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truncates a curve at the first recall that is not attained, where precision is 0."""
    end = np.count_nonzero(precision) + 1
    return RECALL[:end], precision[:end]


def confusions(counts: np.ndarray, class_names: Sequence[str], threshold: float) -> Figure:
    """Shows the classes of objects (rows) and of the detections that cover them (columns).

    Args:
      counts: int [classes + 1, classes + 1]; the last row counts detections of no object, the last
        column objects without a detection.
      class_names: by label.
      threshold: least score of the detections.
    """
    rows, columns = [*class_names, "no object"], [*class_names, "missed"]
    caption = f"Of detections with a score of at least {threshold:g}, matched at IoU 0.5 whatever "
    caption += "their class. Colours are shares of the row."
    return Figure("Confusion matrix", confusion_matrix(counts, rows, columns), caption)


def class_scores(
    measured: AveragePrecision, curves: dict[str, ClassCurve], threshold: float
) -> Figure:
    """Lists AP of each class, and precision, recall and F1 at a threshold of the score."""
    rows = []
    for name, one in measured.per_class.items():
        numbers = (one.ap, one.ap50, *curves[name].at(threshold))
        cells: list[Cell] = [Number(f"{number:.3f}", number) for number in numbers]
        rows.append([name, *cells, Number(f"{one.objects:,}", one.objects)])
    header = ("class", "AP", "AP50", "precision", "recall", "F1", "objects")
    caption = f"Precision, recall and F1 of detections with a score of at least {threshold:g}, "
    body = element("div", table(header, rows), class_="tall")
    return Figure("Classes", body, f"{caption}at IoU 0.5.")


def downscaled(image: Image.Image) -> Image.Image:
    """Returns a copy, downscaled to the resolution of an image in a grid."""
    copy = image.copy()
    copy.thumbnail((_MAX_PIXELS, _MAX_PIXELS), reducing_gap=2.0)
    return copy


def scene_grid(scenes: Sequence[Scene]) -> Html:
    """Draws images with boxes, and a legend."""
    kinds = {mark.kind for scene in scenes for mark in scene.marks}
    entries = [
        element("li", element("span", class_=f"box {kind}"), name)
        for kind, name in _KINDS.items()
        if kind in kinds
    ]
    items = [(_draw(scene), scene.heading) for scene in scenes]
    return join([element("ul", *entries, class_="kinds"), gallery(items, "20rem")])


def _draw(scene: Scene) -> Html:
    """Draws an image, whose longer side has `_SIDE` units."""
    scale = _SIDE / max(scene.size)
    width, height = (scale * side for side in scene.size)
    size = {"width": f"{width:g}", "height": f"{height:g}"}
    marks = sorted(scene.marks, key=lambda mark: list(_KINDS).index(mark.kind))
    boxes = [scale * mark.box for mark in marks]
    labelled = [(mark, box) for mark, box in zip(marks, boxes, strict=True) if mark.label]
    texts = [_shorten(mark.label) for mark, _ in labelled]
    sizes = [((len(text) + 1) * _LETTER, _LINE) for text in texts]
    corners = place_labels([box for _, box in labelled], sizes, np.array([width, height]))
    parts = [element("image", href=image_uri(scene.image), **size)]
    parts += [_rectangle(mark, box) for mark, box in zip(marks, boxes, strict=True)]
    for (mark, _), text, corner, label_size in zip(labelled, texts, corners, sizes, strict=True):
        parts.append(_label(mark, text, corner, label_size))
    view = f"0 0 {width:g} {height:g}"
    return element(
        "svg", *parts, viewBox=view, role="img", aria_label=scene.heading, class_="boxes"
    )


def _rectangle(mark: Mark, box: np.ndarray) -> Html:
    left, top, right, bottom = np.round(box, 1).tolist()
    title = element("title", f"{_KINDS[mark.kind]}: {mark.label}".removesuffix(": "))
    corner = {"x": f"{left:g}", "y": f"{top:g}"}
    size = {"width": f"{max(right - left, 0):g}", "height": f"{max(bottom - top, 0):g}"}
    return element("rect", title, class_=mark.kind, **corner, **size)


def _label(mark: Mark, text: str, corner: np.ndarray, size: tuple[float, float]) -> Html:
    x, y = np.round(corner, 1).tolist()
    width, height = size
    back = element("rect", x=x, y=y, width=f"{width:g}", height=height, class_="back")
    middle = {"x": f"{x + width / 2:g}", "y": f"{y + height - 3.2:g}"}
    return element("g", back, element("text", text, **middle), class_=f"name {mark.kind}")


def _shorten(label: str) -> str:
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"
