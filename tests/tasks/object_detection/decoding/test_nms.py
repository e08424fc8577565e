import jax
import numpy as np

from research.tasks.object_detection.decoding import non_max_suppression
from tests.tasks.object_detection.decoding.reference import crowded, greedy_nms


def test_parallel_suppression_agrees_with_the_sequential_algorithm():
    rng = np.random.default_rng(0)
    boxes = np.stack([crowded(rng, 40) for _ in range(300)]).astype(np.float32)
    labels = rng.integers(2, size=(300, 40))
    expected = [greedy_nms(*one, 0.6) for one in zip(boxes, labels, strict=True)]
    assert 0.2 < np.mean(expected) < 0.8
    together = jax.jit(jax.vmap(lambda b, n: non_max_suppression(b, n, 0.6)))(boxes, labels)
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal(non_max_suppression(boxes[0], labels[0], 0.6), expected[0])


def test_suppressed_boxes_do_not_suppress_others():
    """In a chain where each box overlaps only its neighbours, every other one is kept."""
    left = 4.0 * np.arange(41)
    chain = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    kept = jax.jit(non_max_suppression)(chain, np.zeros(41, int), 0.4)
    np.testing.assert_array_equal(kept, np.arange(41) % 2 == 0)


def test_iou_equal_to_the_threshold_is_kept():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    both = jax.jit(non_max_suppression)
    assert both(boxes, np.zeros(2, int), 0.5).tolist() == [True, True]
    assert both(boxes, np.zeros(2, int), 0.49).tolist() == [True, False]
