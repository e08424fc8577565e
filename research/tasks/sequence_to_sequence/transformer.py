"""A network of attention alone that reads one sequence and writes another."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.common.errors import ConfigError
from research.layers.attention import MultiHeadAttention
from research.tasks.sequence_to_sequence.models import Pairs, Tree, check_sizes, shifted

# How a mesh splits a Transformer: attention by its heads, feed-forward layers by their width.
TENSOR_RULES = (
    (r"(query|key|value)/kernel", ("fsdp", "tensor", None)),
    (r"out/kernel", ("tensor", None, "fsdp")),
    (r"up/kernel", ("fsdp", "tensor")),
    (r"down/kernel", ("tensor", "fsdp")),
)


class Transformer(nn.Module):
    """Attention alone (Vaswani et al. 2017), each block normalised at its entry (pre-norm).

    The embedding of the target's tokens is the output layer too (Press and Wolf 2017), and with a
    joint vocabulary that of the source's. Positions are sines, so a sequence may have any length.
    """

    features: int = 256
    """The size of the vector of a token, between all layers."""

    heads: int = 4
    """Of each attention; they divide `features`."""

    feedforward: int = 512
    """The inner size of the feed-forward layers."""

    encoder_layers: int = 3
    """Layers that read."""

    decoder_layers: int = 3
    """Layers that write."""

    dropout: float = 0.1
    """The part that is dropped in training of embeddings, attention and each block's result."""

    source_classes: int = not_configured(0)
    target_classes: int = not_configured(0)
    shared: bool = not_configured(False)
    dtype: Any = not_configured(jnp.float32)

    packs = True

    def check(self) -> None:
        """Raises ConfigError where the numbers do not go together."""
        check_sizes(self, "features", "heads", "feedforward", "encoder_layers", "decoder_layers")
        if self.features % self.heads or self.features % 2:
            problem = f"must be even and divisible by heads={self.heads}, is {self.features}"
            raise ConfigError("features", problem)

    def setup(self):
        # Logits begin small, and the input, which is scaled up again, at variance 1.
        small = nn.initializers.normal(self.features**-0.5)
        embed = partial(nn.Embed, features=self.features, dtype=self.dtype, embedding_init=small)
        self.target_embedding = embed(self.target_classes)
        self.source_embedding = self.target_embedding if self.shared else embed(self.source_classes)
        layer = partial(
            _Layer, self.features, self.heads, self.feedforward, self.dropout, dtype=self.dtype
        )
        self.encoder = [layer(crosses=False) for _ in range(self.encoder_layers)]
        self.decoder = [layer(crosses=True) for _ in range(self.decoder_layers)]
        self.encoder_norm = nn.LayerNorm(dtype=self.dtype)
        self.decoder_norm = nn.LayerNorm(dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, batch: Pairs, train: bool) -> tuple[jax.Array, jax.Array]:
        """Logits and attention of a whole target.

        Returns:
          Float32 [batch, target_length, classes] and [batch, target_length, source_length], the
          mean over the heads of the last layer.
        """
        return self.decode(self.encode(batch.source, batch.source_segments, train), batch, train)

    def decode(self, memory: jax.Array, batch: Pairs, train: bool) -> tuple[jax.Array, jax.Array]:
        """The same, of a source that `encode` has read."""
        segments = batch.target_segments
        before = shifted(batch.target)
        x = self._embed(self.target_embedding, before, positions(segments), train)
        own = _same(segments, segments) & jnp.tri(segments.shape[1], dtype=bool)
        across = _same(segments, batch.source_segments)
        for layer in self.decoder:
            keys_values = layer.own_keys_values(x)
            x, weights = layer(x, keys_values, own, layer.keys_values(memory), across, train)
        return self._logits(x), weights.mean(axis=1)

    def begin(
        self, source: jax.Array, segments: jax.Array, beam: int, capacity: int
    ) -> tuple[Tree, Tree, Tree]:
        """What was read as keys and values of each layer, no state, and an empty cache."""
        encoded = self.encode(source, segments, train=False)
        memory = [layer.keys_values(encoded) for layer in self.decoder], segments > 0
        # All hypotheses of an example lie side by side, first by position, then by slot.
        shape = len(source), capacity * beam, self.heads, self.features // self.heads
        zeros = jnp.zeros(shape, self.dtype)
        return memory, (), [(zeros, zeros) for _ in self.decoder]

    def step(
        self,
        memory: Tree,
        state: Tree,
        cache: Tree,
        tokens: jax.Array,
        lineage: jax.Array,
        position: jax.Array,
    ) -> tuple[jax.Array, Tree, Tree]:
        """Logits float32 [batch, beam, classes] after `tokens`; as `beam_search` takes it.

        The hypotheses are the queries of one attention over the keys of all, and a mask tells each
        which of these are its own: so none is ever moved.
        """
        across, valid = memory
        batch, beam, capacity = lineage.shape
        x = self._embed(self.target_embedding, tokens, position, train=False)
        own = (lineage[..., None] == jnp.arange(beam)) & (jnp.arange(capacity) <= position)[:, None]
        own, new = own.reshape(batch, beam, -1), []
        for layer, read, written in zip(self.decoder, across, cache, strict=True):
            added = layer.own_keys_values(x)
            written = tuple(
                jax.lax.dynamic_update_slice_in_dim(old, more, position * beam, axis=1)
                for old, more in zip(written, added, strict=True)
            )
            x, _ = layer(x, written, own, read, valid[:, None], train=False)
            new.append(written)
        return self._logits(x), state, new

    def encode(self, source: jax.Array, segments: jax.Array, train: bool) -> jax.Array:
        """What is read, [batch, source_length, features]."""
        x = self._embed(self.source_embedding, source, positions(segments), train)
        mask = _same(segments, segments)
        for layer in self.encoder:
            x, _ = layer(x, layer.own_keys_values(x), mask, None, None, train)
        return self.encoder_norm(x)

    def _embed(
        self, embedding: nn.Embed, tokens: jax.Array, position: jax.Array, train: bool
    ) -> jax.Array:
        x = embedding(tokens) * jnp.sqrt(self.features).astype(self.dtype)
        x = x + sines(position, self.features).astype(self.dtype)
        return self.drop(x, deterministic=not train)

    def _logits(self, x: jax.Array) -> jax.Array:
        kernel = self.target_embedding.embedding.astype(self.dtype)
        x = self.decoder_norm(x)
        # Sums in float32: rounded to bfloat16, the logits of several classes would be equal.
        return jnp.einsum("...f,cf->...c", x, kernel, preferred_element_type=jnp.float32)


class _Layer(nn.Module):
    """Attention to the own sequence, then, where it crosses, to the other, then feed-forward."""

    features: int
    heads: int
    feedforward: int
    dropout: float
    crosses: bool
    dtype: Any

    def setup(self):
        attention = partial(
            MultiHeadAttention, self.features, self.heads, self.dropout, dtype=self.dtype
        )
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        self.own, self.own_norm = attention(), norm()
        if self.crosses:
            self.across, self.across_norm = attention(), norm()
        self.up = nn.Dense(self.feedforward, dtype=self.dtype)
        self.down = nn.Dense(self.features, dtype=self.dtype)
        self.feedforward_norm = norm()
        self.drop = nn.Dropout(self.dropout)

    def own_keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of the own sequence, [batch, length, features] before it is normalised."""
        return self.own.keys_values(self.own_norm(x))

    def keys_values(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of the other sequence."""
        return self.across.keys_values(memory)

    def __call__(
        self, x: jax.Array, own: Tree, own_mask: jax.Array, across: Tree, mask: Any, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        drop = partial(self.drop, deterministic=not train)
        found, weights = self.own(self.own_norm(x), own[0], own[1], own_mask, train)
        x = x + drop(found)
        if self.crosses:
            found, weights = self.across(self.across_norm(x), across[0], across[1], mask, train)
            x = x + drop(found)
        inner = drop(nn.relu(self.up(self.feedforward_norm(x))))
        return x + drop(self.down(inner)), weights


def positions(segments: jax.Array) -> jax.Array:
    """The place of each token in its own segment, int [batch, length]."""
    place = jnp.arange(segments.shape[1])
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return place - jax.lax.cummax(jnp.where(begins, place, 0), axis=1)


def sines(position: jax.Array, features: int) -> jax.Array:
    """Sines and cosines of positions [...], float32 [..., features] (Vaswani et al. 2017, 3.5)."""
    rate = 10_000 ** (-jnp.arange(features // 2) / (features // 2))
    angle = position[..., None] * rate
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _same(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Whether two places belong to the same pair, bool [batch, queries, keys]."""
    return (queries[:, :, None] == keys[:, None]) & (keys > 0)[:, None]
