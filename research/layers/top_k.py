"""Selection of the largest elements."""

from typing import Any

import jax
from jax.custom_batching import custom_vmap


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns the `k` largest elements along the last axis, as `jax.lax.top_k`, without gradients.

    All dimensions before the last become one, also those that `jax.vmap` adds: with more, XLA
    compiles a full sort of each row for TPUs instead of its native selection. Of 16 x 100 rows of
    8,400 points that is 2.8 ms on a v5e, predicted; the selection and its copies take 0.3. On a CPU
    both take the same time.

    Args:
      x: [..., elements].
      k: at most the number of elements.

    Returns:
      values [..., k] in descending order, and their int32 indices [..., k]; of equal elements the
      first come first.
    """

    @custom_vmap
    def select(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, indices = jax.lax.top_k(x.reshape(-1, x.shape[-1]), k)
        return values.reshape(*x.shape[:-1], k), indices.reshape(*x.shape[:-1], k)

    @select.def_vmap
    def select_of_batch(size: int, is_batched: list[bool], x: jax.Array) -> Any:
        return select(x), (True, True)

    # Without the barrier XLA reshapes all that `x` is computed from, a copy each on a TPU.
    return select(jax.lax.optimization_barrier(jax.lax.stop_gradient(x)))
