"""COCO's average precision, computed by pycocotools, and its matching of detections."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from research.tasks.object_detection.boxes import Annotation

RECALL = np.linspace(0, 1, 101)  # recall levels at which precision is sampled
_THRESHOLDS = 101  # of the score, in the curves over it
_MAX_DETECTIONS = 100  # evaluated per class and image, by score
_AT_50, _AT_75 = 0, 5  # positions in the IoU thresholds 0.5, 0.55, ..., 0.95


class Detections(NamedTuple):
    """The detections of an image, in pixels of the original."""

    boxes: np.ndarray  # [detections, 4] float32
    scores: np.ndarray  # [detections] float32
    labels: np.ndarray  # [detections] int32


class MatchedImage(NamedTuple):
    """The objects and the confident detections of an image, matched to each other."""

    image_index: int  # in the dataset
    annotation: Annotation
    detections: Detections
    matched_object: np.ndarray  # [detections] int, from `match`; -1 for false positives

    @property
    def false_positives(self) -> np.ndarray:
        """[detections] bool: detections of no object, or of one that is already matched."""
        return self.matched_object < 0

    @property
    def false_negatives(self) -> np.ndarray:
        """[objects] bool: objects without a detection."""
        objects = np.arange(len(self.annotation.labels))
        return ~np.isin(objects, self.matched_object) & ~self.annotation.crowd

    @property
    def error(self) -> float:
        """The number of false negatives plus the summed scores of the false positives."""
        scores = self.detections.scores[self.false_positives]
        return float(self.false_negatives.sum() + scores.sum())


class ClassPrecision(NamedTuple):
    """Average precision of a class."""

    ap: float
    ap50: float
    objects: int  # ground-truth objects, without crowds
    precision: np.ndarray  # [101] at IoU 0.5, by `RECALL`


class ClassCurve(NamedTuple):
    """Precision, recall and F1 of a class over the threshold of the score, at IoU 0.5."""

    precision: np.ndarray  # [101], for thresholds from 0 to 1
    recall: np.ndarray  # [101]
    f1: np.ndarray  # [101]

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Returns precision, recall and F1 at the nearest threshold."""
        index = round(threshold * (len(self.f1) - 1))
        return float(self.precision[index]), float(self.recall[index]), float(self.f1[index])


class AveragePrecision(NamedTuple):
    """Average precision of all classes, as fractions: means over the classes."""

    ap: float  # mean over the IoU thresholds 0.5, 0.55, ..., 0.95
    ap50: float
    ap75: float
    per_class: dict[str, ClassPrecision]  # by name; only classes with ground-truth objects


def average_precision(
    annotations: Sequence[Annotation],
    detections: Sequence[Detections],
    class_names: Sequence[str],
) -> AveragePrecision:
    """Computes COCO's metric (https://cocodataset.org/#detection-eval) over objects of all sizes.

    Args:
      annotations: the objects of each image; at least one must not be a crowd.
      detections: the detections of each image, in the same order.
      class_names: by label.
    """
    labels = [annotation.labels[~annotation.crowd] for annotation in annotations]
    counts = np.bincount(np.concatenate([*labels, []]).astype(int), minlength=len(class_names))
    present = np.flatnonzero(counts)
    precision = _precision(annotations, detections, present.tolist())
    per_class = {}
    for column, label in enumerate(present.tolist()):
        class_precision = precision[..., column]
        at_50 = class_precision[_AT_50]
        per_class[class_names[label]] = ClassPrecision(
            float(class_precision.mean()), float(at_50.mean()), int(counts[label]), at_50
        )
    return AveragePrecision(
        ap=float(precision.mean()),
        ap50=float(precision[_AT_50].mean()),
        ap75=float(precision[_AT_75].mean()),
        per_class=per_class,
    )


def match(annotation: Annotation, detections: Detections) -> np.ndarray:
    """Matches the detections of an image to its objects at IoU 0.5, as COCO's metric does.

    Detections are matched greedily by decreasing score, each to the unmatched object of its class
    with the highest IoU. An unmatched detection that lies at least by half within a crowd of its
    class is matched to the crowd, which accepts any number of detections.

    Returns:
      The object of each detection, [detections] int; -1 for false positives.
    """
    matched_object = np.full(len(detections.scores), -1)
    if not len(annotation.labels) or not len(matched_object):
        return matched_object
    crowd = annotation.crowd
    overlap = np.array(
        mask.iou(_xywh(detections.boxes), _xywh(annotation.boxes), crowd.astype(int).tolist())
    )
    overlap[(overlap < 0.5) | (detections.labels[:, None] != annotation.labels)] = 0
    unmatched = ~crowd
    for detection in np.argsort(-detections.scores, kind="stable"):
        for candidates in (unmatched, crowd):
            candidate_overlap = np.where(candidates, overlap[detection], 0)
            if candidate_overlap.any():
                matched_object[detection] = np.argmax(candidate_overlap)
                unmatched[matched_object[detection]] = False
                break
    return matched_object


def class_curves(
    images: Sequence[MatchedImage], class_names: Sequence[str]
) -> dict[str, ClassCurve]:
    """Returns the curves of the classes with ground-truth objects, by name.

    Args:
      images: with all detections, whatever their score. Those of crowds are not counted.
      class_names: by label.
    """
    thresholds = np.linspace(0, 1, _THRESHOLDS)[:, None]
    labels, scores, correct = map(np.concatenate, zip(*map(_counted, images), strict=True))
    objects = [one.annotation.labels[~one.annotation.crowd] for one in images]
    counts = np.bincount(np.concatenate(objects), minlength=len(class_names))
    curves = {}
    for label in np.flatnonzero(counts).tolist():
        kept = scores[labels == label] >= thresholds
        found, true_positives = kept.sum(1), (kept & correct[labels == label]).sum(1)
        curves[class_names[label]] = ClassCurve(
            precision=true_positives / np.maximum(found, 1),
            recall=true_positives / counts[label],
            f1=2 * true_positives / (found + counts[label]),
        )
    return curves


def _counted(image: MatchedImage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns label, score and correctness of each detection that is not of a crowd."""
    of_object = image.matched_object >= 0
    in_crowd = np.zeros_like(of_object)
    in_crowd[of_object] = image.annotation.crowd[image.matched_object[of_object]]
    labels, scores = image.detections.labels, image.detections.scores
    return labels[~in_crowd], scores[~in_crowd], of_object[~in_crowd]


def count_confusions(
    images: Sequence[tuple[Annotation, Detections]], num_classes: int
) -> np.ndarray:
    """Matches detections to objects of any class at IoU 0.5 and counts the pairs of classes.

    Returns:
      int [classes + 1, classes + 1]: true by predicted class; the last row counts detections of no
      object, the last column objects without a detection.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for annotation, detections in images:
        matched = match(
            annotation._replace(labels=np.zeros_like(annotation.labels)),
            detections._replace(labels=np.zeros_like(detections.labels)),
        )
        for index, predicted in zip(matched.tolist(), detections.labels.tolist(), strict=True):
            if index < 0:
                counts[num_classes, predicted] += 1
            elif not annotation.crowd[index]:
                counts[annotation.labels[index], predicted] += 1
        missed = ~np.isin(np.arange(len(annotation.labels)), matched) & ~annotation.crowd
        np.add.at(counts, (annotation.labels[missed], num_classes), 1)
    return counts


def _precision(
    annotations: Sequence[Annotation], detections: Sequence[Detections], labels: list[int]
) -> np.ndarray:
    """Computes the precision with pycocotools: [IoU thresholds, 101, labels]."""
    truth = [
        _entry(image, box, label, iscrowd=int(crowd))
        for image, one in enumerate(annotations)
        for box, label, crowd in _rows(_xywh(one.boxes), one.labels, one.crowd)
    ]
    results = [
        _entry(image, box, label, iscrowd=0, score=score)
        for image, one in enumerate(detections)
        for box, label, score in _rows(_xywh(one.boxes), one.labels, one.scores)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        images = len(annotations)
        evaluation = COCOeval(
            _coco(truth, images, labels), _coco(results, images, labels), iouType="bbox"
        )
        evaluation.params.maxDets = [_MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0, 0]


def _rows(*arrays: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Yields the rows of arrays [rows, ...] as Python numbers and lists."""
    return zip(*(array.tolist() for array in arrays), strict=True)


def _entry(image: int, box: list[float], label: int, **more: float) -> dict[str, Any]:
    area = box[2] * box[3]
    return {"image_id": image, "category_id": label, "bbox": box, "area": area, **more}


def _coco(entries: list[dict[str, Any]], images: int, labels: list[int]) -> COCO:
    """Builds a `COCO` object without a file."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": label} for label in labels],
        # pycocotools treats the id 0 as unmatched.
        "annotations": [entry | {"id": number} for number, entry in enumerate(entries, 1)],
    }
    coco.createIndex()
    return coco


def _xywh(boxes: np.ndarray) -> np.ndarray:
    """Converts boxes [n, 4] to (x_min, y_min, width, height).

    float64, because float32 rounds the differences.
    """
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
