"""Word n-gram language model for decoding on the device."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.struct import PyTreeNode

from research.common.errors import UserError
from research.tasks.speech_recognition.decoding.arpa import BEGIN, END, UNKNOWNS, Arpa

_ROOT, _UNKNOWN = 0, 1  # nodes of the lexicon: the root, and prefixes of no word


class Automaton(PyTreeNode):
    """A deterministic automaton whose arcs are sorted by node, then by label."""

    start: jax.Array  # [nodes + 1] int32, first arc of each node
    label: jax.Array  # [arcs] int32
    target: jax.Array  # [arcs] int32, node
    steps: int = struct.field(pytree_node=False)  # of a binary search in the largest node

    @classmethod
    def build(
        cls, nodes: int, source: np.ndarray, label: np.ndarray, target: np.ndarray
    ) -> "Automaton":
        """Builds the automaton from arcs [arcs] that are sorted by `source` and `label`."""
        start = np.searchsorted(source, np.arange(nodes + 1))
        steps = int(np.diff(start).max()).bit_length()
        return cls(
            start=_on_host(start, np.int32),
            label=_on_host(label, np.int32),
            target=_on_host(target, np.int32),
            steps=steps,
        )

    def find(self, node: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the arcs of nodes [...] with labels [...], and whether they exist; broadcasts."""
        node, label = jnp.broadcast_arrays(node, label)
        end = self.start[node + 1]

        def bisect(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            right = (low < high) & (self.label[middle] < label)
            return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

        arc, _ = jax.lax.fori_loop(0, self.steps, bisect, (self.start[node], end))
        return arc, (arc < end) & (self.label[arc] == label)


class State(PyTreeNode):
    """State after a prefix of tokens."""

    node: jax.Array  # [...] int32, node of the lexicon, for the tokens of the current word
    context: jax.Array  # [...] int32, node of the n-grams, for the words before it


class LanguageModel(PyTreeNode):
    """An n-gram model with a lexicon that maps tokens to words.

    A word is scored when it is complete: at the next token that starts or separates words, or at
    the end. Words that are not in the lexicon are scored as <unk>. Methods take arrays of any
    shape, and broadcast.
    """

    lexicon: Automaton  # a trie over tokens
    word: jax.Array  # [nodes of the lexicon] int32
    ngrams: Automaton  # nodes are contexts, labels are words
    log_prob: jax.Array  # [arcs of the n-grams] float32
    backoff: jax.Array  # [contexts] float32
    shorter: jax.Array  # [contexts] int32, the longest proper suffix that is a context
    begin_context: jax.Array  # [] int32
    end_word: jax.Array  # [] int32
    starts_word: jax.Array  # [tokens] bool
    separator: int | None = struct.field(pytree_node=False)
    order: int = struct.field(pytree_node=False)

    def begin(self) -> State:
        """Returns the state before the first token, as scalars."""
        return State(node=jnp.int32(_ROOT), context=self.begin_context)

    def advance(self, state: State, token: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        """Returns the state after a token, and log-probability and number of completed words."""
        separates = jnp.equal(token, -1 if self.separator is None else self.separator)
        ends = separates | self.starts_word[token]
        log_prob, context, words = self._complete(state)
        arc, found = self.lexicon.find(jnp.where(ends, _ROOT, state.node), token)
        node = jnp.where(found, self.lexicon.target[arc], _UNKNOWN)
        state = State(
            node=jnp.where(separates, _ROOT, node),
            context=jnp.where(ends, context, state.context),
        )
        return state, jnp.where(ends, log_prob, 0.0), jnp.where(ends, words, 0)

    def finish(self, state: State) -> tuple[jax.Array, jax.Array]:
        """Returns log-probability, including </s>, and number of words completed by the end."""
        log_prob, context, words = self._complete(state)
        end_log_prob, _ = self._follow(context, self.end_word)
        return log_prob + end_log_prob, words

    def _complete(self, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns log-probability and next context of the current word, and 1 if there is one."""
        inside = state.node != _ROOT
        log_prob, context = self._follow(state.context, self.word[state.node])
        return (
            jnp.where(inside, log_prob, 0.0),
            jnp.where(inside, context, state.context),
            inside.astype(jnp.int32),
        )

    def _follow(self, context: jax.Array, word: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the log-probability of a word, and the next context."""
        cost = jnp.zeros(jnp.shape(context))
        for _ in range(self.order):
            arc, found = self.ngrams.find(context, word)
            cost += jnp.where(found, 0.0, self.backoff[context])
            context = jnp.where(found, context, self.shorter[context])
        return cost + self.log_prob[arc], self.ngrams.target[arc]


def compile_language_model(
    arpa: Arpa,
    spell: Callable[[str], Sequence[int]],
    separator: int | None,
    starts_word: np.ndarray,
) -> LanguageModel:
    """Builds a language model in NumPy arrays.

    Args:
      arpa: the n-gram model.
      spell: returns the tokens of a word. Words for which it raises UserError are excluded from the
        lexicon. Of several words with the same tokens, the lexicon contains the most probable.
      separator: the token between words; None if tokens mark the starts of words.
      starts_word: bool [tokens], whether a token starts a word.

    Raises:
      UserError: the tokenizer can encode none of the words.
    """
    lexicon, word = _compile_lexicon(arpa, spell)
    ngrams, log_prob, backoff, shorter, begin_context = _compile_ngrams(arpa)
    return LanguageModel(
        lexicon=lexicon,
        word=_on_host(word, np.int32),
        ngrams=ngrams,
        log_prob=_on_host(log_prob, np.float32),
        backoff=_on_host(backoff, np.float32),
        shorter=_on_host(shorter, np.int32),
        begin_context=_on_host(begin_context, np.int32),
        end_word=_on_host(arpa.words[END], np.int32),
        starts_word=_on_host(starts_word, bool),
        separator=separator,
        order=len(arpa.orders),
    )


def _on_host(values: Any, dtype: Any) -> Any:
    """Returns a NumPy array, also during tracing."""
    return np.asarray(values, dtype)


def _compile_lexicon(
    arpa: Arpa, spell: Callable[[str], Sequence[int]]
) -> tuple[Automaton, np.ndarray]:
    """Returns a trie over tokens, and the word of each of its nodes."""
    arcs: dict[tuple[int, int], int] = {}
    words: dict[int, int] = {}
    names = list(arpa.words)
    for word in np.argsort(arpa.orders[0].log_prob):  # ascending: the most probable word wins
        if names[word] in (BEGIN, END, *UNKNOWNS):
            continue
        try:
            tokens = spell(names[word])
        except UserError:
            continue
        node = _ROOT
        for token in tokens:
            node = arcs.setdefault((node, token), len(arcs) + 2)
        words[node] = word
    if not words:
        examples = ", ".join(itertools.islice(arpa.words, 5))
        raise UserError(
            f"cannot encode any word of the language model ({examples}, ...) with the tokenizer; "
            "check that both use the same case"
        )
    word_of = np.full(len(arcs) + 2, arpa.unknown)
    word_of[list(words)] = list(words.values())
    source, label, target = np.array(sorted((*arc, node) for arc, node in arcs.items())).T
    return Automaton.build(len(word_of), source, label, target), word_of


def _compile_ngrams(
    arpa: Arpa,
) -> tuple[Automaton, np.ndarray, np.ndarray, np.ndarray, int]:
    """Returns automaton, log_prob [arcs], backoff and shorter [contexts], and the context of <s>.

    An n-gram is a node if it is the context of others or has a back-off weight. All others are
    equivalent to their longest suffix that is a node.
    """
    next_context = [np.zeros(1, np.int64)]  # next context by order and n-gram; 0 is empty
    backoff, shorter, source = [np.zeros(1)], [np.zeros(1, np.int64)], []
    nodes = 1
    for order, grams in enumerate(arpa.orders, 1):
        suffix = np.zeros(len(grams.words), np.int64)
        for length in range(1, order):
            rows = arpa.find(grams.words[:, -length:])
            suffix = np.where(rows >= 0, next_context[length][rows], suffix)
        is_node = grams.backoff != 0
        if order < len(arpa.orders):
            is_node[arpa.contexts(order + 1)] = True
        source.append(next_context[order - 1][arpa.contexts(order)])
        next_context.append(np.where(is_node, nodes + np.cumsum(is_node) - 1, suffix))
        backoff.append(grams.backoff[is_node])
        shorter.append(suffix[is_node])
        nodes += int(is_node.sum())
    label = np.concatenate([grams.words[:, -1] for grams in arpa.orders])
    automaton = Automaton.build(
        nodes, np.concatenate(source), label, np.concatenate(next_context[1:])
    )
    log_prob = np.concatenate([grams.log_prob for grams in arpa.orders])
    begin_context = int(next_context[1][arpa.words[BEGIN]])
    return automaton, log_prob, np.concatenate(backoff), np.concatenate(shorter), begin_context
