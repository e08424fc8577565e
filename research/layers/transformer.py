"""Transformer layers, position embeddings and segment masks (Vaswani et al. 2017).

Several sequences may be packed into one row. Their *segments*, int [batch, length], then count them
from 1 within the row; 0 is padding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.layers.attention import MultiHeadAttention

KeysValues = tuple[jax.Array, jax.Array]  # each [batch, length, heads, features / heads]

# Sharding of a Transformer over a mesh: attention by its heads, feed-forward layers by their width.
TENSOR_RULES = (
    (r"(query|key|value)/kernel", ("fsdp", "tensor", None)),
    (r"out/kernel", ("tensor", None, "fsdp")),
    (r"up/kernel", ("fsdp", "tensor")),
    (r"down/kernel", ("tensor", "fsdp")),
)


class TransformerLayer(nn.Module):
    """A pre-norm layer: self-attention, optional cross-attention, and a feed-forward network.

    Each of the three normalises its input and is added to it. Keys and values are computed by
    separate methods, so that a decoder can keep those of earlier positions.
    """

    features: int
    """Size of the input and of the output."""

    num_heads: int
    """Number of heads of each attention; it divides `features`."""

    feedforward_dim: int
    """Hidden size of the feed-forward network."""

    dropout: float
    """Dropout rate of attention weights, of hidden units and of each output."""

    cross_attention: bool
    """Whether the layer attends to a second sequence too."""

    dtype: Any

    activation: Callable[[jax.Array], jax.Array] = nn.relu
    """Activation of the feed-forward network."""

    def setup(self):
        # The attribute names are the parameters' paths in checkpoints.
        attention = partial(
            MultiHeadAttention, self.features, self.num_heads, self.dropout, dtype=self.dtype
        )
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        self.own, self.own_norm = attention(), norm()
        if self.cross_attention:
            self.across, self.across_norm = attention(), norm()
        self.up = nn.Dense(self.feedforward_dim, dtype=self.dtype)
        self.down = nn.Dense(self.features, dtype=self.dtype)
        self.feedforward_norm = norm()
        self.drop = nn.Dropout(self.dropout)

    def self_keys_values(self, x: jax.Array) -> KeysValues:
        """Projects the layer's input [batch, length, features] for its self-attention."""
        return self.own.keys_values(self.own_norm(x))

    def memory_keys_values(self, memory: jax.Array) -> KeysValues:
        """Projects the encoder's output [batch, length, features] for cross-attention."""
        return self.across.keys_values(memory)

    def __call__(
        self,
        x: jax.Array,
        keys_values: KeysValues,
        mask: jax.Array,
        memory: KeysValues | None = None,
        memory_mask: jax.Array | None = None,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Applies the layer.

        Args:
          x: [batch, queries, features].
          keys_values: of the self-attention, as `self_keys_values` returns them.
          mask: bool, broadcast to [batch, queries, length]; False excludes a position.
          memory: keys and values of the second sequence, as `memory_keys_values` returns them.
          memory_mask: bool, broadcast to [batch, queries, memory_length].
          train: whether to apply dropout.

        Returns:
          The output [batch, queries, features], and the weights of the last attention, float32
          [batch, heads, queries, length].
        """
        drop = partial(self.drop, deterministic=not train)
        keys, values = keys_values
        output, weights = self.own(self.own_norm(x), keys, values, mask, train)
        x = x + drop(output)
        if self.cross_attention:
            assert memory is not None and memory_mask is not None
            keys, values = memory
            output, weights = self.across(self.across_norm(x), keys, values, memory_mask, train)
            x = x + drop(output)
        hidden = drop(self.activation(self.up(self.feedforward_norm(x))))
        return x + drop(self.down(hidden)), weights


def segment_positions(segments: jax.Array) -> jax.Array:
    """Returns the position of each token within its own segment, int [batch, length]."""
    position = jnp.arange(segments.shape[1])
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return position - jax.lax.cummax(jnp.where(starts, position, 0), axis=1)


def segment_mask(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns the attention mask between the segments of two sequences.

    Args:
      queries: segments of the sequence that attends, int [batch, queries].
      keys: segments of the sequence attended to, int [batch, keys].

    Returns:
      bool [batch, queries, keys]: True where both are of the same segment and not padding.
    """
    return (queries[:, :, None] == keys[:, None]) & (keys > 0)[:, None]


def sinusoidal_embedding(positions: jax.Array, features: int) -> jax.Array:
    """Embeds positions [...] by sines and cosines (Vaswani et al. 2017, section 3.5).

    Returns:
      float32 [..., features]; `features` is even.
    """
    rate = 10_000 ** (-jnp.arange(features // 2) / (features // 2))
    angle = positions[..., None].astype(jnp.float32) * rate
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
