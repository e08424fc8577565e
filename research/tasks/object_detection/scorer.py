"""Average precision of a detector over a split, and figures of its detections."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from research.data.dataset import Dataset, Example
from research.task import Metric, Scorer
from research.tasks.object_detection.average_precision import (
    AveragePrecision,
    Detections,
    MatchedImage,
    average_precision,
    class_curves,
    count_confusions,
    match,
)
from research.tasks.object_detection.boxes import Annotation
from research.tasks.object_detection.data import AnnotatedImages, DetectionExamples

if TYPE_CHECKING:
    from research.reporting.figures import Figure

log = logging.getLogger(__name__)
METRICS = {
    "ap": Metric("AP", better="higher"),
    "ap50": Metric("AP50", better="higher"),
    "ap75": Metric("AP75", better="higher"),
    "loss": Metric("loss", better="lower"),
}
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

    def figures(self, dataset: Dataset) -> "list[Figure]":
        """Returns curves and scores of the classes, the first images, and the hardest ones."""
        from research.tasks.object_detection.figures import detection_grid

        images, names, threshold = _images(dataset), self.class_names, self.display_threshold
        matched = [self._match(images, i, threshold) for i in sorted(self._detections)]
        hardest = sorted(matched, key=lambda image: -image.error)[:_MAX_IMAGES]
        count, total = len(hardest), f"{len(matched):,}"
        shown = f"Detections with a score of at least {threshold:g}, matched at IoU 0.5."
        return [
            *self._class_figures(images, matched),
            detection_grid(
                "Hardest images",
                f"{count} of {total}, by false negatives and false positives. {shown}",
                *(hardest, images, names, False),
            ),
            detection_grid(
                "First images",
                f"{count} of {total}. {shown}",
                *(matched[:_MAX_IMAGES], images, names, True),
            ),
        ]

    def _class_figures(
        self, images: AnnotatedImages, matched: list[MatchedImage]
    ) -> "list[Figure]":
        """Returns the figures that compare classes; none without any object.

        Args:
          images: of the split.
          matched: with the detections above the display threshold.
        """
        from research.tasks.object_detection import figures

        names, threshold = self.class_names, self.display_threshold
        if not (measured := self._measure(images)):
            return []
        curves = class_curves([self._match(images, i, 0) for i in sorted(self._detections)], names)
        pairs = [(one.annotation, one.detections) for one in matched]
        return [
            figures.curves(measured, curves),
            figures.class_scores(measured, curves, threshold),
            figures.confusions(count_confusions(pairs, len(names)), names, threshold),
        ]

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

    def _match(self, images: AnnotatedImages, index: int, threshold: float) -> MatchedImage:
        annotation, detections = self._annotation(images, index), self._detections[index]
        confident = detections.scores >= threshold
        detections = Detections(*(part[confident] for part in detections))
        return MatchedImage(index, annotation, detections, match(annotation, detections))


def _images(dataset: Dataset) -> AnnotatedImages:
    assert isinstance(dataset, DetectionExamples)
    return dataset.images
