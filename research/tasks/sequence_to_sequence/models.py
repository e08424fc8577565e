"""Networks that read one sequence and write another, behind one interface.

Each is a Flax module with three methods. `__call__` scores a whole target at once, as training
wants it; `begin` and `step` score one token after another, for several hypotheses of each source,
as `beam_search` wants it. Class 0 ends a sequence, and stands before its first token.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.config import not_configured
from research.errors import ConfigError
from research.layers.attention import MultiHeadAttention, additive_attention
from research.layers.recurrent import LSTM

Tree = Any

# How a mesh splits a Transformer: attention by its heads, feed-forward layers by their width.
TENSOR_RULES = (
    (r"(query|key|value)/kernel", ("fsdp", "tensor", None)),
    (r"out/kernel", ("tensor", None, "fsdp")),
    (r"up/kernel", ("fsdp", "tensor")),
    (r"down/kernel", ("tensor", "fsdp")),
)


class Pairs(NamedTuple):
    """Pairs of sequences; where several are packed into a row, segments tell them apart.

    Segments count from 1 within a row, and 0 is padding.
    """

    source: jax.Array  # int32 [batch, source_length]
    source_segments: jax.Array  # int32 [batch, source_length]
    target: jax.Array  # int32 [batch, target_length]
    target_segments: jax.Array  # int32 [batch, target_length]


class AttentionLSTM(nn.Module):
    """A bidirectional LSTM reads, another LSTM writes and looks at what was read.

    Additive attention (Bahdanau et al. 2015); what it found goes into the next step too, the input
    feeding of Luong et al. (2015).
    """

    embedding: int = 128
    """The size of the vector of a token."""

    features: int = 256
    """The size of the state of each layer, in each direction."""

    encoder_layers: int = 1
    """Bidirectional layers that read."""

    decoder_layers: int = 1
    """Layers that write."""

    dropout: float = 0.2
    """The part of the embeddings, and of each layer's outputs, that is dropped in training.

    Between the decoder's layers it is the same part in all steps (Gal and Ghahramani 2016).
    """

    source_classes: int = not_configured(0)
    target_classes: int = not_configured(0)
    shared: bool = not_configured(False)
    dtype: Any = not_configured(jnp.float32)

    packs = False

    def check(self) -> None:
        """Raises ConfigError where a number makes no sense."""
        _check(self, "embedding", "features", "encoder_layers", "decoder_layers")

    def setup(self):
        embed = partial(nn.Embed, features=self.embedding, dtype=self.dtype)
        self.target_embedding = embed(self.target_classes)
        self.source_embedding = self.target_embedding if self.shared else embed(self.source_classes)
        self.encoder = [LSTM(self.features, dtype=self.dtype) for _ in range(self.encoder_layers)]
        self.drop = nn.Dropout(self.dropout)
        dense = partial(nn.Dense, dtype=self.dtype)
        self.keys = dense(self.features, use_bias=False)
        self.bridge = dense(2 * self.decoder_layers * self.features)
        self.first = dense(4 * self.features, use_bias=False)
        self.output = dense(self.target_classes)
        self.decoder = _Decoder(self.features, self.decoder_layers, self.dtype)

    def __call__(self, batch: Pairs, train: bool) -> tuple[jax.Array, jax.Array]:
        """Logits and attention of a whole target.

        Returns:
          Float32 [batch, target_length, classes] and [batch, target_length, source_length].
        """
        memory, state = self._encode(batch.source, batch.source_segments, train)
        before = jnp.pad(batch.target[:, :-1], ((0, 0), (1, 0)))
        embedded = self.drop(self.target_embedding(before), deterministic=not train)
        # All steps at once: one large product instead of a small one in each step.
        projected = self.first(embedded)[:, :, None]
        masks = self._masks(len(before)) if train else None
        kernels = self.decoder()

        def step(state: Tree, token: jax.Array) -> tuple[Tree, Any]:
            return _decoder_step(kernels, memory, state, token, masks)

        state = jax.tree.map(lambda leaf: leaf[:, None], state)  # one hypothesis
        _, (found, weights) = jax.lax.scan(step, state, projected.swapaxes(0, 1))
        found, weights = (steps[:, :, 0].swapaxes(0, 1) for steps in (found, weights))
        found = self.drop(found, deterministic=not train)
        return self.output(found).astype(jnp.float32), weights

    def begin(
        self, source: jax.Array, segments: jax.Array, beam: int, capacity: int
    ) -> tuple[Tree, Tree, Tree]:
        """What was read, the state of each of `beam` hypotheses, and an empty cache."""
        memory, state = self._encode(source, segments, train=False)
        return memory, jax.tree.map(lambda leaf: _repeat(leaf, beam), state), ()

    def step(
        self,
        memory: Tree,
        state: Tree,
        cache: Tree,
        tokens: jax.Array,
        lineage: jax.Array,
        position: jax.Array,
    ) -> tuple[jax.Array, Tree, Tree]:
        """Logits float32 [batch, beam, classes] after `tokens`; as `beam_search` takes it."""
        projected = self.first(self.target_embedding(tokens))
        state, (found, _) = _decoder_step(self.decoder(), memory, state, projected, None)
        return self.output(found).astype(jnp.float32), state, cache

    def _encode(
        self, source: jax.Array, segments: jax.Array, train: bool
    ) -> tuple["_Memory", "_State"]:
        valid = segments > 0
        lengths = valid.sum(axis=1)
        x = self.source_embedding(source)
        for layer in self.encoder:
            x, carry = layer(self.drop(x, deterministic=not train), lengths)
        x = self.drop(x, deterministic=not train)
        last = jnp.concatenate([carry.hidden[0], carry.hidden[1]], axis=-1)
        first = jnp.tanh(self.bridge(last)).reshape(len(x), 2, self.decoder_layers, self.features)
        zeros = jnp.zeros((len(x), self.features), self.dtype)
        state = _State(first[:, 0], first[:, 1].astype(jnp.float32), zeros)
        return _Memory(x, self.keys(x), valid), state

    def _masks(self, batch: int) -> jax.Array:
        """What is kept between the decoder's layers, scaled: [batch, 1, layers, features]."""
        ones = jnp.ones((batch, 1, self.decoder_layers, self.features), self.dtype)
        return self.drop(ones, deterministic=False)


class _Memory(NamedTuple):
    """What an LSTM has read."""

    values: jax.Array  # [batch, source_length, 2 features]
    keys: jax.Array  # [batch, source_length, features]
    valid: jax.Array  # bool [batch, source_length]


class _State(NamedTuple):
    """Where the writing LSTM stands; a hypothesis axis may follow the first."""

    hidden: jax.Array  # [batch, layers, features]
    cell: jax.Array  # [batch, layers, features] float32
    found: jax.Array  # [batch, features], the attentional vector of the step before


class _Kernels(NamedTuple):
    """The parameters of the writing LSTM and of its attention."""

    below: jax.Array  # [layers, features, 4 features], of the layer below; of what was found before
    recurrent: jax.Array  # [layers, features, 4 features], of the state before
    bias: jax.Array  # [layers, 4 features]
    query: jax.Array  # [features, features]
    score: jax.Array  # [features]
    combine: jax.Array  # [3 features, features]


class _Decoder(nn.Module):
    """Holds the kernels, which a scan can only take as arrays."""

    features: int
    layers: int
    dtype: Any

    @nn.compact
    def __call__(self) -> _Kernels:
        size, layers = self.features, self.layers
        glorot = nn.initializers.glorot_uniform()
        glorots = nn.initializers.glorot_uniform(batch_axis=0)
        kernels = _Kernels(
            self.param("below", glorots, (layers, size, 4 * size)),
            self.param("recurrent", glorots, (layers, size, 4 * size)),
            self.param("bias", nn.initializers.zeros, (layers, 4 * size)),
            self.param("query", glorot, (size, size)),
            self.param("score", nn.initializers.normal(size**-0.5), (size,)),
            self.param("combine", glorot, (3 * size, size)),
        )
        return jax.tree.map(lambda kernel: kernel.astype(self.dtype), kernels)


def _decoder_step(
    kernels: _Kernels, memory: _Memory, state: _State, token: jax.Array, masks: jax.Array | None
) -> tuple[_State, tuple[jax.Array, jax.Array]]:
    """The new state, and with it the attentional vector and the weights, [batch, beam, ...].

    `token` [batch, beam, 4 features] is the first layer's input, projected; `masks` are those of
    dropout [batch, 1, layers, features].
    """
    hidden, cell, below = [], [], state.found
    for layer, recurrent in enumerate(kernels.recurrent):
        x = below @ kernels.below[layer] + kernels.bias[layer]
        x = x + token if layer == 0 else x
        gates = (x + state.hidden[..., layer, :] @ recurrent).astype(jnp.float32)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        # The forget gate begins open (Jozefowicz et al. 2015).
        own = nn.sigmoid(f + 1) * state.cell[..., layer, :] + nn.sigmoid(i) * jnp.tanh(g)
        cell.append(own)
        hidden.append((nn.sigmoid(o) * jnp.tanh(own)).astype(token.dtype))
        below = hidden[-1] if masks is None else hidden[-1] * masks[..., layer, :]
    query = below @ kernels.query
    context, weights = additive_attention(
        query, memory.keys, memory.values, memory.valid, kernels.score
    )
    found = jnp.tanh(jnp.concatenate([below, context], axis=-1) @ kernels.combine)
    new = _State(jnp.stack(hidden, axis=-2), jnp.stack(cell, axis=-2), found)
    return new, (found, weights)


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
        _check(self, "features", "heads", "feedforward", "encoder_layers", "decoder_layers")
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
        before = jnp.pad(batch.target[:, :-1], ((0, 0), (1, 0)))
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


def _repeat(leaf: jax.Array, beam: int) -> jax.Array:
    """[batch, ...] to [batch, beam, ...]."""
    return jnp.broadcast_to(leaf[:, None], (len(leaf), beam, *leaf.shape[1:]))


def _check(model: Any, *sizes: str) -> None:
    for key in sizes:
        if getattr(model, key) < 1:
            raise ConfigError(key, f"must be at least 1, is {getattr(model, key)}")
    if not 0 <= model.dropout < 1:
        raise ConfigError("dropout", f"must lie in [0, 1), is {model.dropout}")
