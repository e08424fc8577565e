import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks.object_detection.assignment import Targets, assign
from research.tasks.object_detection.boxes import iou
from research.tasks.object_detection.models import anchor_points
from tests.tpu import tpu_operations

SIZE, CLASSES = (64, 96), 3
POINTS, STRIDES = anchor_points(SIZE, (8, 16, 32))
NUM_POINTS = len(POINTS)
_assign = jax.jit(assign)


def assigned(scores, boxes, *objects):
    """Targets for objects (box, label), or (box, label, True) for crowds, padded to eight."""
    true_boxes, labels = np.zeros((8, 4), np.float32), np.full(8, -1, np.int32)
    crowd = np.zeros(8, bool)
    for i, one in enumerate(objects):
        true_boxes[i], labels[i], crowd[i] = (*one, False)[:3]
    return Targets(
        *map(np.asarray, _assign(scores, boxes, POINTS, STRIDES, true_boxes, labels, crowd))
    )


def around(halves):
    """Square boxes [points, 4] around the anchor points; half a side in strides."""
    reach = (halves * STRIDES)[:, None]
    return np.concatenate([POINTS - reach, POINTS + reach], axis=1)


def untrained():
    """Scores and boxes like those of an untrained network."""
    return np.full((NUM_POINTS, CLASSES), 0.01, np.float32), around(np.ones(NUM_POINTS, np.float32))


def trained(rng):
    """Random scores, and random boxes around the anchor points."""
    scores = rng.uniform(0.001, 1, (NUM_POINTS, CLASSES)).astype(np.float32)
    return scores, around(rng.uniform(0.5, 3, NUM_POINTS).astype(np.float32))


def random_boxes(rng, count, sides):
    """Boxes [count, 4] within the image, with sides in a range."""
    length = rng.uniform(*sides, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(SIZE[::-1]) - length)
    return np.concatenate([corner, corner + length], axis=1).astype(np.float32)


def inside(box):
    """The anchor points in a box: [points] bool."""
    return ((box[:2] <= POINTS) & (box[2:] >= POINTS)).all(axis=1)


def overlap(boxes, box):
    return np.asarray(iou(jnp.asarray(boxes), jnp.asarray(box)))


def sequential(scores, boxes, objects):
    """Task-aligned assignment object by object: {point: (object, target score)}."""
    assigned = {}
    for number, (box, label) in enumerate(objects):
        ious = overlap(boxes, box)
        alignment = np.where(inside(box), scores[:, label] ** 0.5 * ious**6, 0)
        for point in np.argsort(-alignment)[:10]:
            if alignment[point] > 0 and ious[point] > assigned.get(point, (0, 0, 0))[0]:
                assigned[point] = ious[point], number, alignment[point]
    expected = {}
    for point, (_, number, alignment) in assigned.items():
        own = [one for one in assigned.values() if one[1] == number]
        expected[point] = number, alignment / max(one[2] for one in own) * max(o[0] for o in own)
    return expected


@pytest.mark.parametrize("seed", range(10))
def test_targets_agree_with_sequential_assignment(seed):
    rng = np.random.default_rng(seed)
    scores, _ = trained(rng)
    true = random_boxes(rng, 6, (33, 60))
    # Every anchor point predicts one of the objects: of random boxes, hardly any would overlap.
    noise = rng.normal(0, 3, (NUM_POINTS, 4)).astype(np.float32)
    boxes = true[rng.integers(6, size=NUM_POINTS)] + noise
    objects = [(box, int(rng.integers(CLASSES))) for box in true]
    targets, expected = assigned(scores, boxes, *objects), sequential(scores, boxes, objects)
    positive = {point: one for point, one in expected.items() if one[1] > 1e-6}
    assert set(np.flatnonzero(targets.target_score > 1e-6)) == set(positive) and len(positive) > 10
    for point, (number, score) in positive.items():
        assert targets.matched_object[point] == number
        assert targets.target_score[point] == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize("sides", [(0.3, 1), (1, 4), (4, 30), (30, 64)])
def test_objects_of_any_size_are_assigned(sides):
    """Including objects smaller than a stride that contain no anchor point."""
    boxes = random_boxes(np.random.default_rng(0), 300, sides)
    between = [[0, 0, 0.3, 0.3], [95.7, 63.7, 96, 64], [31.9, 31.9, 32.1, 32.1]]
    boxes = np.concatenate([boxes, np.array(between, np.float32)])[:, None]
    labels, crowd = np.zeros((303, 1), np.int32), np.zeros((303, 1), bool)
    of_images = jax.jit(jax.vmap(assign, in_axes=(None, None, None, None, 0, 0, 0)))
    scores, found = untrained()
    targets = of_images(scores, found, POINTS, STRIDES, boxes, labels, crowd)
    best = overlap(found, boxes).max(axis=1, where=np.asarray(targets.target_score) > 0, initial=0)
    assert (best > 0).all()
    np.testing.assert_allclose(targets.target_score.max(axis=1), best, rtol=1e-5)


def test_only_points_inside_the_box_are_assigned():
    box = (10, 10, 70, 50)
    targets = assigned(*trained(np.random.default_rng(0)), (box, 1))
    assert targets.target_score.any()
    assert not targets.target_score[~inside(np.array(box))].any()


@pytest.mark.parametrize("seed", range(5))
def test_at_most_ten_points_per_object_with_maximum_score_equal_to_maximum_iou(seed):
    rng = np.random.default_rng(seed)
    scores, boxes = trained(rng)
    true = np.array([[0, 0, 48, 64], [48, 0, 96, 64]], np.float32)
    targets = assigned(scores, boxes, (true[0], 0), (true[1], 2))
    assert (targets.target_score >= 0).all() and (targets.target_score <= 1).all()
    for number, box in enumerate(true):
        mine = (targets.target_score > 0) & (targets.matched_object == number)
        assert 1 <= mine.sum() <= 10
        assert targets.target_score[mine].max() == pytest.approx(overlap(boxes, box)[mine].max())


def test_at_most_ten_points_are_assigned_to_a_large_object_initially():
    """Small boxes have alignments so close to 0 that a larger epsilon would make all equal."""
    size = (640, 640)
    points, strides = anchor_points(size, (8, 16, 32))
    reach = strides[:, None]
    boxes = np.concatenate([points - reach, points + reach], axis=1)
    scores = np.full((len(points), CLASSES), 0.01, np.float32)
    true, labels = np.array([[5, 5, 635, 635]], np.float32), np.zeros(1, np.int32)
    targets = assign(scores, boxes, points, strides, true, labels, np.zeros(1, bool))
    assert int((np.asarray(targets.target_score) > 0).sum()) == 10


def test_an_exact_box_has_target_score_one():
    scores, boxes = untrained()
    box = np.array([20, 20, 60, 60], np.float32)
    boxes[40] = box
    assert inside(box)[40]
    targets = assigned(scores, boxes, (box, 1))
    assert targets.target_score[40] == 1 and targets.target_score.argmax() == 40


def test_with_equal_boxes_target_scores_follow_the_class_scores():
    scores, boxes = untrained()
    box = np.array([0, 0, 96, 64], np.float32)
    boxes[:] = box
    scores[7, 1], scores[8, 2] = 0.64, 0.81
    score = assigned(scores, boxes, (box, 1)).target_score
    assert score[7] == 1 and score[8] == pytest.approx((0.01 / 0.64) ** 0.5)


def test_with_equal_class_scores_target_scores_follow_the_iou():
    scores, boxes = untrained()
    boxes[7], boxes[8], boxes[9] = (0, 0, 96, 64), (0, 0, 96, 57.6), (0, 0, 96, 32)
    score = assigned(scores, boxes, ((0, 0, 96, 64), 1)).target_score
    np.testing.assert_allclose(score[7:10], [1, 0.9**6, 0.5**6], rtol=1e-4)


def test_a_point_of_two_objects_is_assigned_to_the_one_with_higher_iou():
    scores, boxes = untrained()
    left, right = (0, 0, 64, 64), (32, 0, 96, 64)
    both = np.flatnonzero(inside(np.array(left)) & inside(np.array(right)))[:2]
    boxes[both] = (4, 0, 68, 64), (28, 0, 92, 64)
    for objects in (((left, 0), (right, 1)), ((right, 1), (left, 0))):
        targets = assigned(scores, boxes, *objects)
        assert [objects[i][0] for i in targets.matched_object[both]] == [left, right]
        np.testing.assert_allclose(targets.target_score[both], 60 / 68, rtol=1e-4)


def test_points_in_crowds_are_unassigned_and_ignored():
    scores, boxes = trained(np.random.default_rng(0))
    crowd = np.array([40, 10, 90, 60], np.float32)
    targets = assigned(scores, boxes, (crowd, 0, True))
    assert not targets.target_score.any()
    np.testing.assert_array_equal(targets.ignore_mask, inside(crowd))


def test_objects_in_crowds_are_assigned():
    scores, boxes = trained(np.random.default_rng(0))
    crowd, one = np.array([0, 0, 96, 64], np.float32), np.array([20, 20, 60, 60], np.float32)
    targets = assigned(scores, boxes, (crowd, 0, True), (one, 0))
    alone = assigned(scores, boxes, (one, 0))
    np.testing.assert_array_equal(targets.target_score, alone.target_score)
    assert (targets.matched_object[targets.target_score > 0] == 1).all()
    np.testing.assert_array_equal(targets.ignore_mask, targets.target_score == 0)
    assert not alone.ignore_mask.any()


def test_images_without_objects_have_no_assigned_or_ignored_points():
    for scores, boxes in (untrained(), trained(np.random.default_rng(0))):
        targets = assigned(scores, boxes)
        assert not targets.target_score.any() and not targets.ignore_mask.any()


def test_identical_objects_give_finite_targets():
    targets = assigned(*untrained(), *[((20, 20, 60, 60), label) for label in (0, 1, 1)])
    assert targets.target_score.any() and np.isfinite(targets.target_score).all()


@pytest.mark.parametrize("degenerate", [False, True])
def test_a_hundred_objects_give_valid_targets(degenerate):
    rng = np.random.default_rng(0)
    scores, boxes = trained(rng)
    if degenerate:
        scores[:], boxes[:, 2:] = 0.0, boxes[:, :2]
    true = random_boxes(rng, 100, (1, 60))
    labels, crowd = rng.integers(CLASSES, size=100), rng.random(100) < 0.1
    targets = _assign(scores, boxes, POINTS, STRIDES, true, labels, crowd)
    assert (targets.target_score >= 0).all() and (targets.target_score <= 1).all()  # excludes NaN
    assert targets.target_score.any() == (not degenerate)
    learned = np.asarray(targets.matched_object)[np.asarray(targets.target_score) > 0]
    assert not crowd[learned].any() and (degenerate or len(set(learned.tolist())) > 10)


def test_targets_have_no_gradient():
    """Otherwise boxes would be trained to lower their target scores."""
    scores, boxes = trained(np.random.default_rng(0))
    objects = (np.array([[20, 20, 60, 60]], np.float32), np.array([1]), np.array([False]))

    def total(scores, boxes):
        return assign(scores, boxes, POINTS, STRIDES, *objects).target_score.sum()

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(scores, boxes):
        assert not gradient.any()


@pytest.mark.slow
def test_the_assignment_of_a_batch_on_a_tpu_neither_sorts_nor_scatters():
    images, objects, size = 4, 100, (320, 320)
    points, strides = anchor_points(size, (8, 16, 32))

    def targets(scores, boxes, true_boxes, labels, crowd):
        of_image = lambda *image: assign(*image[:2], points, strides, *image[2:])  # noqa: E731
        return jax.vmap(of_image)(scores, boxes, true_boxes, labels, crowd)

    shapes = [
        jax.ShapeDtypeStruct((images, *shape), dtype)
        for shape, dtype in [
            ((len(points), 80), jnp.float32),
            ((len(points), 4), jnp.float32),
            ((objects, 4), jnp.float32),
            ((objects,), jnp.int32),
            ((objects,), jnp.bool_),
        ]
    ]
    operations = tpu_operations(targets, *shapes)
    assert operations["TopK"] == 1 and not operations["sort"] and not operations["scatter"]
