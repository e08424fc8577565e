"""The score of a detector over a split, and pictures of what it finds and where it errs."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from research.data.dataset import Dataset, Example
from research.task import Scorer
from research.tasks.object_detection.average_precision import (
    AveragePrecision,
    Detections,
    average_precision,
    match,
)
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data import AnnotatedImages, DetectionExamples
from research.tasks.object_detection.figures import (
    MOST_CURVES,
    Mark,
    Scene,
    precision_recall,
    reduced,
    scene_grid,
)

log = logging.getLogger(__name__)
_SHOWN = 12  # images in a picture


class _Image(NamedTuple):
    """An image's objects and its confident detections, and which belong together."""

    place: int  # in the dataset
    truth: Annotation
    found: Detections
    chosen: np.ndarray  # [detections] int, the object that each found; -1: none

    @property
    def false(self) -> np.ndarray:
        """[detections] bool: what is no object, or one that was found already."""
        return self.chosen < 0

    @property
    def missed(self) -> np.ndarray:
        """[objects] bool."""
        return ~np.isin(np.arange(len(self.truth.labels)), self.chosen) & ~self.truth.crowd

    @property
    def errors(self) -> float:
        """The objects missed and the false detections, these by their scores."""
        return float(self.missed.sum() + self.found.scores[self.false].sum())

    @property
    def heading(self) -> str:
        """What is right and wrong, in a line."""
        objects, missed, false = (~self.truth.crowd).sum(), self.missed.sum(), self.false.sum()
        return f"image {self.place}: {objects - missed} of {objects} found, {false} false"


class DetectionScorer(Scorer):
    """Keeps the detections of each image; the pictures show those of a score of `told_from`."""

    targets = ()

    def __init__(self, class_names: tuple[str, ...], told_from: float):
        self.class_names, self.told_from = class_names, told_from
        self._found: dict[int, Detections] = {}  # by place in the dataset
        self._truth: dict[int, Annotation] = {}  # likewise
        self._measured: AveragePrecision | None = None  # it takes 20 s for COCO's 5,000 images

    def update(self, targets: Example, predictions: Example) -> None:
        """Takes detections in pixels of the original images, the rest padding of score 0.

        `boxes` are float32 [examples, detections, 4], `scores` float32 and `labels` int32
        [examples, detections]. What a diverged network writes, not finite, is no detection.
        """
        self._measured = None
        boxes, scores, labels = (predictions[name] for name in ("boxes", "scores", "labels"))
        real = (scores > 0) & np.isfinite(boxes).all(axis=-1)
        for row, index in enumerate(targets["index"].tolist()):
            arrays = (array[row, real[row]] for array in (boxes, scores, labels))
            self._found[index] = Detections(*arrays)

    def result(self, dataset: Dataset) -> dict[str, float]:
        """COCO's `ap`, `ap50` and `ap75`, and `ap/NAME` of each class, as fractions.

        A class of which no object is to be found has no AP; where there is no object at all, there
        is none, and a warning says so.
        """
        measured = self._measure(_images(dataset))
        if measured is None:
            return {}
        of_classes = {f"ap/{name}": one.ap for name, one in measured.per_class.items()}
        return {"ap": measured.ap, "ap50": measured.ap50, "ap75": measured.ap75, **of_classes}

    def figures(self, dataset: Dataset) -> dict[str, Figure]:
        """The curves of precision, the first images, and the hardest."""
        images = _images(dataset)
        matched = [self._match(images, index) for index in sorted(self._found)]
        hardest = sorted(matched, key=lambda image: -image.errors)[:_SHOWN]
        measured = self._measure(images)
        curves = {}
        if measured:
            curves[_curves_title(len(measured.per_class))] = precision_recall(measured)
        shown, total = len(hardest), f"{len(matched):,}"
        by = "by objects missed and false detections"
        first = self._scenes(images, matched[:_SHOWN], true_boxes=True)
        return curves | {
            f"The first {shown} of {total} images": first,
            f"The {shown} hardest of {total} images, {by}": self._scenes(images, hardest),
        }

    def _measure(self, images: AnnotatedImages) -> AveragePrecision | None:
        if self._measured is None:
            indices = sorted(self._found)
            truth = [self._true(images, index) for index in indices]
            found = [self._found[index] for index in indices]
            if all(annotation.crowd.all() for annotation in truth):
                log.warning("no AP: the %d images that were scored have no object", len(truth))
                return None
            self._measured = average_precision(truth, found, self.class_names)
        return self._measured

    def _true(self, images: AnnotatedImages, index: int) -> Annotation:
        """Kept, for to read it again can mean to read the image's file."""
        if index not in self._truth:
            self._truth[index] = images.annotation(index)
        return self._truth[index]

    def _match(self, images: AnnotatedImages, index: int) -> _Image:
        truth, found = self._true(images, index), self._found[index]
        confident = found.scores >= self.told_from
        found = Detections(*(part[confident] for part in found))
        return _Image(index, truth, found, match(truth, found))

    def _scenes(
        self, images: AnnotatedImages, chosen: Sequence[_Image], true_boxes: bool = False
    ) -> Figure:
        scenes = []
        for one in chosen:
            image = images.image(one.place)
            marks = self._marks(one)
            if true_boxes:
                marks += _true_boxes(one)
            scenes.append(Scene(one.heading, reduced(image), image.size, marks))
        return scene_grid(scenes, f"detections of a score of {self.told_from} and more, at IoU 0.5")

    def _marks(self, image: _Image) -> list[Mark]:
        truth, found = image.truth, image.found
        marks = []
        for box, label, crowd in zip(*truth.select(truth.crowd | image.missed), strict=True):
            marks.append(Mark("crowd" if crowd else "missed", box, self.class_names[label]))
        for box, score, label, place in zip(*found, image.chosen, strict=True):
            kind = "false" if place < 0 else "crowd" if truth.crowd[place] else "found"
            marks.append(Mark(kind, box, f"{self.class_names[label]} {score:.2f}"))
        return marks


def _true_boxes(image: _Image) -> list[Mark]:
    """Of the objects that were found, beside the boxes of their detections."""
    found = ~(image.truth.crowd | image.missed)
    return [Mark("true", box, "") for box in image.truth.boxes[found]]


def _images(dataset: Dataset) -> AnnotatedImages:
    assert isinstance(dataset, DetectionExamples)
    return dataset.images


def _curves_title(classes: int) -> str:
    title = "Precision and recall, at IoU 0.5"
    if classes > MOST_CURVES:
        title += f", of {MOST_CURVES} of {classes} classes, those with the most objects"
    return title
