"""Beam search as one loop on the device, for any network that writes a sequence token by token."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

END = 0  # the class that begins and ends every sequence
_UNFINISHED = 1e6  # puts what has no end behind all that has one

Tree = Any
Step = Callable[..., tuple[jax.Array, Tree, Tree]]


class Hypotheses(NamedTuple):
    """What was found, the best first."""

    tokens: jax.Array  # int32 [batch, beam, capacity], `END` behind the last
    lengths: jax.Array  # int32 [batch, beam], tokens before the end
    score: jax.Array  # float32 [batch, beam], log-probability over length; -inf: there is none


class _Search(NamedTuple):
    """Where the search stands. Slots are the places of the hypotheses that still grow."""

    position: jax.Array  # []
    last: jax.Array  # [batch, beam], the tokens written last
    tokens: jax.Array  # [batch, beam, capacity]
    log_prob: jax.Array  # [batch, beam]
    lineage: jax.Array  # [batch, beam, capacity]
    state: Tree
    cache: Tree
    ended: Hypotheses
    endings: jax.Array  # [batch], how many hypotheses have ended


def beam_search(
    step: Step, state: Tree, cache: Tree, batch: int, beam: int, capacity: int, penalty: float
) -> Hypotheses:
    """The likeliest sequences, as far as a beam of that width sees.

    An ending counts when it is among the `beam` best continuations, and an example is done when
    `beam` of its hypotheses have ended; so a beam of 1 is the greedy search, and no example's
    result depends on the others'. What has not ended within the capacity comes last.

    Args:
      step: `(state, cache, tokens, lineage, position)` to the log-probabilities of what follows,
        float32 [batch, beam, classes], and the new state and cache. `tokens` int32 [batch, beam]
        were written last. `lineage` int32 [batch, beam, capacity] tells for each position up to
        this one the slot in which a hypothesis then stood.
      state: arrays [batch, beam, ...], which follow their hypotheses from slot to slot.
      cache: arrays that stay where they are, and which a step reads by `lineage`: nothing is moved.
      batch: the number of examples.
      beam: hypotheses of an example.
      capacity: tokens at most, the end counted.
      penalty: scores are log-probabilities over ((5 + length) / 6) ** penalty (Wu et al. 2016).
    """
    first = jnp.where(jnp.arange(beam) == 0, 0.0, -jnp.inf)  # one hypothesis, the empty one
    empty = jnp.full((batch, beam, capacity), END, jnp.int32)
    none = Hypotheses(empty, jnp.zeros((batch, beam), jnp.int32), jnp.full((batch, beam), -jnp.inf))
    begin = _Search(
        position=jnp.zeros((), jnp.int32),
        last=empty[..., 0],
        tokens=empty,
        log_prob=jnp.broadcast_to(first, (batch, beam)),
        lineage=jnp.zeros_like(empty),
        state=state,
        cache=cache,
        ended=none,
        endings=jnp.zeros(batch, jnp.int32),
    )
    goes_on = lambda search: (search.position < capacity) & (search.endings < beam).any()  # noqa: E731
    end = jax.lax.while_loop(goes_on, partial(_advance, step, penalty), begin)
    return _ranked(end, penalty)


def _advance(step: Step, penalty: float, search: _Search) -> _Search:
    """One token more."""
    position, (batch, beam) = search.position, search.last.shape
    lineage = search.lineage.at[:, :, position].set(jnp.arange(beam))
    log_probs, state, cache = step(search.state, search.cache, search.last, lineage, position)
    classes = log_probs.shape[-1]
    # Twice the beam: were all of the first half endings, the second would still fill the slots.
    totals = (search.log_prob[..., None] + log_probs).reshape(batch, -1)
    log_prob, place = jax.lax.top_k(totals, min(2 * beam, totals.shape[1]))
    parent, token = place // classes, place % classes
    tokens = _follow(search.tokens, parent).at[:, :, position].set(token)
    ends = token == END

    counts = ends & (jnp.arange(token.shape[1]) < beam) & (log_prob > -jnp.inf)
    counts &= (search.endings < beam)[:, None]
    score = jnp.where(counts, log_prob / _length_factor(position + 1, penalty), -jnp.inf)
    found = Hypotheses(tokens, jnp.full_like(token, position), score)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), search.ended, found)
    _, best = jax.lax.top_k(both.score, beam)

    log_prob, grows = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_prob), beam)
    parent = _follow(parent, grows)
    return _Search(
        position=position + 1,
        last=_follow(token, grows),
        tokens=_follow(tokens, grows),
        log_prob=log_prob,
        lineage=_follow(lineage, parent),
        state=jax.tree.map(lambda leaf: _follow(leaf, parent), state) if beam > 1 else state,
        cache=cache,
        ended=jax.tree.map(lambda leaf: _follow(leaf, best), both),
        endings=search.endings + counts.sum(axis=1),
    )


def _ranked(search: _Search, penalty: float) -> Hypotheses:
    """The hypotheses that have ended, then, where these are too few, those that have not."""
    beam = search.last.shape[1]
    growing = Hypotheses(
        search.tokens,
        jnp.full_like(search.last, search.position),
        search.log_prob / _length_factor(search.position, penalty),
    )
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), search.ended, growing)
    late = jnp.arange(2 * beam) >= beam
    _, best = jax.lax.top_k(both.score - late * _UNFINISHED, beam)
    return jax.tree.map(lambda leaf: _follow(leaf, best), both)


def _follow(leaf: jax.Array, slots: jax.Array) -> jax.Array:
    """Of [batch, beam, ...] the entries at `slots` [batch, new_beam]."""
    return leaf[jnp.arange(len(slots))[:, None], slots]


def _length_factor(length: jax.Array, penalty: float) -> jax.Array:
    return ((5 + length) / 6) ** penalty
