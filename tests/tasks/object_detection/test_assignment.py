import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks.object_detection.assignment import Targets, assign
from research.tasks.object_detection.boxes import iou
from research.tasks.object_detection.models import anchor_points

SIZE, CLASSES = (64, 96), 3
CENTRES, STRIDES = anchor_points(SIZE, (8, 16, 32))
PLACES = len(CENTRES)
_assign = jax.jit(assign)


def assigned(scores, boxes, *objects):
    """The targets, of objects (box, label) or (box, label, True) of crowds, padded to eight."""
    true_boxes, labels = np.zeros((8, 4), np.float32), np.full(8, -1, np.int32)
    crowd = np.zeros(8, bool)
    for i, one in enumerate(objects):
        true_boxes[i], labels[i], crowd[i] = (*one, False)[:3]
    return Targets(
        *map(np.asarray, _assign(scores, boxes, CENTRES, STRIDES, true_boxes, labels, crowd))
    )


def around(halves):
    """Boxes [places, 4] about the centres, half of a side in strides."""
    reach = (halves * STRIDES)[:, None]
    return np.concatenate([CENTRES - reach, CENTRES + reach], axis=1)


def untrained():
    """What a network says at first, nearly."""
    return np.full((PLACES, CLASSES), 0.01, np.float32), around(np.ones(PLACES, np.float32))


def trained(rng):
    """Scores and boxes about the centres as a network may say them: anything."""
    scores = rng.uniform(0.001, 1, (PLACES, CLASSES)).astype(np.float32)
    return scores, around(rng.uniform(0.5, 3, PLACES).astype(np.float32))


def random_boxes(rng, count, sides):
    """Boxes [count, 4] within the image, sides between those two lengths."""
    length = rng.uniform(*sides, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(SIZE[::-1]) - length)
    return np.concatenate([corner, corner + length], axis=1).astype(np.float32)


def inside(box):
    """[places] bool: which centres lie in a box."""
    return ((box[:2] <= CENTRES) & (box[2:] >= CENTRES)).all(axis=1)


def overlap(boxes, box):
    return np.asarray(iou(jnp.asarray(boxes), jnp.asarray(box)))


def by_the_paper(scores, boxes, objects):
    """Task-aligned assignment, object by object: {place: (object, quality)}."""
    taken = {}
    for number, (box, label) in enumerate(objects):
        met = overlap(boxes, box)
        fit = np.where(inside(box), scores[:, label] ** 0.5 * met**6, 0)
        for place in np.argsort(-fit)[:10]:
            if fit[place] > 0 and met[place] > taken.get(place, (0, 0, 0))[0]:
                taken[place] = met[place], number, fit[place]
    expected = {}
    for place, (_, number, fit) in taken.items():
        mine = [one for one in taken.values() if one[1] == number]
        expected[place] = number, fit / max(one[2] for one in mine) * max(one[0] for one in mine)
    return expected


@pytest.mark.parametrize("seed", range(10))
def test_targets_are_those_of_task_aligned_learning(seed):
    rng = np.random.default_rng(seed)
    scores, _ = trained(rng)
    true = random_boxes(rng, 6, (33, 60))
    # Every place guesses one of the objects: otherwise hardly any fits at all.
    boxes = true[rng.integers(6, size=PLACES)] + rng.normal(0, 3, (PLACES, 4)).astype(np.float32)
    objects = [(box, int(rng.integers(CLASSES))) for box in true]
    targets, expected = assigned(scores, boxes, *objects), by_the_paper(scores, boxes, objects)
    strong = {place: one for place, one in expected.items() if one[1] > 1e-6}
    assert set(np.flatnonzero(targets.target_score > 1e-6)) == set(strong) and len(strong) > 10
    for place, (number, quality) in strong.items():
        assert targets.matched_object[place] == number
        assert targets.target_score[place] == pytest.approx(quality, rel=1e-4)


@pytest.mark.parametrize("sides", [(0.3, 1), (1, 4), (4, 30), (30, 64)])
def test_every_object_is_seen_from_somewhere_however_small_it_is(sides):
    """Those between all centres too: of each, alone in its image, the network learns at first."""
    boxes = random_boxes(np.random.default_rng(0), 300, sides)
    between = [[0, 0, 0.3, 0.3], [95.7, 63.7, 96, 64], [31.9, 31.9, 32.1, 32.1]]
    boxes = np.concatenate([boxes, np.array(between, np.float32)])[:, None]
    labels, crowd = np.zeros((303, 1), np.int32), np.zeros((303, 1), bool)
    of_images = jax.jit(jax.vmap(assign, in_axes=(None, None, None, None, 0, 0, 0)))
    scores, found = untrained()
    targets = of_images(scores, found, CENTRES, STRIDES, boxes, labels, crowd)
    best = overlap(found, boxes).max(axis=1, where=np.asarray(targets.target_score) > 0, initial=0)
    assert (best > 0).all()
    np.testing.assert_allclose(targets.target_score.max(axis=1), best, rtol=1e-5)


def test_an_object_is_seen_from_within_alone():
    box = (10, 10, 70, 50)
    targets = assigned(*trained(np.random.default_rng(0)), (box, 1))
    assert targets.target_score.any()
    assert not targets.target_score[~inside(np.array(box))].any()


@pytest.mark.parametrize("seed", range(5))
def test_at_most_ten_places_learn_an_object_and_the_best_is_worth_its_overlap(seed):
    rng = np.random.default_rng(seed)
    scores, boxes = trained(rng)
    true = np.array([[0, 0, 48, 64], [48, 0, 96, 64]], np.float32)
    targets = assigned(scores, boxes, (true[0], 0), (true[1], 2))
    assert (targets.target_score >= 0).all() and (targets.target_score <= 1).all()
    for number, box in enumerate(true):
        mine = (targets.target_score > 0) & (targets.matched_object == number)
        assert 1 <= mine.sum() <= 10
        assert targets.target_score[mine].max() == pytest.approx(overlap(boxes, box)[mine].max())


def test_at_most_ten_places_learn_a_huge_object_from_the_start():
    """Small boxes everywhere fit it so badly that a coarse floor would make all of them equal."""
    size = (640, 640)
    centres, strides = anchor_points(size, (8, 16, 32))
    reach = strides[:, None]
    boxes = np.concatenate([centres - reach, centres + reach], axis=1)
    scores = np.full((len(centres), CLASSES), 0.01, np.float32)
    true, labels = np.array([[5, 5, 635, 635]], np.float32), np.zeros(1, np.int32)
    targets = assign(scores, boxes, centres, strides, true, labels, np.zeros(1, bool))
    assert int((np.asarray(targets.target_score) > 0).sum()) == 10


def test_a_perfect_box_is_worth_one():
    scores, boxes = untrained()
    box = np.array([20, 20, 60, 60], np.float32)
    boxes[40] = box
    assert inside(box)[40]
    targets = assigned(scores, boxes, (box, 1))
    assert targets.target_score[40] == 1 and targets.target_score.argmax() == 40


def test_of_places_with_equal_boxes_the_one_that_knows_the_class_is_taught_more():
    scores, boxes = untrained()
    box = np.array([0, 0, 96, 64], np.float32)
    boxes[:] = box
    scores[7, 1], scores[8, 2] = 0.64, 0.81
    quality = assigned(scores, boxes, (box, 1)).target_score
    assert quality[7] == 1 and quality[8] == pytest.approx((0.01 / 0.64) ** 0.5)


def test_of_places_with_equal_scores_the_one_with_the_better_box_is_taught_more():
    scores, boxes = untrained()
    boxes[7], boxes[8], boxes[9] = (0, 0, 96, 64), (0, 0, 96, 57.6), (0, 0, 96, 32)
    quality = assigned(scores, boxes, ((0, 0, 96, 64), 1)).target_score
    np.testing.assert_allclose(quality[7:10], [1, 0.9**6, 0.5**6], rtol=1e-4)


def test_a_place_that_two_objects_want_learns_the_one_it_overlaps_most():
    scores, boxes = untrained()
    left, right = (0, 0, 64, 64), (32, 0, 96, 64)
    both = np.flatnonzero(inside(np.array(left)) & inside(np.array(right)))[:2]
    boxes[both] = (4, 0, 68, 64), (28, 0, 92, 64)
    for objects in (((left, 0), (right, 1)), ((right, 1), (left, 0))):
        targets = assigned(scores, boxes, *objects)
        assert [objects[i][0] for i in targets.matched_object[both]] == [left, right]
        np.testing.assert_allclose(targets.target_score[both], 60 / 68, rtol=1e-4)


def test_a_crowd_teaches_nothing_and_nothing_is_asked_there():
    scores, boxes = trained(np.random.default_rng(0))
    crowd = np.array([40, 10, 90, 60], np.float32)
    targets = assigned(scores, boxes, (crowd, 0, True))
    assert not targets.target_score.any()
    np.testing.assert_array_equal(targets.ignore_mask, inside(crowd))


def test_an_object_in_a_crowd_is_learned():
    scores, boxes = trained(np.random.default_rng(0))
    crowd, one = np.array([0, 0, 96, 64], np.float32), np.array([20, 20, 60, 60], np.float32)
    targets = assigned(scores, boxes, (crowd, 0, True), (one, 0))
    alone = assigned(scores, boxes, (one, 0))
    np.testing.assert_array_equal(targets.target_score, alone.target_score)
    assert (targets.matched_object[targets.target_score > 0] == 1).all()
    np.testing.assert_array_equal(targets.ignore_mask, targets.target_score == 0)
    assert not alone.ignore_mask.any()


def test_an_image_without_objects_teaches_nothing_and_is_asked_all():
    for scores, boxes in (untrained(), trained(np.random.default_rng(0))):
        targets = assigned(scores, boxes)
        assert not targets.target_score.any() and not targets.ignore_mask.any()


def test_identical_objects_share_no_place_and_break_nothing():
    targets = assigned(*untrained(), *[((20, 20, 60, 60), label) for label in (0, 1, 1)])
    assert targets.target_score.any() and np.isfinite(targets.target_score).all()


@pytest.mark.parametrize("degenerate", [False, True])
def test_a_hundred_objects_give_sound_targets(degenerate):
    rng = np.random.default_rng(0)
    scores, boxes = trained(rng)
    if degenerate:
        scores[:], boxes[:, 2:] = 0.0, boxes[:, :2]
    true = random_boxes(rng, 100, (1, 60))
    labels, crowd = rng.integers(CLASSES, size=100), rng.random(100) < 0.1
    targets = _assign(scores, boxes, CENTRES, STRIDES, true, labels, crowd)
    assert (targets.target_score >= 0).all() and (
        targets.target_score <= 1
    ).all()  # which no NaN is
    assert targets.target_score.any() == (not degenerate)
    learned = np.asarray(targets.matched_object)[np.asarray(targets.target_score) > 0]
    assert not crowd[learned].any() and (degenerate or len(set(learned.tolist())) > 10)


def test_predictions_get_no_gradient_from_their_targets():
    """Otherwise boxes would grow better by lowering what is asked of their score."""
    scores, boxes = trained(np.random.default_rng(0))
    objects = (np.array([[20, 20, 60, 60]], np.float32), np.array([1]), np.array([False]))

    def worth(scores, boxes):
        return assign(scores, boxes, CENTRES, STRIDES, *objects).target_score.sum()

    for gradient in jax.jit(jax.grad(worth, argnums=(0, 1)))(scores, boxes):
        assert not gradient.any()
