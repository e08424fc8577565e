"""Task-aligned label assignment (TOOD; Feng et al. 2021): anchor points to ground-truth objects.

Each object is assigned to the anchor points within its box whose predictions have the highest
alignment of class score and IoU. The alignment also is their target score.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from research.layers.top_k import top_k
from research.tasks.object_detection.boxes import iou

TOP_K = 10  # anchor points assigned to each object
ALPHA, BETA = 0.5, 6.0  # exponents of the score and of the IoU in the alignment metric
_EPSILON = 1e-30


class Targets(NamedTuple):
    """Training targets of the anchor points of an image."""

    matched_object: jax.Array  # [points] int32, index of the object; arbitrary where unassigned
    target_score: jax.Array  # [points] in [0, 1], for the class of the object; 0: unassigned
    ignore_mask: jax.Array  # [points] bool, anchor points excluded from the classification loss


def assign(
    scores: jax.Array,
    boxes: jax.Array,
    points: jax.Array,
    strides: jax.Array,
    true_boxes: jax.Array,
    labels: jax.Array,
    crowd: jax.Array,
) -> Targets:
    """Returns the targets of one image, without gradients.

    Args:
      scores: predicted class scores [points, classes] in [0, 1].
      boxes: predicted boxes [points, 4].
      points: x and y of the anchor points [points, 2], in pixels.
      strides: [points], in pixels.
      true_boxes: ground-truth boxes [objects, 4].
      labels: [objects] int32, -1 for padding.
      crowd: [objects] bool; unassigned anchor points within crowds are ignored.
    """
    inside = _inside(points, strides, true_boxes)
    assignable = (labels >= 0) & ~crowd
    overlap = iou(true_boxes[:, None], boxes[None])
    score = jnp.take(scores.T, jnp.maximum(labels, 0), axis=0)
    alignment = score**ALPHA * overlap**BETA
    alignment = jnp.where(inside & assignable[:, None], alignment, -1.0)
    assigned = _largest(alignment) & (alignment >= 0)
    # An anchor point of several objects is assigned to the one with the highest IoU.
    overlap = jnp.where(assigned, overlap, -1.0)
    matched = overlap.argmax(axis=0)
    assigned &= jax.nn.one_hot(matched, len(labels), axis=0, dtype=bool)
    # Normalise, so that the maximum target score of each object is the maximum of its IoUs.
    max_alignment = jnp.max(alignment, axis=1, where=assigned, initial=0.0, keepdims=True)
    max_overlap = jnp.max(overlap, axis=1, where=assigned, initial=0.0, keepdims=True)
    target_score = alignment / jnp.maximum(max_alignment, _EPSILON) * max_overlap
    target_score = jnp.max(target_score, axis=0, where=assigned, initial=0.0)
    ignore_mask = (inside & crowd[:, None]).any(axis=0) & ~assigned.any(axis=0)
    return jax.lax.stop_gradient(Targets(matched.astype(jnp.int32), target_score, ignore_mask))


def _largest(alignment: jax.Array) -> jax.Array:
    """Returns whether each element is among the `TOP_K` largest of its row.

    Of equal elements the first are. It compares with the last of them, because a scatter of their
    indices is serial on a TPU.

    Args:
      alignment: [objects, points].
    """
    values, indices = top_k(alignment, min(TOP_K, alignment.shape[1]))
    value, index = values[:, -1:], indices[:, -1:]
    return (alignment > value) | (alignment == value) & (jnp.arange(alignment.shape[1]) <= index)


def _inside(points: jax.Array, strides: jax.Array, boxes: jax.Array) -> jax.Array:
    """Returns whether each anchor point lies in each box: [objects, points] bool.

    Boxes are extended to at least one stride per side, so that the smallest object contains an
    anchor point.
    """
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    half = jnp.maximum((boxes[:, None, 2:] - boxes[:, None, :2]) / 2, strides[:, None] / 2)
    return (jnp.abs(points - centres) <= half).all(axis=-1)
