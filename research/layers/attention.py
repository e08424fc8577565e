"""Attention: how much each position of one sequence takes from each of another."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured

_MASKED = -1e9  # finite, so that a row without any valid position gives no NaN


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of several heads (Vaswani et al. 2017, section 3.2)."""

    features: int
    """The size of queries, keys and values, over all heads, and of the result."""

    heads: int
    """The number of heads; it divides `features`."""

    dropout: float = 0.0
    """The part of the weights that is dropped in training."""

    dtype: Any = not_configured(jnp.float32)

    def setup(self):
        def project(*size: int, **options: Any) -> nn.DenseGeneral:
            return nn.DenseGeneral(size, dtype=self.dtype, **options)

        split = self.heads, self.features // self.heads
        self.query, self.key, self.value = project(*split), project(*split), project(*split)
        self.out = project(self.features, axis=(-2, -1))
        self.drop = nn.Dropout(self.dropout)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is attended to, [batch, length, features], as two [batch, length, heads, size]."""
        return self.key(x), self.value(x)

    def __call__(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """What each position found, and its weights.

        Args:
          x: [batch, queries, features], the positions that attend.
          keys: [batch, length, heads, size].
          values: the same.
          mask: bool, broadcast to [batch, queries, length]: where to look.
          train: whether to drop.

        Returns:
          [batch, queries, features] and float32 [batch, heads, queries, length].
        """
        queries = self.query(x) / jnp.sqrt(self.features // self.heads).astype(self.dtype)
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys).astype(jnp.float32)
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, _MASKED))
        dropped = self.drop(weights, deterministic=not train).astype(self.dtype)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", dropped, values)), weights


def additive_attention(
    query: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One head whose scores come from a layer of tanh (Bahdanau et al. 2015).

    Args:
      query: [batch, queries, features], projected.
      keys: [batch, length, features], projected.
      values: [batch, length, size].
      mask: bool [batch, length]: where to look.
      kernel: [features], from the layer to the score.

    Returns:
      [batch, queries, size] and the weights, float32 [batch, queries, length].
    """
    scores = jnp.tanh(query[:, :, None] + keys[:, None]) @ kernel
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores.astype(jnp.float32), _MASKED))
    return jnp.einsum("bqk,bkd->bqd", weights.astype(values.dtype), values), weights
