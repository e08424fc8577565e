import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.tasks.object_detection.decoding import Decoding, non_max_suppression

_CLASSES = 3


def overlaps(boxes):
    """Intersection over union of all pairs of boxes: float64 [boxes, boxes]."""
    boxes = boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inter = np.maximum(high - low, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    return inter / (areas[:, None] + areas[None, :] - inter)


def stay(boxes, labels, threshold):
    """Greedy suppression as the textbook has it, box by box: [boxes] bool."""
    overlap, kept = overlaps(boxes), []
    for one in range(len(boxes)):
        if all(labels[one] != labels[other] or overlap[one, other] <= threshold for other in kept):
            kept.append(one)
    return np.isin(np.arange(len(boxes)), kept)


def decoded(decoding, scores, boxes):
    """Detections (score, label, box) of one image, all pairs of places and classes sorted."""
    place, label = np.divmod(np.argsort(-scores, axis=None, kind="stable"), scores.shape[1])
    place, label = place[: decoding.candidates], label[: decoding.candidates]
    score = scores[place, label]
    kept = stay(boxes[place], label, decoding.iou_threshold) & (score >= decoding.score_threshold)
    found = zip(
        score[kept].tolist(), label[kept].tolist(), boxes[place][kept].tolist(), strict=True
    )
    return list(found)[: decoding.detections]


def crowded(rng, count):
    """Boxes about few centres, so that many overlap; whole numbers, so that no IoU is rounded."""
    centres = rng.integers(20, 80, (4, 2))[rng.integers(4, size=count)]
    corner = centres + rng.integers(-4, 5, (count, 2))
    return np.concatenate([corner, corner + rng.integers(10, 16, (count, 2))], axis=1)


def images(count, places, seed=0):
    """Scores [images, places, classes] that are all different, and boxes [images, places, 4]."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.linspace(0, 1, count * places * _CLASSES)).astype(np.float32)
    boxes = np.stack([crowded(rng, places) for _ in range(count)]).astype(np.float32)
    return scores.reshape(count, places, _CLASSES), boxes


def found_by(decoding, scores, boxes):
    """What is found in each of several images: detections (score, label, box)."""
    all_boxes, all_scores, all_labels = jax.jit(jax.vmap(decoding))(scores, boxes)
    assert all_boxes.shape == (len(scores), decoding.detections, 4)
    assert all_scores.shape == all_labels.shape == (len(scores), decoding.detections)
    assert all_labels.dtype == jnp.int32
    return [
        [(s, n, b) for s, n, b in zip(*map(np.ndarray.tolist, one), strict=True) if s > 0]
        for one in zip(*map(np.asarray, (all_scores, all_labels, all_boxes)), strict=True)
    ]


def test_the_boxes_that_stay_are_those_of_the_greedy_algorithm():
    """Of 300 sets, alone and all at once."""
    rng = np.random.default_rng(0)
    boxes = np.stack([crowded(rng, 40) for _ in range(300)]).astype(np.float32)
    labels = rng.integers(2, size=(300, 40))
    expected = [stay(*one, 0.6) for one in zip(boxes, labels, strict=True)]
    assert 0.2 < np.mean(expected) < 0.8
    together = jax.jit(jax.vmap(lambda b, n: non_max_suppression(b, n, 0.6)))(boxes, labels)
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal(non_max_suppression(boxes[0], labels[0], 0.6), expected[0])


def test_what_is_suppressed_suppresses_nothing():
    """A chain in which each box overlaps its neighbours alone: every other one stays."""
    left = 4.0 * np.arange(41)
    chain = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    kept = jax.jit(non_max_suppression)(chain, np.zeros(41, int), 0.4)
    np.testing.assert_array_equal(kept, np.arange(41) % 2 == 0)


def test_an_overlap_of_just_the_threshold_is_allowed():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    both = jax.jit(non_max_suppression)
    assert both(boxes, np.zeros(2, int), 0.5).tolist() == [True, True]
    assert both(boxes, np.zeros(2, int), 0.49).tolist() == [True, False]


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(),
        Decoding(candidates=40, detections=7),
        Decoding(score_threshold=0.7, iou_threshold=0.3),
        Decoding(candidates=60, iou_threshold=1.0, score_threshold=0.0),
    ],
    ids=str,
)
def test_detections_are_what_sorting_all_pairs_of_place_and_class_would_give(decoding):
    scores, boxes = images(30, 300)
    expected = [decoded(decoding, *one) for one in zip(scores, boxes, strict=True)]
    assert found_by(decoding, scores, boxes) == expected


def test_one_place_may_be_seen_as_several_classes():
    scores = np.array([[[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.0, 0.4, 0.0]]], np.float32)
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [1, 0, 10, 10]]], np.float32)
    (found,) = found_by(Decoding(candidates=3), scores, boxes)
    assert [label for _, label, _ in found] == [0, 1, 2]
    assert all(box == [0, 0, 10, 10] for *_, box in found)


def test_of_equal_scores_the_first_place_is_taken():
    scores = np.full((1, 4, 1), 0.5, np.float32)
    boxes = np.array([[[0, 0, 10, 9], [0, 0, 10, 10], [50, 0, 60, 9], [50, 0, 60, 10]]], np.float32)
    (found,) = found_by(Decoding(), scores, boxes)
    assert [box for *_, box in found] == [[0, 0, 10, 9], [50, 0, 60, 9]]


def test_there_may_be_fewer_places_than_detections():
    scores = np.array([[[0.2], [0.9]]], np.float32)
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 30, 30]]], np.float32)
    (found,) = found_by(Decoding(detections=5), scores, boxes)
    assert [box[0] for *_, box in found] == [20, 0]


def test_a_score_of_just_the_threshold_is_a_detection_and_less_is_none():
    scores = np.array([[[0.25], [0.2499], [0.0]], [[0.1], [0.2], [0.0]]], np.float32)
    boxes = np.array([[[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]] * 2, np.float32)
    some, nothing = found_by(Decoding(score_threshold=0.25), scores, boxes)
    assert some == [(0.25, 0, [0, 0, 10, 10])]
    assert nothing == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 0}, "candidates: must be at least 1, is 0"),
        ({"detections": -1}, "detections: must be at least 1, is -1"),
        ({"iou_threshold": 1.1}, r"iou_threshold: must lie in \[0, 1\], is 1.1"),
        ({"score_threshold": -0.1}, r"score_threshold: must lie in \[0, 1\], is -0.1"),
        ({"display_threshold": 50}, r"display_threshold: must lie in \[0, 1\], is 50"),
    ],
)
def test_a_decoding_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**changes)
