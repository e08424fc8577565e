"""Attention between two sequences, or within one."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured

_MASKED = -1e9  # finite, so that a row without any valid position yields no NaN


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2)."""

    features: int
    """Size of queries, keys and values over all heads, and of the output."""

    num_heads: int
    """Number of heads; it divides `features`."""

    dropout: float = 0.0
    """Dropout rate of the attention weights in training."""

    dtype: Any = not_configured(jnp.float32)

    def setup(self):
        def project(*size: int, **options: Any) -> nn.DenseGeneral:
            return nn.DenseGeneral(size, dtype=self.dtype, **options)

        split = self.num_heads, self.features // self.num_heads
        self.query, self.key, self.value = project(*split), project(*split), project(*split)
        self.out = project(self.features, axis=(-2, -1))
        self.drop = nn.Dropout(self.dropout)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Projects a sequence [batch, length, features] to its keys and its values.

        Returns:
          Two arrays [batch, length, heads, features / heads].
        """
        return self.key(x), self.value(x)

    def __call__(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the attention output and the attention weights.

        Args:
          x: the sequence that attends, [batch, queries, features].
          keys: of the sequence attended to, [batch, length, heads, features / heads].
          values: of the same shape.
          mask: bool, broadcast to [batch, queries, length]; False excludes a position.
          train: whether to apply dropout.

        Returns:
          The output [batch, queries, features] and the weights before dropout, float32
          [batch, heads, queries, length].
        """
        queries = self.query(x) / jnp.sqrt(self.features // self.num_heads).astype(self.dtype)
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, _MASKED))
        dropped = self.drop(weights, deterministic=not train).astype(self.dtype)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", dropped, values)), weights


def additive_attention(
    query: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes additive attention with one head (Bahdanau et al. 2015).

    The score of a query and a key is `tanh(query + key) @ kernel`.

    Args:
      query: projected, [batch, queries, features].
      keys: projected, [batch, length, features].
      values: [batch, length, size].
      mask: bool [batch, length]; False excludes a position.
      kernel: [features].

    Returns:
      The output [batch, queries, size] and the weights, float32 [batch, queries, length].
    """
    hidden = jnp.tanh(query[:, :, None] + keys[:, None])
    scores = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, _MASKED))
    return jnp.einsum("bqk,bkd->bqd", weights.astype(values.dtype), values), weights
