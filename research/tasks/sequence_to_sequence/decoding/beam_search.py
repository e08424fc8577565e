"""Beam search as one loop on the device, for any autoregressive decoder."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

EOS = 0  # the class that ends every sequence, and the decoder's first input
_UNFINISHED_PENALTY = 1e6  # ranks unfinished hypotheses behind all finished ones

Tree = Any  # a pytree of arrays
Step = Callable[..., tuple[jax.Array, Tree, Tree]]


class Hypotheses(NamedTuple):
    """The hypotheses of a batch, in descending order of their scores."""

    tokens: jax.Array  # int32 [batch, beam, max_length], padded with EOS
    lengths: jax.Array  # int32 [batch, beam], without EOS
    score: jax.Array  # float32 [batch, beam], normalised log-probability; -inf in unused slots


class _BeamState(NamedTuple):
    """The state of the search. A slot is the index of an unfinished hypothesis in the beam."""

    position: jax.Array  # []
    last: jax.Array  # [batch, beam], the last token of each slot
    tokens: jax.Array  # [batch, beam, max_length]
    log_prob: jax.Array  # [batch, beam]
    ancestors: jax.Array  # [batch, beam, max_length]
    state: Tree
    cache: Tree
    finished: Hypotheses
    num_finished: jax.Array  # [batch]


def beam_search(
    step: Step,
    state: Tree,
    cache: Tree,
    batch: int,
    beam_size: int,
    max_length: int,
    length_penalty: float,
) -> Hypotheses:
    """Returns the most probable sequences that a beam search finds.

    A hypothesis is finished when its EOS is among the `beam_size` best continuations. An example is
    done when `beam_size` of its hypotheses are finished. So a beam of 1 is greedy search, and no
    example depends on the others. Hypotheses that reach `max_length` unfinished are ranked last.

    Args:
      step: maps `(state, cache, tokens, ancestors, position)` to the log-probabilities of the next
        class, float32 [batch, beam, classes], and the new state and cache. `tokens`, int32
        [batch, beam], are the last tokens. `ancestors`, int32 [batch, beam, max_length], holds the
        slot of each hypothesis at every position up to this one.
      state: arrays [batch, beam, ...], reordered as hypotheses move between slots.
      cache: arrays that are never reordered; a step reads them through `ancestors`.
      batch: number of examples.
      beam_size: number of hypotheses per example.
      max_length: maximum number of tokens, EOS included.
      length_penalty: alpha of Wu et al. (2016): a score is the log-probability divided by
        ((5 + length) / 6) ** alpha.
    """
    # One empty hypothesis; the other slots are unused.
    first = jnp.where(jnp.arange(beam_size) == 0, 0.0, -jnp.inf)
    empty = jnp.full((batch, beam_size, max_length), EOS, jnp.int32)
    shape = batch, beam_size
    none = Hypotheses(empty, jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf))
    begin = _BeamState(
        position=jnp.zeros((), jnp.int32),
        last=empty[..., 0],
        tokens=empty,
        log_prob=jnp.broadcast_to(first, shape),
        ancestors=jnp.zeros_like(empty),
        state=state,
        cache=cache,
        finished=none,
        num_finished=jnp.zeros(batch, jnp.int32),
    )

    def unfinished(search: _BeamState) -> jax.Array:
        return (search.position < max_length) & (search.num_finished < beam_size).any()

    end = jax.lax.while_loop(unfinished, partial(_advance, step, length_penalty), begin)
    return _rank(end, length_penalty)


def _advance(step: Step, penalty: float, search: _BeamState) -> _BeamState:
    """Extends every hypothesis by one token."""
    position, (batch, beam_size) = search.position, search.last.shape
    ancestors = search.ancestors.at[:, :, position].set(jnp.arange(beam_size))
    log_probs, state, cache = step(search.state, search.cache, search.last, ancestors, position)
    classes = log_probs.shape[-1]
    # Twice the beam: if the first half all end, the second half still fills the slots.
    totals = (search.log_prob[..., None] + log_probs).reshape(batch, -1)
    log_prob, candidate = jax.lax.top_k(totals, min(2 * beam_size, totals.shape[1]))
    parent, token = candidate // classes, candidate % classes
    tokens = _gather(search.tokens, parent).at[:, :, position].set(token)
    ends = token == EOS

    valid = ends & (jnp.arange(token.shape[1]) < beam_size) & (log_prob > -jnp.inf)
    valid &= (search.num_finished < beam_size)[:, None]
    score = jnp.where(valid, log_prob / _length_norm(position + 1, penalty), -jnp.inf)
    new = Hypotheses(tokens, jnp.full_like(token, position), score)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), search.finished, new)
    _, best = jax.lax.top_k(both.score, beam_size)

    log_prob, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_prob), beam_size)
    parent = _gather(parent, kept)
    return _BeamState(
        position=position + 1,
        last=_gather(token, kept),
        tokens=_gather(tokens, kept),
        log_prob=log_prob,
        ancestors=_gather(ancestors, parent),
        state=jax.tree.map(lambda leaf: _gather(leaf, parent), state) if beam_size > 1 else state,
        cache=cache,
        finished=jax.tree.map(lambda leaf: _gather(leaf, best), both),
        num_finished=search.num_finished + valid.sum(axis=1),
    )


def _rank(search: _BeamState, penalty: float) -> Hypotheses:
    """Returns the finished hypotheses, followed by unfinished ones where slots remain."""
    beam_size = search.last.shape[1]
    unfinished = Hypotheses(
        search.tokens,
        jnp.full_like(search.last, search.position),
        search.log_prob / _length_norm(search.position, penalty),
    )
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), search.finished, unfinished)
    is_unfinished = jnp.arange(2 * beam_size) >= beam_size
    _, best = jax.lax.top_k(
        both.score - jnp.where(is_unfinished, _UNFINISHED_PENALTY, 0), beam_size
    )
    return jax.tree.map(lambda leaf: _gather(leaf, best), both)


def _gather(leaf: jax.Array, slots: jax.Array) -> jax.Array:
    """Selects the entries of [batch, beam, ...] at `slots` [batch, new_beam]."""
    return leaf[jnp.arange(slots.shape[0])[:, None], slots]


def _length_norm(length: jax.Array, penalty: float) -> jax.Array:
    return ((5 + length) / 6) ** penalty
