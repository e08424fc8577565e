"""Classification and box regression losses."""

import jax
import jax.numpy as jnp
import optax

from research.tasks.object_detection.assignment import Targets
from research.tasks.object_detection.boxes import giou


def class_loss(logits: jax.Array, labels: jax.Array, targets: Targets) -> jax.Array:
    """Computes the quality focal loss (Li et al. 2020, eq. 3) of one image.

    Cross-entropy with the target score, weighted by the squared error of the predicted score, so
    that the many easy negatives contribute little.

    Args:
      logits: [points, classes].
      labels: [objects] int32.
      targets: of the anchor points.

    Returns:
      The loss, [] float32, summed over anchor points and classes.
    """
    one_hot = jax.nn.one_hot(labels[targets.matched_object], logits.shape[1])
    target = one_hot * targets.target_score[:, None]
    weight = jnp.abs(target - jax.nn.sigmoid(logits)) ** 2
    losses = weight * optax.sigmoid_binary_cross_entropy(logits, target)
    return jnp.sum(losses, where=~targets.ignore_mask[:, None])


def box_loss(boxes: jax.Array, true_boxes: jax.Array, targets: Targets) -> jax.Array:
    """Computes the GIoU loss of one image, weighted by the target scores.

    Args:
      boxes: predicted boxes [points, 4].
      true_boxes: ground-truth boxes [objects, 4].
      targets: of the anchor points.

    Returns:
      The loss, [] float32, summed over anchor points.
    """
    matched = true_boxes[targets.matched_object]
    return jnp.sum(targets.target_score * (1 - giou(boxes, matched)))
