"""Which places of the pyramid learn which object: the task-aligned one of TOOD (Feng et al. 2021).

For each object the places in its box that already see it best, by class and by box together, are
to see it; how well they do is what their score is to be. Nothing has to be set by the size of
objects, and what a place is taught is what it can tell.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from research.tasks.object_detection.boxes import iou

TOP_K = 10  # places for each object
_SMALLEST = 1e-30  # of what is divided by
ALPHA, BETA = 0.5, 6.0  # how much class and box tell of how well a place sees


class Targets(NamedTuple):
    """What the places of an image are to say."""

    matched_object: jax.Array  # [places] int32, the object's number; any where there is none
    target_score: jax.Array  # [places] in [0, 1], the score to give to the object's class; 0: none
    ignore_mask: jax.Array  # [places] bool: nothing is asked of what is said there


def assign(
    scores: jax.Array,
    boxes: jax.Array,
    centres: jax.Array,
    strides: jax.Array,
    true_boxes: jax.Array,
    labels: jax.Array,
    crowd: jax.Array,
) -> Targets:
    """The targets of one image, without a gradient.

    Args:
      scores: [places, classes] in [0, 1], as predicted.
      boxes: [places, 4], as predicted.
      centres: [places, 2] of the places, x and y in pixels.
      strides: [places], pixels between the places of their level.
      true_boxes: [objects, 4].
      labels: [objects] int32, -1 for none.
      crowd: [objects] bool; in these, what else teaches nothing is ignored.
    """
    within = _within(centres, strides, true_boxes)
    learned = (labels >= 0) & ~crowd
    overlap = iou(true_boxes[:, None], boxes[None])
    score = jnp.take(scores.T, jnp.maximum(labels, 0), axis=0)
    fit = score**ALPHA * overlap**BETA
    fit = jnp.where(within & learned[:, None], fit, -1.0)
    _, best = jax.lax.top_k(fit, min(TOP_K, fit.shape[1]))
    rows = jnp.arange(len(labels))[:, None]
    chosen = jnp.zeros(fit.shape, bool).at[rows, best].set(True) & (fit >= 0)
    # A place that several objects want goes to the one that it meets best.
    overlap = jnp.where(chosen, overlap, -1.0)
    own = overlap.argmax(axis=0)
    chosen &= jax.nn.one_hot(own, len(labels), axis=0, dtype=bool)
    # The best place of each object is to score what its box is worth, the others in proportion.
    best_fit = jnp.max(fit, axis=1, where=chosen, initial=0.0, keepdims=True)
    best_overlap = jnp.max(overlap, axis=1, where=chosen, initial=0.0, keepdims=True)
    quality = fit / jnp.maximum(best_fit, _SMALLEST) * best_overlap
    quality = jnp.max(quality, axis=0, where=chosen, initial=0.0)
    ignored = (within & crowd[:, None]).any(axis=0) & ~chosen.any(axis=0)
    return jax.lax.stop_gradient(Targets(own.astype(jnp.int32), quality, ignored))


def _within(centres: jax.Array, strides: jax.Array, boxes: jax.Array) -> jax.Array:
    """[objects, places] bool: the centre lies in the box, which counts as a stride wide at least.

    So even an object that lies between all centres has a place to be seen from.
    """
    middle = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    half = jnp.maximum((boxes[:, None, 2:] - boxes[:, None, :2]) / 2, strides[:, None] / 2)
    return (jnp.abs(centres - middle) <= half).all(axis=-1)
