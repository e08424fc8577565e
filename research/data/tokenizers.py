"""Tokenizers: text to token ids and back.

A vocabulary has no special tokens such as a blank, padding or an end of sequence; tasks add them.
Words are separated by white space; a sequence of white space is equivalent to one space.
"""

import abc
import base64
import binascii
import io
import logging
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import sentencepiece

from research.common.config import renamed_from
from research.common.errors import ConfigError, UserError
from research.common.progress import activity

_NAMED = 5  # number of unknown characters or words in an error message
_ONLY_ERRORS = 2  # the log level of sentencepiece
log = logging.getLogger(__name__)


class UnknownTokensError(UserError):
    """A text contains characters or words that are not in the vocabulary.

    Attributes:
      named: the first of them, such as "unknown characters 'ü', 'x'".
    """

    def __init__(self, named: str):
        super().__init__(
            f"{named}: not in the tokenizer's vocabulary; "
            "normalise the text, or use a vocabulary that contains them"
        )
        self.named = named


class Tokenizer(abc.ABC):
    """Base of the tokenizers, frozen dataclasses that contain their vocabulary."""

    @abc.abstractmethod
    def resolve(self, texts: Iterable[str]) -> Self:
        """Returns the tokenizer with a vocabulary: the configured one, else one of the texts.

        Args:
          texts: training texts.

        Raises:
          ConfigError: the vocabulary cannot be built from the texts.
        """

    def resolve_without_data(self) -> Self:
        """Returns the tokenizer with a vocabulary of a plausible size, if it has none."""
        return self

    @property
    @abc.abstractmethod
    def is_resolved(self) -> bool:
        """Whether the tokenizer has its vocabulary."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Size of the vocabulary; ids are 0 to `size - 1`."""

    @property
    @abc.abstractmethod
    def tokens(self) -> tuple[str, ...]:
        """Displayed form of each token; a space is visible."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text.

        Raises:
          UnknownTokensError: the text contains characters or words that are not in the vocabulary.
        """

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a sequence of ids, its words separated by single spaces."""

    @property
    @abc.abstractmethod
    def starts_word(self) -> np.ndarray:
        """Whether each token starts a word, bool [size]; all False if there is a `separator`."""

    @property
    def separator(self) -> int | None:
        """Id of the token between words; None if word starts are marked by `starts_word`."""
        return None


@dataclass(frozen=True)
class Characters(Tokenizer):
    """Characters as tokens, including the space between words."""

    vocabulary: str = ""
    """Characters by id; empty: the space and those of the training texts, sorted."""

    def __post_init__(self):
        _check_distinct(self.vocabulary)

    def resolve(self, texts: Iterable[str]) -> Self:
        if self.is_resolved:
            return self
        return replace(self, vocabulary="".join(sorted({" "}.union(*map(_normalize, texts)))))

    def resolve_without_data(self) -> Self:
        return self if self.is_resolved else replace(self, vocabulary=" '" + string.ascii_lowercase)

    @property
    def is_resolved(self) -> bool:
        return bool(self.vocabulary)

    @property
    def size(self) -> int:
        return len(self.vocabulary)

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self.vocabulary.replace(" ", "␣"))

    def encode(self, text: str) -> list[int]:
        return _look_up(_normalize(text), self._ids, "characters")

    def decode(self, ids: Sequence[int]) -> str:
        return _normalize("".join(self.vocabulary[i] for i in ids))

    @property
    def starts_word(self) -> np.ndarray:
        return np.zeros(self.size, bool)

    @property
    def separator(self) -> int | None:
        return self._ids.get(" ")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.vocabulary)}


@dataclass(frozen=True)
class Words(Tokenizer):
    """Words as tokens."""

    vocabulary: tuple[str, ...] = ()
    """Words by id; empty: those of the training texts, sorted."""

    def __post_init__(self):
        _check_distinct(self.vocabulary)
        for word in self.vocabulary:
            if word.split() != [word]:
                raise ConfigError("vocabulary", f"invalid word '{word}': expected no white space")

    def resolve(self, texts: Iterable[str]) -> Self:
        if self.is_resolved:
            return self
        return replace(self, vocabulary=tuple(sorted({w for text in texts for w in text.split()})))

    def resolve_without_data(self) -> Self:
        words = tuple(f"word{i}" for i in range(1000))
        return self if self.is_resolved else replace(self, vocabulary=words)

    @property
    def is_resolved(self) -> bool:
        return bool(self.vocabulary)

    @property
    def size(self) -> int:
        return len(self.vocabulary)

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.vocabulary

    def encode(self, text: str) -> list[int]:
        return _look_up(text.split(), self._ids, "words")

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.vocabulary[i] for i in ids)

    @property
    def starts_word(self) -> np.ndarray:
        return np.ones(self.size, bool)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary)}


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """UTF-8 bytes as tokens, including the space between words; every text can be encoded."""

    def resolve(self, texts: Iterable[str]) -> Self:
        return self

    @property
    def is_resolved(self) -> bool:
        return True

    @property
    def size(self) -> int:
        return 256

    @property
    def tokens(self) -> tuple[str, ...]:
        shown = {i: chr(i) for i in range(ord("!"), ord("~") + 1)} | {self.separator: "␣"}
        return tuple(shown.get(i, f"<0x{i:02X}>") for i in range(self.size))

    def encode(self, text: str) -> list[int]:
        return list(_normalize(text).encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a sequence of ids; invalid UTF-8 becomes U+FFFD."""
        return _normalize(bytes(int(i) for i in ids).decode(errors="replace"))

    @property
    def starts_word(self) -> np.ndarray:
        return np.zeros(self.size, bool)

    @property
    def separator(self) -> int:
        return ord(" ")


@dataclass(frozen=True)
class WordPieces(Tokenizer):
    """Subwords as tokens, from sentencepiece's unigram language model (Kudo 2018).

    sentencepiece's id 0, the unknown token, is left out: ids are sentencepiece's minus one.
    """

    vocab_size: int = renamed_from("pieces", default=1024)
    """Size of the vocabulary, which includes every character of the texts and the word start; it is
    reduced, with a warning, where the training texts have fewer word pieces."""

    byte_fallback: bool = False
    """Encode characters that are not in the training texts as bytes; every text can be encoded.

    The vocabulary then includes the 256 bytes.
    """

    model: str = ""
    """A sentencepiece model file as base64; empty: train one on the training texts."""

    def __post_init__(self):
        if self.vocab_size < 1:
            raise ConfigError("vocab_size", f"invalid size {self.vocab_size}: expected at least 1")
        if not self.model:
            return
        if self._processor.unk_id() != 0:
            raise ConfigError("model", "invalid model: expected unk_id=0")
        if (size := self._processor.vocab_size() - 1) != self.vocab_size:
            problem = f"invalid size {self.vocab_size}: expected {size}, as in the model"
            raise ConfigError("vocab_size", problem)
        # Without such a piece, this is the unknown token.
        has_bytes = self._processor.is_byte(self._processor.piece_to_id("<0x00>"))
        if has_bytes != self.byte_fallback:
            problem = f"invalid value {self.byte_fallback}: expected {has_bytes}, as in the model"
            raise ConfigError("byte_fallback", problem)

    def resolve(self, texts: Iterable[str]) -> Self:
        if self.is_resolved:
            return self
        texts, size = list(map(_normalize, texts)), self.vocab_size
        with activity("training the word pieces"):
            try:
                model = _train(texts, size, self.byte_fallback)
            except _TooFewPiecesError as error:
                lowered = "vocab_size lowered from %d to %d, the maximum for these texts"
                log.warning(lowered, size, error.most)
                size = error.most
                model = _train(texts, size, self.byte_fallback)
        return replace(self, vocab_size=size, model=base64.b64encode(model).decode())

    @property
    def is_resolved(self) -> bool:
        return bool(self.model)

    @property
    def size(self) -> int:
        return self.vocab_size

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self._processor.id_to_piece(i + 1) for i in range(self.size))

    def encode(self, text: str) -> list[int]:
        return _look_up(
            self._processor.encode(_normalize(text), out_type=str), self._ids, "characters"
        )

    def decode(self, ids: Sequence[int]) -> str:
        return _normalize(self._processor.decode([int(i) + 1 for i in ids]))

    @cached_property
    def starts_word(self) -> np.ndarray:
        return np.array([token.startswith("▁") for token in self.tokens])

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.tokens)}

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        try:
            model = base64.b64decode(self.model, validate=True)
            return sentencepiece.SentencePieceProcessor(model_proto=model)
        except (binascii.Error, RuntimeError):
            raise ConfigError(
                "model", "invalid model: expected a sentencepiece model in base64"
            ) from None


class _TooFewPiecesError(Exception):
    """Texts have fewer word pieces than a vocabulary should have."""

    def __init__(self, most: int):
        super().__init__(most)
        self.most = most


def _train(texts: Sequence[str], vocab_size: int, byte_fallback: bool) -> bytes:
    """Trains a model and returns its file; the same texts give the same bytes.

    Raises:
      _TooFewPiecesError: the vocabulary is too large for the texts.
      ConfigError: it is too small, or there are no texts.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size + 1,
            character_coverage=1.0,
            byte_fallback=byte_fallback,
            normalization_rule_name="identity",
            max_sentence_length=1 << 24,  # bytes; sentencepiece drops longer texts silently
            num_threads=1,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=_ONLY_ERRORS,
        )
    except RuntimeError as error:
        # Its sizes count the unknown token.
        if highest := re.search(r"too high .* <= (\d+)", str(error)):
            raise _TooFewPiecesError(int(highest[1]) - 1) from None
        problem = f"cannot train sentencepiece on these texts: {error}"
        if lowest := re.search(r"smaller than required_chars. \d+ vs (\d+)", str(error)):
            expected = f"expected at least {int(lowest[1]) - 1} for these texts"
            problem = f"invalid size {vocab_size}: {expected}"
        raise ConfigError("vocab_size", problem) from None
    return model.getvalue()


def _normalize(text: str) -> str:
    return " ".join(text.split())


def _look_up(parts: Sequence[str], ids: dict[str, int], kind: str) -> list[int]:
    try:
        return [ids[part] for part in parts]
    except KeyError:
        unknown = list(dict.fromkeys(part for part in parts if part not in ids))
        named = ", ".join(f"'{part}'" for part in unknown[:_NAMED])
        raise UnknownTokensError(f"unknown {kind} {named}") from None


def _check_distinct(vocabulary: Sequence[str]) -> None:
    if len(set(vocabulary)) < len(vocabulary):
        repeated = next(part for part in vocabulary if vocabulary.count(part) > 1)
        raise ConfigError("vocabulary", f"repeated entry '{repeated}': expected distinct entries")
