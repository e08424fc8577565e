"""Reader of word n-gram language models in the ARPA format.

An ARPA file lists n-grams with log10 probabilities and, for those that are contexts of others,
log10 back-off weights (Jurafsky and Martin, "Speech and Language Processing", chapter 3). In memory
all logarithms are natural.
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
_UNKNOWN_LOG_PROB = -100.0  # log10 probability of <unk> in KenLM if a file lacks it


@dataclass(frozen=True)
class NGrams:
    """The n-grams of one order, sorted by `keys`."""

    words: np.ndarray  # [n-grams, order] int32
    keys: np.ndarray  # [n-grams + 1] int64, context row * vocabulary size + last word; a sentinel
    log_prob: np.ndarray  # [n-grams] float64
    backoff: np.ndarray  # [n-grams] float64, 0 if the file has none


@dataclass(frozen=True)
class Arpa:
    """A back-off model; a word is identified by its row among the unigrams."""

    words: dict[str, int]
    orders: tuple[NGrams, ...]

    @property
    def unknown(self) -> int:
        """The word that represents all words outside the vocabulary."""
        return next(self.words[word] for word in UNKNOWNS if word in self.words)

    def key(self, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Returns the sort keys of n-grams with these rows of contexts and last words."""
        return contexts * np.int64(len(self.words)) + words

    def contexts(self, order: int) -> np.ndarray:
        """Returns the row of the context of each n-gram of an order, in the next lower order."""
        return self.orders[order - 1].keys[:-1] // len(self.words)

    def find(self, words: np.ndarray) -> np.ndarray:
        """Returns the rows of n-grams, given as int [n-grams, order]; -1 for missing ones."""
        rows = np.zeros(len(words), np.int64)
        for column, grams in zip(words.T, self.orders, strict=False):
            keys = self.key(rows, column)
            at = np.searchsorted(grams.keys, keys)
            rows = np.where(grams.keys[at] == keys, at, -1)
        return rows


def parse_arpa(source: str | Path) -> Arpa:
    """Parses an ARPA file (`Path`) or its text (`str`).

    If <unk> is missing it gets probability 1e-100, as in KenLM.

    Raises:
      UserError: the file cannot be read or is invalid; names the line.
    """
    if isinstance(source, str):
        return _parse(_Lines("ARPA text", io.StringIO(source)))
    try:
        with source.open(encoding="utf-8") as file:
            return _parse(_Lines(str(source), file))
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from None


class _Lines:
    """Iterates over the lines of a file and counts them."""

    def __init__(self, name: str, file: TextIO):
        self.name, self.number, self._file = name, 0, file

    def take(self) -> str:
        """Returns the next line."""
        self.number += 1
        try:
            return next(self._file)
        except StopIteration:
            raise self.error("unexpected end of the file; is it a complete ARPA file?") from None
        except UnicodeDecodeError:
            raise self.error("invalid UTF-8; decompress the file if it is compressed") from None

    def take_nonblank(self) -> str:
        """Returns the next line that is not blank, without surrounding white space."""
        while not (line := self.take().strip()):
            pass
        return line

    def error(self, problem: str, number: int | None = None) -> UserError:
        """Returns the error for a line, the current one by default."""
        return UserError(f"{self.name}:{number or self.number}: {problem}")


def _parse(lines: _Lines) -> Arpa:
    while lines.take().strip() != "\\data\\":
        pass
    counts: list[int] = []
    while match := re.fullmatch(r"ngram +(\d+) *= *(\d+)", line := lines.take_nonblank()):
        if int(match[1]) != len(counts) + 1:
            raise lines.error(f"invalid line '{line}': expected 'ngram {len(counts) + 1}=COUNT'")
        counts.append(int(match[2]))
    if not counts:
        raise lines.error(f"invalid line '{line}': expected 'ngram 1=COUNT'")
    arpa = Arpa({}, ())
    for order, count in enumerate(counts, 1):
        _expect(lines, line, f"\\{order}-grams:")
        first = lines.number + 1
        section = _read(lines, order, count, order == len(counts), arpa.words)
        arpa = Arpa(arpa.words, (*arpa.orders, _sort(lines, first, arpa, *section)))
        line = lines.take_nonblank()
    _expect(lines, line, "\\end\\")
    return arpa


def _expect(lines: _Lines, line: str, expected: str) -> None:
    if line != expected:
        raise lines.error(f"invalid line '{line}': expected '{expected}'; check the counts above")


def _read(
    lines: _Lines, order: int, count: int, highest: bool, words: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the n-grams of one order, and adds unigrams to `words`.

    Returns:
      words [n-grams, order], log10 probabilities and log10 back-off weights.
    """
    identify = words.__getitem__ if order > 1 else lambda word: words.setdefault(word, len(words))
    ids, log_prob, backoff = array("i"), array("d"), array("d")  # lists need five times the memory
    widths = (order + 1,) if highest else (order + 1, order + 2)
    for _ in range(count):
        fields = lines.take().split()
        if len(fields) not in widths:
            optional = "" if highest else " and optionally a back-off weight"
            problem = f"expected a log probability, {order} words{optional}"
            raise lines.error(f"invalid {order}-gram: {problem}")
        try:
            log_prob.append(float(fields[0]))
            backoff.append(float(fields[-1]) if len(fields) > order + 1 else 0.0)
            ids.extend(identify(word) for word in fields[1 : order + 1])
        except ValueError as error:
            raise lines.error(f"invalid {order}-gram: {error}") from None
        except KeyError as error:
            raise lines.error(
                f"invalid {order}-gram: {error} is missing from the 1-grams"
            ) from None
    if order == 1:
        for word in (BEGIN, END):
            if word not in words:
                raise lines.error(f"missing 1-gram {word}")
        if not any(word in words for word in UNKNOWNS):
            ids.append(identify(UNKNOWN))
            log_prob.append(_UNKNOWN_LOG_PROB)
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
    """Checks and sorts n-grams.

    Args:
      lines: for error messages.
      first: number of the line of the first n-gram.
      arpa: the lower orders.
      words: [n-grams, order].
      log_prob: [n-grams], log10.
      backoff: [n-grams], log10.
    """
    order = words.shape[1]
    contexts = arpa.find(words[:, :-1])
    keys = arpa.key(contexts, words[:, -1])
    sorting = np.argsort(keys, kind="stable")
    repeated = np.zeros(len(words), bool)
    repeated[sorting[1:]] = np.diff(keys[sorting]) == 0
    for wrong, problem in (
        (
            ~(np.isfinite(log_prob) & (log_prob <= 0)),
            "has an invalid log probability",
        ),
        (~np.isfinite(backoff), "has an infinite back-off weight"),
        (contexts < 0, f"has a context that is missing from the {order - 1}-grams"),
        (repeated, "is listed twice"),
    ):
        if wrong.any():
            raise lines.error(f"invalid {order}-gram: it {problem}", first + int(np.argmax(wrong)))
    return NGrams(
        words=words[sorting],
        keys=np.append(keys[sorting], np.iinfo(np.int64).max),
        log_prob=log_prob[sorting] * math.log(10),
        backoff=backoff[sorting] * math.log(10),
    )


def word_log_probs(arpa: Arpa, sentence: str) -> np.ndarray:
    """Computes the natural log-probability of each word and of </s>, float64 [words + 1].

    The perplexity is `exp` of minus their mean. This runs on the host.
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
