"""Non-maximum suppression on the device."""

import jax
import jax.numpy as jnp

from research.tasks.object_detection.boxes import iou


def non_max_suppression(boxes: jax.Array, labels: jax.Array, threshold: float) -> jax.Array:
    """Greedy non-maximum suppression: which boxes stay, [boxes] bool.

    A box goes if one before it stays that has its class and overlaps it by more than `threshold`.
    This is computed for all at once, again and again until nothing changes: each round settles at
    least one more box, and in practice a few rounds settle all.

    Args:
      boxes: [boxes, 4], the best first.
      labels: [boxes] int32.
      threshold: of intersection over union.
    """
    count = len(boxes)
    before = jnp.arange(count)[:, None] < jnp.arange(count)[None, :]
    same = labels[:, None] == labels[None, :]
    dominates = before & same & (iou(boxes[:, None], boxes[None]) > threshold)

    def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, kept = carry
        return kept, ~(dominates & kept[:, None]).any(axis=0)

    everything = jnp.ones(count, bool)
    first = again((everything, everything))
    _, kept = jax.lax.while_loop(lambda carry: (carry[0] != carry[1]).any(), again, first)
    return kept
