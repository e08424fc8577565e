"""COCO's average precision, by pycocotools, and its matching of detections with objects."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from research.tasks.object_detection.boxes import Annotation

RECALL = np.linspace(0, 1, 101)  # where precision is looked at
_MOST_DETECTIONS = 100  # of a class in an image; the others are not looked at
_AT_50, _AT_75 = 0, 5  # places among the IoUs 0.5, 0.55, ..., 0.95


class Detections(NamedTuple):
    """What a network found in an image, in pixels of the original."""

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
    """How well the objects of a class are found."""

    ap: float
    ap50: float
    objects: int  # that were to be found
    precision: np.ndarray  # [101] at IoU 0.5, over `RECALL`


class AveragePrecision(NamedTuple):
    """How well all objects are found, as fractions: means over the classes."""

    ap: float  # the mean over the IoUs 0.5, 0.55, ..., 0.95
    ap50: float
    ap75: float
    per_class: dict[str, ClassPrecision]  # by name; only classes that had objects to be found


def average_precision(
    truth: Sequence[Annotation], found: Sequence[Detections], class_names: Sequence[str]
) -> AveragePrecision:
    """COCO's metric (https://cocodataset.org/#detection-eval) over objects of all sizes.

    Args:
      truth: the objects of each image; at least one is to be found.
      found: the detections of each image, in the same order.
      class_names: by label.
    """
    wanted = [annotation.labels[~annotation.crowd] for annotation in truth]
    counts = np.bincount(np.concatenate([*wanted, []]).astype(int), minlength=len(class_names))
    present = np.flatnonzero(counts)
    precision = _precision(truth, found, present.tolist())
    per_class = {}
    for column, label in enumerate(present.tolist()):
        of_class = precision[..., column]
        at_50 = of_class[_AT_50]
        per_class[class_names[label]] = ClassPrecision(
            float(of_class.mean()), float(at_50.mean()), int(counts[label]), at_50
        )
    return AveragePrecision(
        ap=float(precision.mean()),
        ap50=float(precision[_AT_50].mean()),
        ap75=float(precision[_AT_75].mean()),
        per_class=per_class,
    )


def match(truth: Annotation, found: Detections) -> np.ndarray:
    """The object that each detection of an image finds at IoU 0.5: [detections] int, -1 for none.

    As in COCO's metric, the detections choose by falling score, each of the objects of its class
    that are still free the one that it overlaps most. One that gets none and lies at least by half
    in a crowd of its class gets the crowd, which is never taken.
    """
    chosen = np.full(len(found.scores), -1)
    if not len(truth.labels) or not len(chosen):
        return chosen
    overlap = np.array(mask.iou(_xywh(found.boxes), _xywh(truth.boxes), truth.crowd.tolist()))
    overlap[(overlap < 0.5) | (found.labels[:, None] != truth.labels)] = 0
    free = ~truth.crowd
    for detection in np.argsort(-found.scores, kind="stable"):
        for candidates in (free, truth.crowd):
            most = np.where(candidates, overlap[detection], 0)
            if most.any():
                chosen[detection] = np.argmax(most)
                free[chosen[detection]] = False
                break
    return chosen


def _precision(
    truth: Sequence[Annotation], found: Sequence[Detections], labels: list[int]
) -> np.ndarray:
    """[IoUs, 101, labels]: what pycocotools makes of it."""
    objects = [
        _entry(image, box, label, iscrowd=int(crowd))
        for image, one in enumerate(truth)
        for box, label, crowd in _rows(_xywh(one.boxes), one.labels, one.crowd)
    ]
    detections = [
        _entry(image, box, label, iscrowd=0, score=score)
        for image, one in enumerate(found)
        for box, label, score in _rows(_xywh(one.boxes), one.labels, one.scores)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        images = len(truth)
        both = _coco(objects, images, labels), _coco(detections, images, labels)
        evaluation = COCOeval(*both, iouType="bbox")
        evaluation.params.maxDets = [_MOST_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0, 0]


def _rows(*arrays: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Arrays [rows, ...] row by row, as Python's own numbers and lists."""
    return zip(*(array.tolist() for array in arrays), strict=True)


def _entry(image: int, box: list[float], label: int, **more: float) -> dict[str, Any]:
    area = box[2] * box[3]
    return {"image_id": image, "category_id": label, "bbox": box, "area": area, **more}


def _coco(entries: list[dict[str, Any]], images: int, labels: list[int]) -> COCO:
    """What `COCO` reads from a file."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": label} for label in labels],
        # An entry numbered 0 would count as none.
        "annotations": [entry | {"id": number} for number, entry in enumerate(entries, 1)],
    }
    coco.createIndex()
    return coco


def _xywh(boxes: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] as COCO writes them: upper left, width and height.

    float64, because a difference of float32 numbers would be rounded.
    """
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
