"""Word n-gram language models: estimated from text, read as ARPA, compiled for the decoder.

An ARPA file lists n-grams with log10 probabilities and, for those that are the context of others,
log10 weights for backing off (Jurafsky and Martin, "Speech and Language Processing", chapter 3).
In memory all logarithms are natural.
"""

import io
import itertools
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.struct import PyTreeNode

from research.errors import UserError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_UNKNOWNS = (UNKNOWN, "<UNK>")
_NEVER = -99.0  # log10 of a probability of zero, as ARPA files write it
_MISSING_UNKNOWN = -100.0  # log10 of the probability that KenLM gives <unk> where a file has none
_FALLBACK_DISCOUNTS = (0.0, 0.5, 1.0, 1.5)  # those of KenLM's lmplz
_ROOT, _ASTRAY = 0, 1  # nodes of the lexicon: where words begin, and where no word leads


def estimate(sentences: Iterable[str], order: int) -> str:
    """The ARPA text of an interpolated n-gram model with modified Kneser-Ney smoothing.

    Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling",
    section 3, ending in the uniform distribution over all words, </s> and <unk> (Heafield et al.
    2013, "Scalable modified Kneser-Ney language model estimation"). Where a text is too small or
    too regular to estimate discounts from, those are 0.5, 1 and 1.5. From 948 sentences of AN4 the
    perplexity of others is 16.8 with order 3; Witten-Bell smoothing, which has no discounts, gets
    19.0.

    Raises:
      UserError: there is no sentence, or one holds <s> or </s>.
    """
    probability: dict[tuple[str, ...], float] = {}
    backoff: dict[tuple[str, ...], float] = {}
    grams_by_order = _adjusted_counts(sentences, order)
    probability[()] = 1 / len(grams_by_order[0])
    for counts in grams_by_order:
        discounts = _discounts(Counter(counts.values()))
        total: Counter[tuple[str, ...]] = Counter()
        held_back: dict[tuple[str, ...], float] = {}
        for gram, count in counts.items():
            context = gram[:-1]
            total[context] += count
            held_back[context] = held_back.get(context, 0.0) + discounts[min(count, 3)]
        for gram, count in counts.items():
            context = gram[:-1]
            backoff[context] = held_back[context] / total[context]
            discounted = (count - discounts[min(count, 3)]) / total[context]
            probability[gram] = discounted + backoff[context] * probability[gram[1:]]
    return "\n".join(_arpa_lines(grams_by_order, probability, backoff))


def _adjusted_counts(sentences: Iterable[str], order: int) -> list[Counter[tuple[str, ...]]]:
    """By order, how often an n-gram occurs; below the highest, after how many different words."""
    raw: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
    for words in filter(None, map(str.split, sentences)):
        if BEGIN in words or END in words:
            raise UserError(f"'{' '.join(words)}' holds {BEGIN} or {END}; leave them out")
        padded = (BEGIN, *words, END)
        for end in range(2, len(padded) + 1):
            raw[0][padded[end - 1 : end]] += 1
            for length in range(2, min(order, end) + 1):
                raw[length - 1][padded[end - length : end]] += 1
    if not raw[0]:
        raise UserError("there is no sentence to estimate a language model from")
    adjusted = [Counter(gram[1:] for gram in longer) for longer in raw[1:]]
    for counts, unadjusted in zip(adjusted, raw, strict=False):
        # Nothing stands before <s>, so what begins with it has no other count.
        counts.update({gram: n for gram, n in unadjusted.items() if gram[0] == BEGIN})
    adjusted.append(raw[-1])
    adjusted[0].setdefault((UNKNOWN,), 0)
    return adjusted


def _discounts(occurrences: Counter[int]) -> tuple[float, ...]:
    """What is taken from counts of 0, 1, 2, and 3 or more; Chen and Goodman 1999, section 3."""
    n1, n2, n3, n4 = (occurrences[count] for count in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return _FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return discounts if min(discounts[1:]) > 0 else _FALLBACK_DISCOUNTS


def _arpa_lines(
    grams_by_order: Sequence[Iterable[tuple[str, ...]]],
    probability: dict[tuple[str, ...], float],
    backoff: dict[tuple[str, ...], float],
) -> Iterator[str]:
    lines_by_order = []
    for grams in grams_by_order:
        lines = [_arpa_line(gram, math.log10(probability[gram]), backoff) for gram in grams]
        lines_by_order.append(lines)
    lines_by_order[0].insert(0, _arpa_line((BEGIN,), _NEVER, backoff))
    yield "\\data\\"
    for order, lines in enumerate(lines_by_order, 1):
        yield f"ngram {order}={len(lines)}"
    for order, lines in enumerate(lines_by_order, 1):
        yield f"\n\\{order}-grams:"
        yield from lines
    yield "\n\\end\\\n"


def _arpa_line(
    gram: tuple[str, ...], log_prob: float, backoff: dict[tuple[str, ...], float]
) -> str:
    weight = f"\t{math.log10(backoff[gram]):.7f}" if gram in backoff else ""
    return f"{log_prob:.7f}\t{' '.join(gram)}{weight}"


@dataclass(frozen=True)
class NGrams:
    """The n-grams of one order, sorted by `keys`."""

    words: np.ndarray  # [n-grams, order] int32
    keys: np.ndarray  # [n-grams + 1] int64: row of the context * all words + last word; a sentinel
    log_prob: np.ndarray  # [n-grams] float64
    backoff: np.ndarray  # [n-grams] float64; 0 where there is none


@dataclass(frozen=True)
class Arpa:
    """A back-off model as it was read. Words are rows of the unigrams."""

    words: dict[str, int]
    orders: tuple[NGrams, ...]

    @property
    def unknown(self) -> int:
        """The word that stands for all others."""
        return next(self.words[word] for word in _UNKNOWNS if word in self.words)

    def key(self, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The sort key of n-grams, from rows of contexts [...] and last words [...]."""
        return contexts * np.int64(len(self.words)) + words

    def contexts(self, order: int) -> np.ndarray:
        """For each n-gram of an order, the row of its context in the order below."""
        return self.orders[order - 1].keys[:-1] // len(self.words)

    def find(self, words: np.ndarray) -> np.ndarray:
        """Rows of n-grams, words int [n-grams, order]; -1 for those not listed."""
        rows = np.zeros(len(words), np.int64)
        for column, grams in zip(words.T, self.orders, strict=False):
            keys = self.key(rows, column)
            at = np.searchsorted(grams.keys, keys)
            rows = np.where(grams.keys[at] == keys, at, -1)
        return rows


def parse_arpa(source: str | Path) -> Arpa:
    """A model from an ARPA file (`Path`) or from its text (`str`).

    A file without <unk> gets one of probability 1e-100, as KenLM gives it.

    Raises:
      UserError: names the file and the line that is not as it should be.
    """
    if isinstance(source, str):
        return _parse(_Lines("ARPA text", io.StringIO(source)))
    try:
        with source.open(encoding="utf-8") as file:
            return _parse(_Lines(str(source), file))
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from None


class _Lines:
    """The lines of a file, read once; knows where it is."""

    def __init__(self, name: str, file: TextIO):
        self.name, self.number, self._file = name, 0, file

    def take(self) -> str:
        """The next line."""
        self.number += 1
        try:
            return next(self._file)
        except StopIteration:
            raise self.error("the file ends too soon; is it a whole ARPA file?") from None
        except UnicodeDecodeError:
            raise self.error("is not UTF-8 text; is it compressed?") from None

    def take_filled(self) -> str:
        """The next line that is not blank, without white space around it."""
        while not (line := self.take().strip()):
            pass
        return line

    def error(self, problem: str, number: int | None = None) -> UserError:
        return UserError(f"{self.name}:{number or self.number}: {problem}")


def _parse(lines: _Lines) -> Arpa:
    while lines.take().strip() != "\\data\\":
        pass
    counts: list[int] = []
    while match := re.fullmatch(r"ngram +(\d+) *= *(\d+)", line := lines.take_filled()):
        if int(match[1]) != len(counts) + 1:
            raise lines.error(f"expected 'ngram {len(counts) + 1}=COUNT', is '{line}'")
        counts.append(int(match[2]))
    if not counts:
        raise lines.error(f"expected 'ngram 1=COUNT', is '{line}'")
    arpa = Arpa({}, ())
    for order, count in enumerate(counts, 1):
        _expect(lines, line, f"\\{order}-grams:")
        first = lines.number + 1
        section = _read(lines, order, count, order == len(counts), arpa.words)
        arpa = Arpa(arpa.words, (*arpa.orders, _sort(lines, first, arpa, *section)))
        line = lines.take_filled()
    _expect(lines, line, "\\end\\")
    return arpa


def _expect(lines: _Lines, line: str, expected: str) -> None:
    if line != expected:
        raise lines.error(f"expected '{expected}', is '{line}'; do the counts above hold?")


def _read(
    lines: _Lines, order: int, count: int, highest: bool, words: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words [n-grams, order], log10 probabilities and backoffs; adds unigrams to `words`."""
    identify = words.__getitem__ if order > 1 else lambda word: words.setdefault(word, len(words))
    ids, log_prob, backoff = array("i"), array("d"), array("d")  # lists take five times the memory
    widths = (order + 1,) if highest else (order + 1, order + 2)
    for _ in range(count):
        fields = lines.take().split()
        if len(fields) not in widths:
            expected = "" if highest else " and perhaps a backoff"
            raise lines.error(f"expected a log probability, {order} words{expected}")
        try:
            log_prob.append(float(fields[0]))
            backoff.append(float(fields[-1]) if len(fields) > order + 1 else 0.0)
            ids.extend(identify(word) for word in fields[1 : order + 1])
        except ValueError as error:
            raise lines.error(str(error)) from None
        except KeyError as error:
            raise lines.error(f"{error} is not among the 1-grams") from None
    if order == 1:
        for word in (BEGIN, END):
            if word not in words:
                raise lines.error(f"{word} is not among the 1-grams")
        if not any(word in words for word in _UNKNOWNS):
            ids.append(identify(UNKNOWN))
            log_prob.append(_MISSING_UNKNOWN)
            backoff.append(0.0)
    return np.array(ids).reshape(-1, order), np.array(log_prob), np.array(backoff)


def _sort(
    lines: _Lines,
    first: int,
    arpa: Arpa,
    words: np.ndarray,
    log_prob: np.ndarray,
    backoff: np.ndarray,
) -> NGrams:
    """The n-grams that were read from line `first` on, checked; `arpa` holds the lower orders."""
    order = words.shape[1]
    contexts = arpa.find(words[:, :-1])
    keys = arpa.key(contexts, words[:, -1])
    sorting = np.argsort(keys, kind="stable")
    repeated = np.zeros(len(words), bool)
    repeated[sorting[1:]] = np.diff(keys[sorting]) == 0
    for wrong, problem in (
        (~(np.isfinite(log_prob) & (log_prob <= 0)), "is no log probability"),
        (~np.isfinite(backoff), "has a backoff that is not finite"),
        (contexts < 0, f"has a context that is not among the {order - 1}-grams"),
        (repeated, "is listed twice"),
    ):
        if wrong.any():
            raise lines.error(f"the {order}-gram {problem}", first + int(wrong.argmax()))
    return NGrams(
        words=words[sorting],
        keys=np.append(keys[sorting], np.iinfo(np.int64).max),
        log_prob=log_prob[sorting] * math.log(10),
        backoff=backoff[sorting] * math.log(10),
    )


def word_log_probs(arpa: Arpa, sentence: str) -> np.ndarray:
    """The natural log-probability of each word and of the end, float64 [words + 1], on the host.

    The perplexity is `exp` of minus their mean.
    """
    words = [arpa.words.get(word, arpa.unknown) for word in sentence.split()]
    padded = np.array([arpa.words[BEGIN], *words, arpa.words[END]])
    log_probs = np.zeros(len(padded) - 1)
    for end in range(2, len(padded) + 1):
        for begin in range(max(0, end - len(arpa.orders)), end):
            if (row := arpa.find(padded[None, begin:end])[0]) >= 0:
                log_probs[end - 2] += arpa.orders[end - begin - 1].log_prob[row]
                break
            if (row := arpa.find(padded[None, begin : end - 1])[0]) >= 0:
                log_probs[end - 2] += arpa.orders[end - begin - 2].backoff[row]
    return log_probs


class Automaton(PyTreeNode):
    """A deterministic automaton; the arcs of a node lie together, sorted by label."""

    start: jax.Array  # [nodes + 1] int32, first arc of each node
    label: jax.Array  # [arcs] int32
    target: jax.Array  # [arcs] int32, node
    steps: int = struct.field(pytree_node=False)  # that a binary search needs in the largest node

    @classmethod
    def build(
        cls, nodes: int, source: np.ndarray, label: np.ndarray, target: np.ndarray
    ) -> "Automaton":
        """From arcs [arcs] that are sorted by `source` and `label`."""
        start = np.searchsorted(source, np.arange(nodes + 1))
        steps = int(np.diff(start).max()).bit_length()
        return cls(
            start=_on_host(start, np.int32),
            label=_on_host(label, np.int32),
            target=_on_host(target, np.int32),
            steps=steps,
        )

    def find(self, node: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The arcs from nodes [...] with labels [...], and whether there are such; broadcasts."""
        node, label = jnp.broadcast_arrays(node, label)
        end = self.start[node + 1]

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            right = (low < high) & (self.label[middle] < label)
            return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

        arc, _ = jax.lax.fori_loop(0, self.steps, halve, (self.start[node], end))
        return arc, (arc < end) & (self.label[arc] == label)


class State(PyTreeNode):
    """Where a prefix of tokens stands."""

    node: jax.Array  # [...] int32, of the lexicon: what there is of the current word
    context: jax.Array  # [...] int32, of the n-grams: the words before it


class LanguageModel(PyTreeNode):
    """An n-gram model and a lexicon that follow the tokens of a hypothesis on the device.

    A word counts when it is complete: at the token after it, or at the end. What the lexicon does
    not hold counts as <unk>. Methods work on arrays of any one shape, and broadcast.
    """

    lexicon: Automaton  # a trie over tokens
    word: jax.Array  # [nodes of the lexicon] int32
    ngrams: Automaton  # nodes are contexts, labels are words
    log_prob: jax.Array  # [arcs of the n-grams] float32
    backoff: jax.Array  # [contexts] float32
    shorter: jax.Array  # [contexts] int32, the context without its first words
    begin_context: jax.Array  # [] int32
    end_word: jax.Array  # [] int32
    starts_word: jax.Array  # [tokens] bool
    separator: int | None = struct.field(pytree_node=False)
    order: int = struct.field(pytree_node=False)

    def begin(self) -> State:
        """Before the first token; scalars."""
        return State(node=jnp.int32(_ROOT), context=self.begin_context)

    def advance(self, state: State, token: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        """After one more token: the state, and what it completed (log-probability, words)."""
        separates = jnp.equal(token, -1 if self.separator is None else self.separator)
        ends = separates | self.starts_word[token]
        log_prob, context, words = self._complete(state)
        arc, found = self.lexicon.find(jnp.where(ends, _ROOT, state.node), token)
        node = jnp.where(found, self.lexicon.target[arc], _ASTRAY)
        state = State(
            node=jnp.where(separates, _ROOT, node),
            context=jnp.where(ends, context, state.context),
        )
        return state, jnp.where(ends, log_prob, 0.0), jnp.where(ends, words, 0)

    def finish(self, state: State) -> tuple[jax.Array, jax.Array]:
        """What the end of the utterance completes: log-probability, </s> included, and words."""
        log_prob, context, words = self._complete(state)
        end_log_prob, _ = self._follow(context, self.end_word)
        return log_prob + end_log_prob, words

    def _complete(self, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Log-probability of the current word, the context after it, and 1 if there is a word."""
        inside = state.node != _ROOT
        log_prob, context = self._follow(state.context, self.word[state.node])
        return (
            jnp.where(inside, log_prob, 0.0),
            jnp.where(inside, context, state.context),
            inside.astype(jnp.int32),
        )

    def _follow(self, context: jax.Array, word: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Log-probability of a word, and the context after it."""
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
    """The form of a model that the decoder uses, in NumPy arrays.

    Args:
      arpa: the model.
      spell: the tokens of a word; words for which it raises UserError are left out of the lexicon.
        Of words that are spelled alike, the most probable is meant.
      separator: the token that stands between words; None where words begin with a token that
        says so.
      starts_word: bool [tokens], whether a token begins a word.

    Raises:
      UserError: none of the words can be spelled.
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
    """NumPy even while a function is traced; the program that uses it makes a constant of it."""
    return np.asarray(values, dtype)


def _compile_lexicon(
    arpa: Arpa, spell: Callable[[str], Sequence[int]]
) -> tuple[Automaton, np.ndarray]:
    """The trie, and the word of each of its nodes."""
    arcs: dict[tuple[int, int], int] = {}
    words: dict[int, int] = {}
    names = list(arpa.words)
    for word in np.argsort(arpa.orders[0].log_prob):  # so that the most probable is set last
        if names[word] in (BEGIN, END, *_UNKNOWNS):
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
        shown = ", ".join(itertools.islice(arpa.words, 5))
        raise UserError(
            f"the tokenizer can spell no word of the language model ({shown}, ...); "
            "do both write upper or lower case?"
        )
    word_of = np.full(len(arcs) + 2, arpa.unknown)
    word_of[list(words)] = list(words.values())
    source, label, target = np.array(sorted((*arc, node) for arc, node in arcs.items())).T
    return Automaton.build(len(word_of), source, label, target), word_of


def _compile_ngrams(
    arpa: Arpa,
) -> tuple[Automaton, np.ndarray, np.ndarray, np.ndarray, int]:
    """Automaton, log_prob [arcs], backoff and shorter [contexts], and the context after <s>.

    A context is a node if n-grams follow it or backing off from it costs something; from any other
    one would only pass on to its longest suffix that is one.
    """
    reached = [np.zeros(1, np.int64)]  # by order and n-gram: the context after it; 0 is the empty
    backoff, shorter, source = [np.zeros(1)], [np.zeros(1, np.int64)], []
    nodes = 1
    for order, grams in enumerate(arpa.orders, 1):
        suffix = np.zeros(len(grams.words), np.int64)
        for length in range(1, order):
            rows = arpa.find(grams.words[:, -length:])
            suffix = np.where(rows >= 0, reached[length][rows], suffix)
        is_node = grams.backoff != 0
        if order < len(arpa.orders):
            is_node[arpa.contexts(order + 1)] = True
        source.append(reached[order - 1][arpa.contexts(order)])
        reached.append(np.where(is_node, nodes + np.cumsum(is_node) - 1, suffix))
        backoff.append(grams.backoff[is_node])
        shorter.append(suffix[is_node])
        nodes += int(is_node.sum())
    label = np.concatenate([grams.words[:, -1] for grams in arpa.orders])
    automaton = Automaton.build(nodes, np.concatenate(source), label, np.concatenate(reached[1:]))
    log_prob = np.concatenate([grams.log_prob for grams in arpa.orders])
    begin_context = int(reached[1][arpa.words[BEGIN]])
    return automaton, log_prob, np.concatenate(backoff), np.concatenate(shorter), begin_context
