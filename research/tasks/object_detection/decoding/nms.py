"""Non-maximum suppression on the device."""

import jax
import jax.numpy as jnp

from research.tasks.object_detection.boxes import iou


def non_max_suppression(boxes: jax.Array, labels: jax.Array, threshold: float) -> jax.Array:
    """Computes greedy non-maximum suppression per class.

    A box is suppressed if a kept box of the same class with a higher score overlaps it. All boxes
    are updated in parallel until a fixed point, which is the greedy result: each iteration decides
    at least one more box, and in practice a few iterations decide all.

    Args:
      boxes: [boxes, 4] by decreasing score.
      labels: [boxes] int32.
      threshold: IoU above which boxes overlap.

    Returns:
      [boxes] bool: the boxes to keep.
    """
    count = len(boxes)
    ranks_higher = jnp.arange(count)[:, None] < jnp.arange(count)[None, :]
    same_class = labels[:, None] == labels[None, :]
    suppresses = ranks_higher & same_class & (iou(boxes[:, None], boxes[None]) > threshold)

    def update(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, kept = carry
        return kept, ~(suppresses & kept[:, None]).any(axis=0)

    initial = jnp.ones(count, bool)
    first = update((initial, initial))
    _, kept = jax.lax.while_loop(lambda carry: (carry[0] != carry[1]).any(), update, first)
    return kept
