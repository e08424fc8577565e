"""The protocol of a sequence-to-sequence model, and helpers that its models share."""

from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Tree = Any  # a pytree of arrays


class Pairs(NamedTuple):
    """A batch of source and target sequences; each row may pack several pairs.

    Segments count the pairs of a row from 1; 0 is padding.
    """

    source: jax.Array  # int32 [batch, source_length]
    source_segments: jax.Array  # int32 [batch, source_length]
    target: jax.Array  # int32 [batch, target_length]
    target_segments: jax.Array  # int32 [batch, target_length]


class SequenceToSequenceModel(Protocol):
    """An encoder and an autoregressive decoder, as a Flax module.

    Class 0 ends every sequence and is also the decoder's first input. Training computes the logits
    of a whole target at once with `__call__`; beam search calls `init_decoding` once and
    `decode_step` for each token.
    """

    num_source_classes: int
    """Size of the source vocabulary, class 0 included; the task fills it in."""

    num_target_classes: int
    """Size of the target vocabulary, class 0 included; the task fills it in."""

    shared_embedding: bool
    """Whether both sides have one vocabulary and one embedding; the task fills it in."""

    dtype: Any
    """Dtype of the computation; the task fills it in."""

    supports_packing: ClassVar[bool]
    """Whether a row may hold several pairs."""

    def check(self) -> None:
        """Raises ConfigError for a value out of range."""

    def __call__(self, batch: Pairs, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns the logits and the attention weights of whole targets (teacher forcing).

        Returns:
          float32 [batch, target_length, classes] and [batch, target_length, source_length].
        """

    def init_decoding(
        self, source: jax.Array, segments: jax.Array, beam_size: int, max_length: int
    ) -> tuple[Tree, Tree, Tree]:
        """Encodes sources int32 [batch, length] for `decode_step`.

        Returns:
          The encoder's output, the initial decoder state [batch, beam_size, ...], and an empty
          cache for `max_length` tokens.
        """

    def decode_step(
        self,
        memory: Tree,
        state: Tree,
        cache: Tree,
        tokens: jax.Array,
        ancestors: jax.Array,
        position: jax.Array,
    ) -> tuple[jax.Array, Tree, Tree]:
        """Returns the logits of the next token, float32 [batch, beam, classes].

        Args:
          memory: the encoder's output, from `init_decoding`.
          state: the decoder state, of the hypothesis in each slot.
          cache: arrays by position and slot.
          tokens: the last token of each hypothesis, int32 [batch, beam].
          ancestors: the slots of each hypothesis up to this position, int32
            [batch, beam, max_length]; see `beam_search`.
          position: the number of tokens decoded before, int [].

        Returns:
          The logits, and the new state and cache.
        """


def shift_right(target: jax.Array) -> jax.Array:
    """Returns the decoder's inputs for targets [batch, length]: class 0, then all but the last.

    In a packed row the end of a pair, class 0, precedes the next pair.
    """
    return jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
