"""CTC prefix beam search with a word language model, on the device."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import lax

from research.layers.top_k import top_k
from research.tasks.speech_recognition.decoding.greedy import (
    Hypothesis,
    collapse_alignment,
    frame_mask,
)
from research.tasks.speech_recognition.decoding.language_model import LanguageModel

_MULTIPLIERS = (0x9E3779B1, 0x85EBCA77)  # odd, of two independent polynomial hashes mod 2^32


def prefix_beam_search(
    log_probs: jax.Array,
    frames: jax.Array,
    capacity: int,
    beam_size: int,
    tokens_per_frame: int,
    language_model: LanguageModel | None = None,
    language_model_weight: float | jax.Array = 0.0,
    word_bonus: float | jax.Array = 0.0,
) -> Hypothesis:
    """Maximises acoustic log-probability + weight * language model + bonus * number of words.

    CTC prefix beam search (Hannun et al. 2014, "First-pass large vocabulary continuous speech
    recognition using bi-directional recurrent DNNs"), except that the score of a prefix is that of
    its best alignment instead of the sum over all, as in flashlight's decoder. Without a language
    model, any beam size therefore gives the result of `greedy_search`, up to ties.

    Args:
      log_probs: [batch, frames, classes] float32.
      frames: [batch] int32, number of valid frames.
      capacity: maximum number of tokens in the result; further ones are dropped but scored.
      beam_size: number of prefixes to keep after each frame.
      tokens_per_frame: number of most probable tokens of a frame that may extend a prefix.
      language_model: scores each word when it is complete.
      language_model_weight: weight of its natural log-probabilities.
      word_bonus: score added for each word.
    """
    valid = frame_mask(log_probs, frames)
    peak = log_probs.max(-1)
    # Relative to the peaks the best path scores exactly 0 at any length, so that rounding cannot
    # change it. In the padding a blank has probability 1, which leaves all prefixes unchanged.
    padding = jnp.where(jnp.arange(log_probs.shape[-1]) == 0, 0.0, -jnp.inf)
    relative = jnp.where(valid[..., None], log_probs - peak[..., None], padding)
    top, tokens = top_k(relative[..., 1:], min(tokens_per_frame, log_probs.shape[-1] - 1))
    # NumPy arrays, of a model that is not an argument of the program, become constants of it here.
    language_model = jax.tree.map(jnp.asarray, language_model)
    scorer = _WordScorer(language_model, language_model_weight, word_bonus)
    search = jax.vmap(partial(_search, beam_size, scorer))
    alignment, score = search(relative, top, tokens + 1)
    return collapse_alignment(alignment, score + jnp.where(valid, peak, 0.0).sum(-1), capacity)


class _WordScorer(PyTreeNode):
    """Scores the words of prefixes; without a model, scores are 0."""

    model: LanguageModel | None
    weight: float | jax.Array
    bonus: float | jax.Array

    def begin(self, beam_size: int) -> Any:
        """Returns the states [beam_size] of empty prefixes."""
        if self.model is None:
            return None
        return jax.tree.map(lambda x: jnp.full(beam_size, x), self.model.begin())

    def advance(self, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array | float]:
        """Returns states and scores [beam_size, tokens] after each of `tokens` [tokens]."""
        if self.model is None:
            return None, 0.0
        state = jax.tree.map(lambda x: x[:, None], state)
        state, log_prob, words = self.model.advance(state, tokens)
        return state, self._combine(log_prob, words)

    def finish(self, state: Any) -> jax.Array | float:
        """Returns the scores [beam_size] of ending the utterance in these states."""
        if self.model is None:
            return 0.0
        return self._combine(*self.model.finish(state))

    def _combine(self, log_prob: jax.Array, words: jax.Array) -> jax.Array:
        return self.weight * log_prob + self.bonus * words.astype(jnp.float32)


class _Prefixes(PyTreeNode):
    """Prefixes with their best alignments that end in a blank, and in the last token.

    The parent of an alignment encodes that of the previous frame as 2 * prefix index, plus 1 if it
    ends in the prefix's last token.
    """

    blank: jax.Array  # [prefixes] float32, score of the best alignment that ends in a blank
    token: jax.Array  # [prefixes] float32, of the best alignment that ends in the last token
    blank_parent: jax.Array  # [prefixes] int32
    token_parent: jax.Array  # [prefixes] int32
    last: jax.Array  # [prefixes] int32, class of the last token; 0 if there is none
    hash: jax.Array  # [prefixes, 2] uint32, of all tokens
    state: Any  # of the language model

    @property
    def score(self) -> jax.Array:
        """Score of the best alignment, [prefixes]."""
        return jnp.maximum(self.blank, self.token)

    @property
    def best(self) -> jax.Array:
        """Index of the best alignment, [prefixes], in the encoding of parents."""
        return 2 * jnp.arange(len(self.blank)) + (self.token > self.blank).astype(jnp.int32)


def _search(
    beam_size: int,
    scorer: _WordScorer,
    log_probs: jax.Array,
    top: jax.Array,
    classes: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Searches one utterance.

    Args:
      beam_size: number of prefixes to keep.
      scorer: scores words.
      log_probs: [frames, classes].
      top: [frames, tokens], the highest log-probabilities of tokens.
      classes: [frames, tokens], their classes.

    Returns:
      the best alignment as classes [frames], and its score.
    """
    none = jnp.full(beam_size, -jnp.inf)
    zero = jnp.zeros(beam_size, jnp.int32)
    empty = _Prefixes(
        blank=none.at[0].set(0.0),
        token=none,
        blank_parent=zero,
        token_parent=zero,
        last=zero,
        hash=jnp.ones((beam_size, 2), jnp.uint32),
        state=scorer.begin(beam_size),
    )

    def step(prefixes: _Prefixes, frame: tuple[jax.Array, ...]) -> tuple[_Prefixes, Any]:
        candidates = _candidates(prefixes, scorer, *frame)
        _, kept = lax.top_k(candidates.score, beam_size)
        prefixes = jax.tree.map(lambda x: x[kept], candidates)
        parents = jnp.stack([prefixes.blank_parent, prefixes.token_parent], axis=1)
        return prefixes, (parents.reshape(-1), prefixes.last)

    def trace_back(at: jax.Array, frame: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        parents, last = frame
        return parents[at], jnp.where(at % 2 == 1, last[at // 2], 0)

    # The scan stores back-pointers, and the best alignment is traced back at the end. Keeping whole
    # token buffers would copy each of them at every frame.
    prefixes, trace = lax.scan(step, empty, (log_probs, top, classes))
    score = prefixes.score + scorer.finish(prefixes.state)
    best = score.argmax()
    _, alignment = lax.scan(trace_back, prefixes.best[best], trace, reverse=True)
    return alignment, score[best]


def _candidates(
    prefixes: _Prefixes,
    scorer: _WordScorer,
    log_probs: jax.Array,
    top: jax.Array,
    classes: jax.Array,
) -> _Prefixes:
    """Returns the prefixes one frame later and their extensions: [beam + beam * tokens]."""
    beam_size = len(prefixes.last)
    repeats = prefixes.last[:, None] == classes
    extended = _extend(prefixes, scorer, top, classes, repeats)

    # An extension that equals a prefix of the beam becomes another alignment of that prefix. Empty
    # slots come after all others, so that `argmax` does not find a parent among them.
    hashes = _extend_hash(prefixes.hash, prefixes.last)  # [beam, beam, 2]
    is_parent = (hashes == prefixes.hash).all(-1)
    merges = is_parent.any(0) & repeats.any(1)
    parent, column = is_parent.argmax(0), repeats.argmax(1)
    merged = jnp.where(merges, extended.token[parent, column], -jnp.inf)
    removed = jnp.where(merges, parent, beam_size), column
    extended = extended.replace(token=extended.token.at[removed].set(-jnp.inf, mode="drop"))

    repeated = prefixes.token + log_probs[prefixes.last]
    repeat_parent = 2 * jnp.arange(beam_size) + 1
    merged_parent = extended.token_parent[parent, column]
    same = prefixes.replace(
        blank=prefixes.score + log_probs[0],
        token=jnp.maximum(repeated, merged),
        blank_parent=prefixes.best,
        token_parent=jnp.where(merged > repeated, merged_parent, repeat_parent),
    )
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b.reshape(-1, *a.shape[1:])]), same, extended
    )


def _extend(
    prefixes: _Prefixes,
    scorer: _WordScorer,
    top: jax.Array,
    classes: jax.Array,
    repeats: jax.Array,
) -> _Prefixes:
    """Returns every prefix extended by every class: [beam, tokens].

    Args:
      prefixes: [beam].
      scorer: scores words.
      top: [tokens], log-probabilities.
      classes: [tokens].
      repeats: bool [beam, tokens], whether the class is the prefix's last token.
    """
    state, word_score = scorer.advance(prefixes.state, classes - 1)
    # CTC requires a blank between two equal tokens.
    previous = jnp.where(repeats, prefixes.blank[:, None], prefixes.score[:, None])
    in_blank = 2 * jnp.arange(len(repeats))
    return _Prefixes(
        blank=jnp.full(repeats.shape, -jnp.inf),
        token=previous + top + word_score,
        blank_parent=jnp.zeros(repeats.shape, jnp.int32),
        token_parent=jnp.where(repeats, in_blank[:, None], prefixes.best[:, None]),
        last=jnp.broadcast_to(classes, repeats.shape),
        hash=_extend_hash(prefixes.hash, classes),
        state=state,
    )


def _extend_hash(hashes: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns the hashes [prefixes, tokens, 2] of prefixes [prefixes, 2] extended by [tokens]."""
    return (
        hashes[:, None] * jnp.array(_MULTIPLIERS, jnp.uint32) + classes.astype(jnp.uint32)[:, None]
    )
