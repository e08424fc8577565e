import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks.object_detection.boxes import (
    NO_OBJECTS,
    Annotation,
    area,
    format_box,
    giou,
    iou,
    sanitize,
)

WIDTH, HEIGHT = 40, 30


def annotation(*boxes):
    """Objects with labels 0, 1, 2 and so on, every other one a crowd."""
    labels = np.arange(len(boxes), dtype=np.int32)
    return Annotation(np.array(boxes, np.float32), labels, labels % 2 == 1)


def random_boxes(count, seed):
    """Boxes in whole pixels from 0 to 12, many without area: float32 [count, 4]."""
    corners = np.random.default_rng(seed).integers(0, 13, (count, 2, 2))
    return np.sort(corners, axis=1).reshape(count, 4).astype(np.float32)


def pixels(box):
    """The pixels that a box covers: [12, 12] bool."""
    y, x = np.mgrid[:12, :12]
    return (box[0] <= x) & (x < box[2]) & (box[1] <= y) & (y < box[3])


@pytest.mark.parametrize(
    ("a", "b", "expected_iou", "expected_giou"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1, 1),
        ((0, 0, 4, 4), (2, 0, 6, 4), 1 / 3, 1 / 3),  # the union fills the enclosing box
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
        ((0, 0, 4, 4), (1, 1, 3, 3), 1 / 4, 1 / 4),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0, 0),
        ((0, 0, 1, 1), (2, 0, 3, 1), 0, -1 / 3),
        ((0, 0, 1, 1), (9, 9, 10, 10), 0, -98 / 100),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0, 0),
        ((0, 0, 2, 2), (1, 0, 1, 2), 0, 0),
    ],
)
def test_iou_and_giou_of_known_boxes(a, b, expected_iou, expected_giou):
    a, b = jnp.array(a, jnp.float32), jnp.array(b, jnp.float32)
    for first, second in ((a, b), (b, a)):
        np.testing.assert_allclose(iou(first, second), expected_iou, atol=1e-6)
        np.testing.assert_allclose(giou(first, second), expected_giou, atol=1e-6)


def test_area_and_iou_agree_with_pixel_counts():
    a, b = random_boxes(60, seed=0), random_boxes(50, seed=1)
    a_pixels, b_pixels = (np.stack([pixels(box) for box in boxes]) for boxes in (a, b))
    np.testing.assert_array_equal(area(a), a_pixels.sum(axis=(1, 2)))
    inter = (a_pixels[:, None] & b_pixels).sum(axis=(2, 3))
    union = (a_pixels[:, None] | b_pixels).sum(axis=(2, 3))
    expected = np.divide(inter, union, out=np.zeros(union.shape), where=union > 0)
    assert (expected > 0.3).sum() > 50
    np.testing.assert_allclose(iou(a[:, None], b), expected, atol=1e-6)
    generalised = np.asarray(giou(a[:, None], b))
    assert generalised.min() >= -1 and generalised.max() <= 1
    assert (generalised <= expected + 1e-6).all()


@pytest.mark.slow
def test_giou_attracts_disjoint_boxes():
    true = jnp.array([10.0, 10, 20, 20])
    for away in ((40, 12, 50, 22), (12, 40, 22, 50), (40, 40, 41, 60)):
        box = jnp.array(away, jnp.float32)
        moved = box + 1e3 * jax.grad(giou)(box, true)
        assert giou(moved, true) > giou(box, true)
        assert jax.grad(iou)(box, true).tolist() == [0, 0, 0, 0]


@pytest.mark.slow
def test_giou_gradients_are_finite_for_degenerate_boxes():
    boxes = [*random_boxes(40, seed=2), (3, 3, 3, 3), (3, 3, 3, 9), (0, 0, 4000, 4000)]
    boxes = jnp.array(np.array(boxes, np.float32))
    every = jax.vmap(jax.vmap(jax.grad(giou, (0, 1)), (None, 0)), (0, None))
    assert all(np.isfinite(gradient).all() for gradient in every(boxes, boxes))


def test_objects_are_selected_by_mask_or_by_position():
    three = annotation((0, 0, 1, 1), (0, 0, 2, 2), (0, 0, 3, 3))
    by_mask, by_position = three.select(three.labels != 1), three.select(np.array([2, 0]))
    assert by_mask.boxes[:, 2].tolist() == [1, 3] and by_mask.labels.tolist() == [0, 2]
    assert by_position.boxes[:, 2].tolist() == [3, 1] and by_position.crowd.tolist() == [
        False,
        False,
    ]


def test_valid_boxes_are_unchanged():
    given = annotation((0, 0, 40, 30), (0.25, 1.5, 0.75, 2), (39, 29, 40, 30))
    found, errors = sanitize(given, WIDTH, HEIGHT)
    assert not errors
    assert all(np.array_equal(one, other) for one, other in zip(found, given, strict=True))
    assert [part.dtype for part in found] == [np.float32, np.int32, bool]
    nothing, errors = sanitize(NO_OBJECTS, WIDTH, HEIGHT)
    assert nothing.boxes.shape == (0, 4) and not errors


SWAPPED = "has swapped corners, sorted"
OUTSIDE = "exceeds the image, clipped"
NO_AREA = "has no area within the image, removed"


@pytest.mark.parametrize(
    ("box", "expected", "kinds"),
    [
        ((9, 2, 5, 8), (5, 2, 9, 8), [SWAPPED]),
        ((5, 8, 9, 2), (5, 2, 9, 8), [SWAPPED]),
        ((-3, 2, 9, 8), (0, 2, 9, 8), [OUTSIDE]),
        ((5, 2, 9, 33), (5, 2, 9, 30), [OUTSIDE]),
        ((50, 2, 5, 8), (5, 2, 40, 8), [SWAPPED, OUTSIDE]),
        ((-0.5, -0.5, 40.5, 30.5), (0, 0, 40, 30), []),
        ((5, 2, 5, 8), None, [NO_AREA]),
        ((40, 2, 50, 8), None, [NO_AREA]),
        ((5, -9, 9, -1), None, [NO_AREA]),
        ((np.nan, 2, 9, 8), None, [NO_AREA]),
        ((5, 2, np.inf, 8), None, [NO_AREA]),
    ],
)
def test_invalid_boxes_are_corrected_or_removed(box, expected, kinds):
    valid = (1, 1, 2, 2)
    found, errors = sanitize(annotation(valid, box, valid), WIDTH, HEIGHT)
    corrected = [] if expected is None else [list(expected)]
    assert found.boxes.tolist() == [list(valid), *corrected, list(valid)]
    assert found.labels.tolist() == ([0, 1, 2] if corrected else [0, 2])
    assert found.crowd.tolist() == ([False, True, False] if corrected else [False, False])
    assert errors == [(kind, 1) for kind in kinds]


def test_format_of_a_box():
    assert format_box(np.array([1, 2.04, 3.57, -4], np.float32)) == "box [1.0, 2.0, 3.6, -4.0]"
