"""Greedy decoding of connectionist temporal classification (CTC; Graves et al. 2006).

An alignment names one class per frame. Merging repeated classes and removing blanks (class 0)
turns it into tokens.
"""

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode


class Hypothesis(PyTreeNode):
    """What was decoded; -1 beyond the end."""

    tokens: jax.Array  # [batch, capacity] int32, ids of the tokenizer (class - 1)
    count: jax.Array  # [batch] int32
    first: jax.Array  # [batch, capacity] int32, first frame of each token in the best alignment
    last: jax.Array  # [batch, capacity] int32, its last frame
    score: jax.Array  # [batch] float32, log-probability of that alignment and of the language


def greedy_search(log_probs: jax.Array, frames: jax.Array, capacity: int) -> Hypothesis:
    """The tokens of the most probable alignment; those beyond `capacity` are dropped.

    Args:
      log_probs: [batch, frames, classes] float32.
      frames: [batch] int32, how many frames are no padding.
      capacity: of the result, in tokens.
    """
    valid = valid_frames(log_probs, frames)
    alignment = jnp.where(valid, log_probs.argmax(-1), 0)
    score = jnp.where(valid, log_probs.max(-1), 0.0).sum(-1)
    return collapse_alignment(alignment, score, capacity)


def valid_frames(log_probs: jax.Array, frames: jax.Array) -> jax.Array:
    """Returns the mask of valid frames, bool [batch, frames]."""
    return jnp.arange(log_probs.shape[1]) < frames[:, None]


def collapse_alignment(alignment: jax.Array, score: jax.Array, capacity: int) -> Hypothesis:
    """The tokens of alignments [batch, frames], classes; 0 in padding."""
    frame = jnp.arange(alignment.shape[1])
    emits = alignment != 0
    begins = emits & (alignment != jnp.pad(alignment, ((0, 0), (1, 0)))[:, :-1])
    # Blanks go to a place that does not exist, where a scatter drops them.
    place = jnp.where(emits, jnp.cumsum(begins, axis=1) - 1, capacity)
    nothing = jnp.full(capacity, -1, jnp.int32)
    scatter = jax.vmap(lambda place, values: nothing.at[place].max(values, mode="drop"))
    frames = jnp.broadcast_to(frame, alignment.shape)
    return Hypothesis(
        tokens=scatter(place, alignment - 1),
        count=jnp.minimum(begins.sum(1), capacity),
        first=scatter(jnp.where(begins, place, capacity), frames),
        last=scatter(place, frames),
        score=score,
    )
