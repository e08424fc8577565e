import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.tasks.object_detection.decoding import Decoding
from tests.tasks.object_detection.decoding.reference import crowded, greedy_nms

_CLASSES = 3


def decoded(decoding, scores, boxes):
    """Detections (score, label, box) of one image, by sorting all pairs of points and classes."""
    point, label = np.divmod(np.argsort(-scores, axis=None, kind="stable"), scores.shape[1])
    point, label = point[: decoding.topk_candidates], label[: decoding.topk_candidates]
    score = scores[point, label]
    kept = greedy_nms(boxes[point], label, decoding.iou_threshold) & (
        score >= decoding.score_threshold
    )
    found = zip(
        score[kept].tolist(), label[kept].tolist(), boxes[point][kept].tolist(), strict=True
    )
    return list(found)[: decoding.max_detections]


def images(count, points, seed=0):
    """Distinct scores [images, points, classes], and boxes [images, points, 4]."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.linspace(0, 1, count * points * _CLASSES)).astype(np.float32)
    boxes = np.stack([crowded(rng, points) for _ in range(count)]).astype(np.float32)
    return scores.reshape(count, points, _CLASSES), boxes


def detect(decoding, scores, boxes):
    """Detections (score, label, box) of each image."""
    all_boxes, all_scores, all_labels = jax.jit(jax.vmap(decoding))(scores, boxes)
    assert all_boxes.shape == (len(scores), decoding.max_detections, 4)
    assert all_scores.shape == all_labels.shape == (len(scores), decoding.max_detections)
    assert all_labels.dtype == jnp.int32
    return [
        [(s, n, b) for s, n, b in zip(*map(np.ndarray.tolist, one), strict=True) if s > 0]
        for one in zip(*map(np.asarray, (all_scores, all_labels, all_boxes)), strict=True)
    ]


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(),
        Decoding(topk_candidates=40, max_detections=7),
        Decoding(score_threshold=0.7, iou_threshold=0.3),
        Decoding(topk_candidates=60, iou_threshold=1.0, score_threshold=0.0),
    ],
    ids=str,
)
def test_detections_agree_with_sorting_all_pairs_of_points_and_classes(decoding):
    scores, boxes = images(30, 300)
    expected = [decoded(decoding, *one) for one in zip(scores, boxes, strict=True)]
    assert detect(decoding, scores, boxes) == expected


def test_one_anchor_point_may_detect_several_classes():
    scores = np.array([[[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.0, 0.4, 0.0]]], np.float32)
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [1, 0, 10, 10]]], np.float32)
    (found,) = detect(Decoding(topk_candidates=3), scores, boxes)
    assert [label for _, label, _ in found] == [0, 1, 2]
    assert all(box == [0, 0, 10, 10] for *_, box in found)


def test_of_equal_scores_the_first_anchor_point_wins():
    scores = np.full((1, 4, 1), 0.5, np.float32)
    boxes = np.array([[[0, 0, 10, 9], [0, 0, 10, 10], [50, 0, 60, 9], [50, 0, 60, 10]]], np.float32)
    (found,) = detect(Decoding(), scores, boxes)
    assert [box for *_, box in found] == [[0, 0, 10, 9], [50, 0, 60, 9]]


def test_fewer_anchor_points_than_detections():
    scores = np.array([[[0.2], [0.9]]], np.float32)
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 30, 30]]], np.float32)
    (found,) = detect(Decoding(max_detections=5), scores, boxes)
    assert [box[0] for *_, box in found] == [20, 0]


def test_scores_from_the_threshold_on_are_detections():
    scores = np.array([[[0.25], [0.2499], [0.0]], [[0.1], [0.2], [0.0]]], np.float32)
    boxes = np.array([[[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]] * 2, np.float32)
    some, nothing = detect(Decoding(score_threshold=0.25), scores, boxes)
    assert some == [(0.25, 0, [0, 0, 10, 10])]
    assert nothing == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk_candidates": 0}, "topk_candidates: invalid value 0: expected at least 1"),
        ({"max_detections": -1}, "max_detections: invalid value -1: expected at least 1"),
        (
            {"iou_threshold": 1.1},
            r"iou_threshold: invalid value 1.1: expected a number in \[0, 1\]",
        ),
        (
            {"score_threshold": -0.1},
            r"score_threshold: invalid value -0.1: expected a number in \[0, 1\]",
        ),
        (
            {"display_threshold": 50},
            r"display_threshold: invalid value 50: expected a number in \[0, 1\]",
        ),
    ],
)
def test_invalid_values_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**changes)
