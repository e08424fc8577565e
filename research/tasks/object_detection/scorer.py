"""Average precision of a detector over a split, and figures of its detections."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from research.data.dataset import Dataset, Example
from research.task import Scorer
from research.tasks.object_detection.average_precision import (
    AveragePrecision,
    Detections,
    MatchedImage,
    average_precision,
    match,
)
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data import AnnotatedImages, DetectionExamples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
_MAX_IMAGES = 12  # in a figure


class DetectionScorer(Scorer):
    """Collects the detections of each image and computes COCO's average precision.

    Args:
      class_names: by label.
      display_threshold: minimum score of the detections in figures.
    """

    targets = ()

    def __init__(self, class_names: tuple[str, ...], display_threshold: float):
        self.class_names, self.display_threshold = class_names, display_threshold
        self._detections: dict[int, Detections] = {}  # by index in the dataset
        self._annotations: dict[int, Annotation] = {}  # by index in the dataset
        self._measured: AveragePrecision | None = None  # it takes 20 s for COCO's 5,000 images

    def update(self, targets: Example, predictions: Example) -> None:
        """Adds detections in pixels of the original images, padded with score 0.

        `boxes` are float32 [examples, detections, 4], `scores` float32 and `labels` int32
        [examples, detections]. Boxes that are not finite, as of a diverged network, are dropped.
        """
        self._measured = None
        boxes, scores, labels = (predictions[name] for name in ("boxes", "scores", "labels"))
        valid = (scores > 0) & np.isfinite(boxes).all(axis=-1)
        for row, index in enumerate(targets["index"].tolist()):
            arrays = (array[row, valid[row]] for array in (boxes, scores, labels))
            self._detections[index] = Detections(*arrays)

    def result(self, dataset: Dataset) -> dict[str, float]:
        """Computes COCO's `ap`, `ap50` and `ap75`, and `ap/NAME` of each class, as fractions.

        A class without ground-truth objects has no AP. Without any object in the split, the result
        is empty and a warning is logged.
        """
        measured = self._measure(_images(dataset))
        if measured is None:
            return {}
        per_class = {f"ap/{name}": one.ap for name, one in measured.per_class.items()}
        return {"ap": measured.ap, "ap50": measured.ap50, "ap75": measured.ap75, **per_class}

    def figures(self, dataset: Dataset) -> "dict[str, Figure]":
        """Returns precision-recall curves, the first images, and those with the most errors."""
        from research.tasks.object_detection.figures import (
            detection_grid,
            precision_recall,
            precision_recall_title,
        )

        images = _images(dataset)
        matched = [self._match(images, index) for index in sorted(self._detections)]
        hardest = sorted(matched, key=lambda image: -image.error)[:_MAX_IMAGES]
        measured = self._measure(images)
        curves = {}
        if measured:
            curves[precision_recall_title(measured)] = precision_recall(measured)

        def grid(chosen: list[MatchedImage], ground_truth: bool) -> "Figure":
            return detection_grid(
                chosen, images, self.class_names, self.display_threshold, ground_truth
            )

        count, total = len(hardest), f"{len(matched):,}"
        by = "by false negatives and false positives"
        return curves | {
            f"The first {count} of {total} images": grid(matched[:_MAX_IMAGES], True),
            f"The {count} hardest of {total} images, {by}": grid(hardest, False),
        }

    def _measure(self, images: AnnotatedImages) -> AveragePrecision | None:
        if self._measured is None:
            indices = sorted(self._detections)
            annotations = [self._annotation(images, index) for index in indices]
            detections = [self._detections[index] for index in indices]
            if all(annotation.crowd.all() for annotation in annotations):
                log.warning("undefined AP: no object in the %d evaluated images", len(annotations))
                return None
            self._measured = average_precision(annotations, detections, self.class_names)
        return self._measured

    def _annotation(self, images: AnnotatedImages, index: int) -> Annotation:
        """Returns an annotation, cached because reading it can mean opening the image file."""
        if index not in self._annotations:
            self._annotations[index] = images.annotation(index)
        return self._annotations[index]

    def _match(self, images: AnnotatedImages, index: int) -> MatchedImage:
        annotation, detections = self._annotation(images, index), self._detections[index]
        confident = detections.scores >= self.display_threshold
        detections = Detections(*(part[confident] for part in detections))
        return MatchedImage(index, annotation, detections, match(annotation, detections))


def _images(dataset: Dataset) -> AnnotatedImages:
    assert isinstance(dataset, DetectionExamples)
    return dataset.images
