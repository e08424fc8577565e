"""A Transformer encoder and decoder (Vaswani et al. 2017)."""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured, renamed_from
from research.common.errors import ConfigError
from research.layers.ranges import check_ranges
from research.layers.transformer import (
    TransformerLayer,
    segment_mask,
    segment_positions,
    sinusoidal_embedding,
)
from research.tasks.sequence_to_sequence.models.protocol import (
    Pairs,
    Tree,
    shift_right,
)


class Transformer(nn.Module):
    """A pre-norm Transformer (Vaswani et al. 2017).

    The target embedding is also the output layer (Press and Wolf 2017), and with a joint vocabulary
    also the source embedding. Positions are sinusoidal, so a sequence may have any length.
    """

    features: int = 256
    """Size of the token embeddings and of each layer's output."""

    num_heads: int = renamed_from("heads", default=4)
    """Number of heads of each attention; it divides `features`."""

    feedforward_dim: int = renamed_from("feedforward", default=512)
    """Hidden size of the feed-forward networks."""

    num_encoder_layers: int = renamed_from("encoder_layers", default=3)
    """Number of encoder layers."""

    num_decoder_layers: int = renamed_from("decoder_layers", default=3)
    """Number of decoder layers."""

    dropout: float = 0.1
    """Dropout rate of embeddings, attention weights and each layer's outputs in training."""

    num_source_classes: int = not_configured(0)
    num_target_classes: int = not_configured(0)
    shared_embedding: bool = not_configured(False)
    dtype: Any = not_configured(jnp.float32)

    supports_packing: ClassVar[bool] = True

    def check(self) -> None:
        """Raises ConfigError for a value out of range, or `features` not divisible by the heads."""
        check_ranges(self)
        if self.features % self.num_heads or self.features % 2:
            expected = f"expected an even number divisible by num_heads={self.num_heads}"
            raise ConfigError("features", f"invalid size {self.features}: {expected}")

    def setup(self):
        # The attribute names are the parameters' paths in checkpoints. With this scale logits start
        # small, and the embeddings, which are multiplied by sqrt(features), with variance 1.
        init = nn.initializers.normal(self.features**-0.5)
        embed = partial(nn.Embed, features=self.features, dtype=self.dtype, embedding_init=init)
        self.target_embedding = embed(self.num_target_classes)
        self.source_embedding = (
            self.target_embedding if self.shared_embedding else embed(self.num_source_classes)
        )
        layer = partial(
            TransformerLayer,
            features=self.features,
            num_heads=self.num_heads,
            feedforward_dim=self.feedforward_dim,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        self.encoder = [layer(cross_attention=False) for _ in range(self.num_encoder_layers)]
        self.decoder = [layer(cross_attention=True) for _ in range(self.num_decoder_layers)]
        self.encoder_norm = nn.LayerNorm(dtype=self.dtype)
        self.decoder_norm = nn.LayerNorm(dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, batch: Pairs, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns the logits and the attention weights of whole targets (teacher forcing).

        Returns:
          float32 [batch, target_length, classes] and [batch, target_length, source_length], the
          mean over the heads of the last layer.
        """
        return self.decode(self.encode(batch.source, batch.source_segments, train), batch, train)

    def encode(self, source: jax.Array, segments: jax.Array, train: bool) -> jax.Array:
        """Returns the encoder's output, [batch, source_length, features]."""
        x = self._embed(self.source_embedding, source, segment_positions(segments), train)
        mask = segment_mask(segments, segments)
        for layer in self.encoder:
            x, _ = layer(x, layer.self_keys_values(x), mask, train=train)
        return self.encoder_norm(x)

    def decode(self, memory: jax.Array, batch: Pairs, train: bool) -> tuple[jax.Array, jax.Array]:
        """Computes `__call__`'s results from the encoder's output."""
        segments = batch.target_segments
        inputs = shift_right(batch.target)
        x = self._embed(self.target_embedding, inputs, segment_positions(segments), train)
        causal = segment_mask(segments, segments) & jnp.tri(segments.shape[1], dtype=bool)
        across = segment_mask(segments, batch.source_segments)
        for layer in self.decoder:
            keys_values, read = layer.self_keys_values(x), layer.memory_keys_values(memory)
            x, weights = layer(x, keys_values, causal, read, across, train=train)
        return self._logits(x), weights.mean(axis=1)

    def init_decoding(
        self, source: jax.Array, segments: jax.Array, beam_size: int, max_length: int
    ) -> tuple[Tree, Tree, Tree]:
        """Encodes sources to keys and values of each layer; see `SequenceToSequenceModel`.

        The decoder has no state. The cache holds the keys and values of all decoded tokens.
        """
        encoded = self.encode(source, segments, train=False)
        memory = [layer.memory_keys_values(encoded) for layer in self.decoder], segments > 0
        # The hypotheses of an example lie side by side, by position first, then by slot.
        rows, size = source.shape[0], self.features // self.num_heads
        shape = rows, max_length * beam_size, self.num_heads, size
        zeros = jnp.zeros(shape, self.dtype)
        return memory, (), [(zeros, zeros) for _ in self.decoder]

    def decode_step(
        self,
        memory: Tree,
        state: Tree,
        cache: Tree,
        tokens: jax.Array,
        ancestors: jax.Array,
        position: jax.Array,
    ) -> tuple[jax.Array, Tree, Tree]:
        """Returns the logits of the next token; see `SequenceToSequenceModel`.

        The hypotheses are the queries of one attention over the keys of all slots, masked to each
        one's ancestors. So the cache is never reordered.
        """
        across, valid = memory
        batch, beam_size, max_length = ancestors.shape
        x = self._embed(self.target_embedding, tokens, position, train=False)
        decoded = (jnp.arange(max_length) <= position)[:, None]
        mask = (ancestors[..., None] == jnp.arange(beam_size)) & decoded
        mask, new_cache = mask.reshape(batch, beam_size, -1), []
        for layer, read, cached in zip(self.decoder, across, cache, strict=True):
            cached = tuple(
                jax.lax.dynamic_update_slice_in_dim(old, new, position * beam_size, axis=1)
                for old, new in zip(cached, layer.self_keys_values(x), strict=True)
            )
            x, _ = layer(x, cached, mask, read, valid[:, None], train=False)
            new_cache.append(cached)
        return self._logits(x), state, new_cache

    def _embed(
        self, embedding: nn.Embed, tokens: jax.Array, positions: jax.Array, train: bool
    ) -> jax.Array:
        x = embedding(tokens) * jnp.sqrt(self.features).astype(self.dtype)
        x = x + sinusoidal_embedding(positions, self.features).astype(self.dtype)
        return self.drop(x, deterministic=not train)

    def _logits(self, x: jax.Array) -> jax.Array:
        kernel = self.target_embedding.embedding.astype(self.dtype)
        x = self.decoder_norm(x)
        # In float32: rounded to bfloat16, the logits of several classes would be equal.
        return jnp.einsum("...f,cf->...c", x, kernel, preferred_element_type=jnp.float32)
