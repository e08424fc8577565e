import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks.object_detection.assignment import Targets
from research.tasks.object_detection.losses import box_loss, class_loss

LABELS = np.array([2, 0], np.int32)
OBJECTS = np.array([[0, 0, 2, 2], [10, 10, 30, 20]], np.float32)
_class_loss = jax.jit(jax.value_and_grad(class_loss))
_box_loss = jax.jit(jax.value_and_grad(box_loss))


def targets(objects, scores, ignore_mask=None):
    """Targets of anchor points, by default with none ignored."""
    ignore_mask = np.zeros(len(objects), bool) if ignore_mask is None else ignore_mask
    return Targets(jnp.array(objects), jnp.array(scores, jnp.float32), ignore_mask)


def classes(logits, given, labels=LABELS):
    """The classification loss and its gradient [points, classes]."""
    loss, gradient = _class_loss(np.array(logits, np.float32), labels, given)
    return float(loss), np.asarray(gradient)


def located(boxes, given, objects=OBJECTS):
    """The box loss and its gradient [points, 4]."""
    loss, gradient = _box_loss(np.array(boxes, np.float32), objects, given)
    return float(loss), np.asarray(gradient)


def test_the_class_loss_is_the_quality_focal_loss():
    rng = np.random.default_rng(0)
    logits, target_score = rng.normal(0, 3, (20, 3)), rng.uniform(0, 1, 20)
    chosen = rng.integers(2, size=20)
    target = np.zeros((20, 3))
    target[np.arange(20), LABELS[chosen]] = target_score
    score = 1 / (1 + np.exp(-logits))
    entropy = (1 - target) * np.log(1 - score) + target * np.log(score)
    expected = -(np.abs(target - score) ** 2 * entropy).sum()
    assert classes(logits, targets(chosen, target_score))[0] == pytest.approx(expected, rel=1e-5)


def test_unassigned_points_are_background():
    """Whatever their matched object is, including padding."""
    logits = [[-3.0, 1.0, 2.0], [0.0, -1.0, -9.0]]
    nothing = [classes(logits, targets(objects, [0, 0]))[0] for objects in ([0, 1], [1, 1])]
    padding = classes(logits, targets([0, 0], [0, 0]), np.array([-1, -1], np.int32))[0]
    assert nothing[0] == nothing[1] == padding > 0
    assert (classes(logits, targets([0, 1], [0, 0]))[1] > 0).all()


def test_the_class_loss_is_minimal_at_the_target_score():
    target_score = 0.7
    right = np.full((1, 3), -50.0)
    right[0, 2] = np.log(target_score / (1 - target_score))
    loss, gradient = classes(right, targets([0], [target_score]))
    assert loss == pytest.approx(0, abs=1e-6) and np.abs(gradient).max() < 1e-5
    for step, sign in ((-1.0, -1), (1.0, 1)):
        other = right.copy()
        other[0, 2] += step
        loss, gradient = classes(other, targets([0], [target_score]))
        assert loss > 0.01 and np.sign(gradient[0, 2]) == sign


def test_ignored_points_have_no_loss_and_no_gradient():
    given = targets([0, 0, 0], [0.9, 0, 0], np.array([False, True, False]))
    logits = np.zeros((3, 3))
    loss, gradient = classes(logits, given)
    assert (gradient[1] == 0).all() and (gradient[[0, 2]] != 0).all()
    logits[1] = 50
    assert classes(logits, given)[0] == loss


@pytest.mark.parametrize("logit", [-1000.0, -50.0, 50.0, 1000.0])
def test_extreme_logits_have_a_finite_loss_and_gradient(logit):
    given = targets([0, 1, 0], [0, 1, 0.5])
    loss, gradient = classes(np.full((3, 3), logit), given)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    if logit > 0:  # confident false positives have a gradient
        assert (gradient[0] > 0.9).all()
    else:
        assert gradient[1, LABELS[1]] < -0.9


def test_the_box_loss_is_one_minus_giou_weighted_by_target_scores():
    boxes = [(1, 1, 3, 3), (10, 10, 30, 20), (50, 10, 70, 20)]
    distances = np.array([1 - (1 / 7 - 2 / 9), 0, 1 + 200 / 600])
    for target_score in ([1, 1, 1], [0.5, 0.2, 0.1], [0.0, 1.0, 0.0]):
        loss, _ = located(boxes, targets([0, 1, 1], target_score))
        assert loss == pytest.approx(distances @ target_score, rel=1e-5, abs=1e-6)


def test_exact_boxes_have_no_loss():
    assert located(OBJECTS, targets([0, 1], [1, 1]))[0] == pytest.approx(0, abs=1e-6)


def test_disjoint_boxes_have_a_gradient():
    _, gradient = located([(70, 10, 80, 20)], targets([1], [1]))
    assert gradient[0, 0] > 0  # the left side moves left


def test_unassigned_boxes_have_no_loss_and_no_gradient():
    boxes = [(1, 1, 3, 3), (5, 5, 9, 9)]
    loss, gradient = located(boxes, targets([0, 0], [1, 0]))
    assert loss == located(boxes[:1], targets([0], [1]))[0]
    assert (gradient[0] != 0).any() and (gradient[1] == 0).all()


@pytest.mark.parametrize(
    "box", [(1, 1, 1, 1), (1, 1, 1, 9), (-40, 5, -40, 5), (9, 9, 1, 1), (-1e9, -1e9, 1e9, 1e9)]
)
@pytest.mark.parametrize("true", [(0, 0, 2, 2), (1, 1, 1, 1), (0, 0, 0, 0)])
def test_degenerate_boxes_have_a_finite_loss_and_gradient(box, true):
    loss, gradient = located([box], targets([0], [1]), np.array([true], np.float32))
    assert np.isfinite(loss) and np.isfinite(gradient).all()
