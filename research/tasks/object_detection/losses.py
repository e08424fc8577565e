"""What the network is told about its scores and boxes."""

import jax
import jax.numpy as jnp
import optax

from research.tasks.object_detection.assignment import Targets
from research.tasks.object_detection.boxes import giou


def class_loss(logits: jax.Array, labels: jax.Array, targets: Targets) -> jax.Array:
    """Quality focal loss (Li et al. 2020, eq. 3) of one image, summed over places and classes.

    Cross-entropy against the quality that a place's box has, weighted by how far off the score is:
    most places see nothing, know it, and weigh nothing.

    Args:
      logits: [places, classes].
      labels: [objects] int32.
      targets: of the places.
    """
    own = jax.nn.one_hot(labels[targets.matched_object], logits.shape[1])
    wanted = own * targets.target_score[:, None]
    weight = jnp.abs(wanted - jax.nn.sigmoid(logits)) ** 2
    losses = weight * optax.sigmoid_binary_cross_entropy(logits, wanted)
    return jnp.sum(losses, where=~targets.ignore_mask[:, None])


def box_loss(boxes: jax.Array, true_boxes: jax.Array, targets: Targets) -> jax.Array:
    """1 - GIoU of one image, weighted by the quality and summed over places.

    Args:
      boxes: [places, 4], as predicted.
      true_boxes: [objects, 4].
      targets: of the places.
    """
    return jnp.sum(targets.target_score * (1 - giou(boxes, true_boxes[targets.matched_object])))
