"""Word n-gram language models as ARPA files hold them.

An ARPA file lists n-grams with log10 probabilities and, for those that are the context of others,
log10 weights for backing off (Jurafsky and Martin, "Speech and Language Processing", chapter 3).
In memory all logarithms are natural.
"""

import io
import math
import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from research.common.errors import UserError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
UNKNOWNS = (UNKNOWN, "<UNK>")
_MISSING_UNKNOWN = -100.0  # log10 of the probability that KenLM gives <unk> where a file has none


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
        return next(self.words[word] for word in UNKNOWNS if word in self.words)

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
        if not any(word in words for word in UNKNOWNS):
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
