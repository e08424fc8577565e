"""CTC prefix beam search with a word language model, on the device."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import lax

from research.tasks.speech_recognition.decoding.greedy import (
    Hypothesis,
    collapse_alignment,
    valid_frames,
)
from research.tasks.speech_recognition.decoding.language_model import LanguageModel

_MULTIPLIERS = (0x9E3779B1, 0x85EBCA77)  # odd, of two independent polynomial hashes mod 2^32


def prefix_beam_search(
    log_probs: jax.Array,
    frames: jax.Array,
    capacity: int,
    beam: int,
    tokens_per_frame: int,
    language_model: LanguageModel | None = None,
    language_model_weight: float | jax.Array = 0.0,
    word_bonus: float | jax.Array = 0.0,
) -> Hypothesis:
    """The best tokens by acoustic log-probability + weight * language model + bonus * words.

    CTC prefix beam search (Hannun et al. 2014, "First-pass large vocabulary continuous speech
    recognition using bi-directional recurrent DNNs"), except that a prefix counts as much as its
    best alignment, not as the sum of all, as in flashlight's decoder. So without a language model
    any beam finds what `greedy` finds, equally probable classes aside.

    Args:
      log_probs: [batch, frames, classes] float32.
      frames: [batch] int32, how many frames are no padding.
      capacity: of the result, in tokens; further ones are dropped, but score.
      beam: the number of prefixes that are kept.
      tokens_per_frame: the number of a frame's most probable tokens that may extend a prefix.
      language_model: scores words, each when it is complete.
      language_model_weight: of its natural log-probabilities.
      word_bonus: for each word that the language model counts.
    """
    valid = valid_frames(log_probs, frames)
    peak = log_probs.max(-1)
    # Relative to the peaks the best path scores 0 exactly, however long: no rounding can part it
    # from `greedy`. In padding a blank is certain, which leaves every prefix as it is.
    padding = jnp.where(jnp.arange(log_probs.shape[-1]) == 0, 0.0, -jnp.inf)
    relative = jnp.where(valid[..., None], log_probs - peak[..., None], padding)
    top, tokens = lax.top_k(relative[..., 1:], min(tokens_per_frame, log_probs.shape[-1] - 1))
    # Made on the host; here its arrays become constants of the program.
    language_model = jax.tree.map(jnp.asarray, language_model)
    language = _Language(language_model, language_model_weight, word_bonus)
    search = jax.vmap(partial(_search, beam, language))
    alignment, score = search(relative, top, tokens + 1)
    return collapse_alignment(alignment, score + jnp.where(valid, peak, 0.0).sum(-1), capacity)


class _Language(PyTreeNode):
    """What the words of a prefix add to its score: nothing without a model."""

    model: LanguageModel | None
    weight: float | jax.Array
    bonus: float | jax.Array

    def begin(self, beam: int) -> Any:
        if self.model is None:
            return None
        return jax.tree.map(lambda x: jnp.full(beam, x), self.model.begin())

    def advance(self, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array | float]:
        """States [beam] and tokens [tokens] to states and scores [beam, tokens]."""
        if self.model is None:
            return None, 0.0
        state = jax.tree.map(lambda x: x[:, None], state)
        state, log_prob, words = self.model.advance(state, tokens)
        return state, self.weight * log_prob + self.bonus * words

    def finish(self, state: Any) -> jax.Array | float:
        if self.model is None:
            return 0.0
        log_prob, words = self.model.finish(state)
        return self.weight * log_prob + self.bonus * words


class _Prefixes(PyTreeNode):
    """Prefixes with their best alignments up to a frame, those that end in a blank kept apart.

    An alignment's origin is where it was one frame before: 2 * prefix, + 1 if not in a blank.
    """

    blank: jax.Array  # [prefixes] float32, score of the best alignment that ends in a blank
    token: jax.Array  # [prefixes] float32, of the best one that ends in the last token
    blank_origin: jax.Array  # [prefixes] int32
    token_origin: jax.Array  # [prefixes] int32
    last: jax.Array  # [prefixes] int32, class of the last token; 0 if there is none
    hash: jax.Array  # [prefixes, 2] uint32, of all tokens
    state: Any  # of the language model

    @property
    def score(self) -> jax.Array:
        return jnp.maximum(self.blank, self.token)

    @property
    def best(self) -> jax.Array:
        """The best alignment as an origin."""
        return 2 * jnp.arange(len(self.blank)) + (self.token > self.blank)


def _search(
    beam: int, language: _Language, log_probs: jax.Array, top: jax.Array, classes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The best hypothesis of one utterance as an alignment [frames], and its score.

    Args:
      beam: the number of prefixes that are kept.
      language: what words score.
      log_probs: [frames, classes].
      top: [frames, tokens], the highest of them.
      classes: [frames, tokens], their classes.
    """
    none = jnp.full(beam, -jnp.inf)
    zero = jnp.zeros(beam, jnp.int32)
    empty = _Prefixes(
        blank=none.at[0].set(0.0),
        token=none,
        blank_origin=zero,
        token_origin=zero,
        last=zero,
        hash=jnp.ones((beam, 2), jnp.uint32),
        state=language.begin(beam),
    )

    def step(prefixes: _Prefixes, frame: tuple[jax.Array, ...]) -> tuple[_Prefixes, Any]:
        candidates = _candidates(prefixes, language, *frame)
        _, kept = lax.top_k(candidates.score, beam)
        prefixes = jax.tree.map(lambda x: x[kept], candidates)
        origins = jnp.stack([prefixes.blank_origin, prefixes.token_origin], axis=1)
        return prefixes, (origins.reshape(-1), prefixes.last)

    def back(at: jax.Array, frame: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        origins, last = frame
        return origins[at], jnp.where(at % 2 == 1, last[at // 2], 0)

    # The scan notes where each alignment came from, and the best is traced back at the end: that
    # moves a few numbers per prefix and frame, not whole buffers of tokens and their frames.
    prefixes, trace = lax.scan(step, empty, (log_probs, top, classes))
    score = prefixes.score + language.finish(prefixes.state)
    best = score.argmax()
    _, alignment = lax.scan(back, prefixes.best[best], trace, reverse=True)
    return alignment, score[best]


def _candidates(
    prefixes: _Prefixes,
    language: _Language,
    log_probs: jax.Array,
    top: jax.Array,
    classes: jax.Array,
) -> _Prefixes:
    """The prefixes one frame later, then their extensions: [beam + beam * tokens]."""
    beam = len(prefixes.last)
    again = prefixes.last[:, None] == classes
    longer = _extend(prefixes, language, top, classes, again)

    # An extension that is already a prefix of the beam becomes another alignment of that. Slots
    # that are still empty lie behind the others, so that `argmax` finds no parent among them.
    extended = _extend_hash(prefixes.hash, prefixes.last)  # [beam, beam, 2]
    is_parent = (extended == prefixes.hash).all(-1)
    merges = is_parent.any(0) & again.any(1)
    parent, place = is_parent.argmax(0), again.argmax(1)
    merged = jnp.where(merges, longer.token[parent, place], -jnp.inf)
    gone = jnp.where(merges, parent, beam), place
    longer = longer.replace(token=longer.token.at[gone].set(-jnp.inf, mode="drop"))

    repeated = prefixes.token + log_probs[prefixes.last]
    repeat_origin = 2 * jnp.arange(beam) + 1
    merged_origin = longer.token_origin[parent, place]
    same = prefixes.replace(
        blank=prefixes.score + log_probs[0],
        token=jnp.maximum(repeated, merged),
        blank_origin=prefixes.best,
        token_origin=jnp.where(merged > repeated, merged_origin, repeat_origin),
    )
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b.reshape(-1, *a.shape[1:])]), same, longer
    )


def _extend(
    prefixes: _Prefixes,
    language: _Language,
    top: jax.Array,
    classes: jax.Array,
    again: jax.Array,
) -> _Prefixes:
    """Every prefix extended by every class: [beam, tokens]. `again`: by its last token."""
    state, language_score = language.advance(prefixes.state, classes - 1)
    # Between two equal tokens there must be a blank.
    so_far = jnp.where(again, prefixes.blank[:, None], prefixes.score[:, None])
    in_blank = 2 * jnp.arange(len(again))
    return _Prefixes(
        blank=jnp.full(again.shape, -jnp.inf),
        token=so_far + top + language_score,
        blank_origin=jnp.zeros(again.shape, jnp.int32),
        token_origin=jnp.where(again, in_blank[:, None], prefixes.best[:, None]),
        last=jnp.broadcast_to(classes, again.shape),
        hash=_extend_hash(prefixes.hash, classes),
        state=state,
    )


def _extend_hash(hashes: jax.Array, classes: jax.Array) -> jax.Array:
    """The hashes [prefixes, tokens, 2] of prefixes [prefixes, 2] extended by classes [tokens]."""
    return (
        hashes[:, None] * jnp.array(_MULTIPLIERS, jnp.uint32) + classes.astype(jnp.uint32)[:, None]
    )
