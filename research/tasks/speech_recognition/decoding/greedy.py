"""Greedy decoding of connectionist temporal classification (CTC; Graves et al. 2006).

An alignment is a sequence with one class per frame. Merging repeated classes and removing blanks
(class 0) yields the tokens.
"""

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode


class Hypothesis(PyTreeNode):
    """Decoded tokens with their frames; entries after the last token are -1."""

    tokens: jax.Array  # [batch, capacity] int32, token ids (class - 1)
    token_count: jax.Array  # [batch] int32, number of tokens
    first_frame: jax.Array  # [batch, capacity] int32, of each token in the best alignment
    last_frame: jax.Array  # [batch, capacity] int32, of each token
    score: jax.Array  # [batch] float32, log-probability of the alignment plus language model score


def greedy_search(log_probs: jax.Array, frames: jax.Array, capacity: int) -> Hypothesis:
    """Decodes the most probable alignment (best path decoding).

    Args:
      log_probs: [batch, frames, classes] float32.
      frames: [batch] int32, number of valid frames.
      capacity: maximum number of tokens; further ones are dropped.
    """
    valid = frame_mask(log_probs, frames)
    alignment = jnp.where(valid, log_probs.argmax(-1), 0)
    score = jnp.where(valid, log_probs.max(-1), 0.0).sum(-1)
    return collapse_alignment(alignment, score, capacity)


def frame_mask(log_probs: jax.Array, frames: jax.Array) -> jax.Array:
    """Returns the mask of valid frames, bool [batch, frames]."""
    return jnp.arange(log_probs.shape[1]) < frames[:, None]


def collapse_alignment(alignment: jax.Array, score: jax.Array, capacity: int) -> Hypothesis:
    """Merges repeated classes and removes blanks.

    Args:
      alignment: [batch, frames] int32, classes; 0 in the padding.
      score: [batch] float32.
      capacity: maximum number of tokens; further ones are dropped.
    """
    frame = jnp.arange(alignment.shape[1])
    emits = alignment != 0
    begins = emits & (alignment != jnp.pad(alignment, ((0, 0), (1, 0)))[:, :-1])
    # Blanks get an index out of bounds, which the scatter drops.
    position = jnp.where(emits, jnp.cumsum(begins, axis=1) - 1, capacity)
    empty = jnp.full(capacity, -1, jnp.int32)
    scatter = jax.vmap(lambda position, values: empty.at[position].max(values, mode="drop"))
    frames = jnp.broadcast_to(frame, alignment.shape)
    return Hypothesis(
        tokens=scatter(position, alignment - 1),
        token_count=jnp.minimum(begins.sum(1), capacity),
        first_frame=scatter(jnp.where(begins, position, capacity), frames),
        last_frame=scatter(position, frames),
        score=score,
    )
