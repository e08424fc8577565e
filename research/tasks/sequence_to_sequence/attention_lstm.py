"""A recurrent network that reads one sequence and writes another, looking at what was read."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.layers.attention import additive_attention
from research.layers.recurrent import LSTM
from research.tasks.sequence_to_sequence.models import Pairs, Tree, check_sizes, shifted


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
        check_sizes(self, "embedding", "features", "encoder_layers", "decoder_layers")

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
        before = shifted(batch.target)
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


def _repeat(leaf: jax.Array, beam: int) -> jax.Array:
    """[batch, ...] to [batch, beam, ...]."""
    return jnp.broadcast_to(leaf[:, None], (len(leaf), beam, *leaf.shape[1:]))
