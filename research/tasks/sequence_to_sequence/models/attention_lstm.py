"""An LSTM encoder and an LSTM decoder with additive attention."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured, renamed_from
from research.layers.attention import additive_attention
from research.layers.ranges import check_ranges
from research.layers.recurrent import LSTM
from research.tasks.sequence_to_sequence.models.protocol import (
    Pairs,
    Tree,
    shift_right,
)


class AttentionLSTM(nn.Module):
    """A bidirectional LSTM encoder and an LSTM decoder with attention.

    Additive attention (Bahdanau et al. 2015) with input feeding: the attentional vector is an input
    of the next decoder step (Luong et al. 2015).
    """

    embedding_dim: int = renamed_from("embedding", default=128)
    """Size of the token embeddings."""

    features: int = 256
    """Size of the state of each layer, per direction."""

    num_encoder_layers: int = renamed_from("encoder_layers", default=1)
    """Number of bidirectional encoder layers."""

    num_decoder_layers: int = renamed_from("decoder_layers", default=1)
    """Number of decoder layers."""

    dropout: float = 0.2
    """Dropout rate of the embeddings and of each layer's output in training.

    Between decoder layers all steps share one mask (variational dropout, Gal and Ghahramani 2016).
    """

    num_source_classes: int = not_configured(0)
    num_target_classes: int = not_configured(0)
    shared_embedding: bool = not_configured(False)
    dtype: Any = not_configured(jnp.float32)

    supports_packing: ClassVar[bool] = False

    def check(self) -> None:
        """Raises ConfigError for a value out of range."""
        check_ranges(self)

    def setup(self):
        # The attribute names are the parameters' paths in checkpoints.
        embed = partial(nn.Embed, features=self.embedding_dim, dtype=self.dtype)
        self.target_embedding = embed(self.num_target_classes)
        self.source_embedding = (
            self.target_embedding if self.shared_embedding else embed(self.num_source_classes)
        )
        self.encoder = [
            LSTM(self.features, dtype=self.dtype) for _ in range(self.num_encoder_layers)
        ]
        self.drop = nn.Dropout(self.dropout)
        dense = partial(nn.Dense, dtype=self.dtype)
        self.keys = dense(self.features, use_bias=False)
        self.bridge = dense(2 * self.num_decoder_layers * self.features)
        self.first = dense(4 * self.features, use_bias=False)
        # In float32: rounded to bfloat16, the logits of several classes would be equal.
        self.output = nn.Dense(self.num_target_classes, dtype=jnp.float32)
        self.decoder = _DecoderKernels(self.features, self.num_decoder_layers, self.dtype)

    def __call__(self, batch: Pairs, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns the logits and the attention weights of whole targets (teacher forcing).

        Returns:
          float32 [batch, target_length, classes] and [batch, target_length, source_length].
        """
        memory, state = self._encode(batch.source, batch.source_segments, train)
        inputs = shift_right(batch.target)
        embedded = self.drop(self.target_embedding(inputs), deterministic=not train)
        # All steps at once: one large product instead of a small one in each step.
        projected = self.first(embedded)[:, :, None]
        masks = self._dropout_masks(len(inputs)) if train else None
        kernels = self.decoder()

        def step(state: Tree, token: jax.Array) -> tuple[Tree, Any]:
            return _decoder_step(kernels, memory, state, token, masks)

        state = jax.tree.map(lambda leaf: leaf[:, None], state)  # a beam of one hypothesis
        _, (vectors, weights) = jax.lax.scan(step, state, projected.swapaxes(0, 1))
        vectors, weights = (steps[:, :, 0].swapaxes(0, 1) for steps in (vectors, weights))
        return self.output(self.drop(vectors, deterministic=not train)), weights

    def init_decoding(
        self, source: jax.Array, segments: jax.Array, beam_size: int, max_length: int
    ) -> tuple[Tree, Tree, Tree]:
        """Encodes sources; see `SequenceToSequenceModel`. The cache is empty."""
        memory, state = self._encode(source, segments, train=False)
        return memory, jax.tree.map(lambda leaf: _repeat(leaf, beam_size), state), ()

    def decode_step(
        self,
        memory: Tree,
        state: Tree,
        cache: Tree,
        tokens: jax.Array,
        ancestors: jax.Array,
        position: jax.Array,
    ) -> tuple[jax.Array, Tree, Tree]:
        """Returns the logits of the next token; see `SequenceToSequenceModel`."""
        projected = self.first(self.target_embedding(tokens))
        state, (vectors, _) = _decoder_step(self.decoder(), memory, state, projected, None)
        return self.output(vectors), state, cache

    def _encode(
        self, source: jax.Array, segments: jax.Array, train: bool
    ) -> tuple["_Memory", "_DecoderState"]:
        valid = segments > 0
        lengths = valid.sum(axis=1)
        x = self.source_embedding(source)
        for layer in self.encoder:
            x, carry = layer(self.drop(x, deterministic=not train), lengths)
        x = self.drop(x, deterministic=not train)
        last = jnp.concatenate([carry.hidden[0], carry.hidden[1]], axis=-1)
        initial = jnp.tanh(self.bridge(last))
        initial = initial.reshape(x.shape[0], 2, self.num_decoder_layers, self.features)
        zeros = jnp.zeros((x.shape[0], self.features), self.dtype)
        state = _DecoderState(initial[:, 0], initial[:, 1].astype(jnp.float32), zeros)
        return _Memory(x, self.keys(x), valid), state

    def _dropout_masks(self, batch: int) -> jax.Array:
        """Returns the scaled masks between decoder layers, [batch, 1, layers, features]."""
        ones = jnp.ones((batch, 1, self.num_decoder_layers, self.features), self.dtype)
        return self.drop(ones, deterministic=False)


class _Memory(NamedTuple):
    """The encoder's output."""

    values: jax.Array  # [batch, source_length, 2 features]
    keys: jax.Array  # [batch, source_length, features]
    valid: jax.Array  # bool [batch, source_length]


class _DecoderState(NamedTuple):
    """The state of the decoder between two steps; a beam axis may follow the batch axis."""

    hidden: jax.Array  # [batch, layers, features]
    cell: jax.Array  # [batch, layers, features] float32
    attentional: jax.Array  # [batch, features], the attentional vector of the step before


class _Kernels(NamedTuple):
    """The parameters of the decoder LSTM and of its attention."""

    input: jax.Array  # [layers, features, 4 features]; the first layer's is for input feeding
    recurrent: jax.Array  # [layers, features, 4 features]
    bias: jax.Array  # [layers, 4 features]
    query: jax.Array  # [features, features]
    score: jax.Array  # [features]
    combine: jax.Array  # [3 features, features]


class _DecoderKernels(nn.Module):
    """Returns the decoder's parameters as arrays, for use within `jax.lax.scan`."""

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
    kernels: _Kernels,
    memory: _Memory,
    state: _DecoderState,
    token: jax.Array,
    masks: jax.Array | None,
) -> tuple[_DecoderState, tuple[jax.Array, jax.Array]]:
    """Computes one step of the decoder.

    Args:
      kernels: the decoder's parameters.
      memory: the encoder's output.
      state: of the step before, [batch, beam, ...].
      token: the embedded input, projected for the first layer, [batch, beam, 4 features].
      masks: dropout masks [batch, 1, layers, features]; None for no dropout.

    Returns:
      The new state, and with it the attentional vector [batch, beam, features] and the attention
      weights [batch, beam, source_length].
    """
    hidden, cell, below = [], [], state.attentional
    for layer, recurrent in enumerate(kernels.recurrent):
        x = below @ kernels.input[layer] + kernels.bias[layer]
        x = x + token if layer == 0 else x
        gates = (x + state.hidden[..., layer, :] @ recurrent).astype(jnp.float32)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        # The forget gate begins open (Jozefowicz et al. 2015).
        new_cell = nn.sigmoid(f + 1) * state.cell[..., layer, :] + nn.sigmoid(i) * jnp.tanh(g)
        cell.append(new_cell)
        hidden.append((nn.sigmoid(o) * jnp.tanh(new_cell)).astype(token.dtype))
        below = hidden[-1] if masks is None else hidden[-1] * masks[..., layer, :]
    context, weights = additive_attention(
        below @ kernels.query, memory.keys, memory.values, memory.valid, kernels.score
    )
    attentional = jnp.tanh(jnp.concatenate([below, context], axis=-1) @ kernels.combine)
    new = _DecoderState(jnp.stack(hidden, axis=-2), jnp.stack(cell, axis=-2), attentional)
    return new, (attentional, weights)


def _repeat(leaf: jax.Array, beam_size: int) -> jax.Array:
    """Broadcasts [batch, ...] to [batch, beam_size, ...]."""
    return jnp.broadcast_to(leaf[:, None], (leaf.shape[0], beam_size, *leaf.shape[1:]))
