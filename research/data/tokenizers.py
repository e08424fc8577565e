"""Text to the ids that a network learns, and back.

A tokenizer knows no blank, padding or end of sentence: whoever needs such a class adds it. Words
are what white space separates; it counts as one space wherever it stands.
"""

import abc
import base64
import binascii
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import sentencepiece

from research.common.errors import ConfigError, UserError

_NAMED = 5  # unknown tokens in an error message
_ONLY_ERRORS = 2  # the log level of sentencepiece


class Tokenizer(abc.ABC):
    """What all tokenizers offer. They are frozen dataclasses, their vocabulary a part of them."""

    @abc.abstractmethod
    def resolve(self, texts: Iterable[str]) -> Self:
        """The tokenizer with a vocabulary: the one it was given, else that of training texts.

        Raises:
          ConfigError: the texts do not allow what was asked for.
        """

    @property
    @abc.abstractmethod
    def is_resolved(self) -> bool:
        """Whether nothing is missing that the training texts would tell."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of tokens; ids are 0 to `size - 1`."""

    @property
    @abc.abstractmethod
    def tokens(self) -> tuple[str, ...]:
        """How each token is shown to people; a space is visible."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
          UserError: the text holds what the vocabulary lacks; names the first of it.
        """

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of any ids, its words separated by single spaces."""

    @property
    @abc.abstractmethod
    def starts_word(self) -> np.ndarray:
        """Whether a token begins a word, bool [size]; none does where there is a `separator`."""

    @property
    def separator(self) -> int | None:
        """The id that stands between words; None where words begin with a token that says so."""
        return None


@dataclass(frozen=True)
class Characters(Tokenizer):
    """Each character is a token, the space between words too."""

    vocabulary: str = ""
    """The characters by id; empty: the space and those of the training texts, sorted."""

    def __post_init__(self):
        _refuse_repeated(self.vocabulary)

    def resolve(self, texts: Iterable[str]) -> Self:
        if self.is_resolved:
            return self
        return replace(self, vocabulary="".join(sorted({" "}.union(*map(_tidy, texts)))))

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
        return _look_up(_tidy(text), self._ids, "characters")

    def decode(self, ids: Sequence[int]) -> str:
        return _tidy("".join(self.vocabulary[i] for i in ids))

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
    """Each word is a token."""

    vocabulary: tuple[str, ...] = ()
    """The words by id; empty: those of the training texts, sorted."""

    def __post_init__(self):
        _refuse_repeated(self.vocabulary)
        for word in self.vocabulary:
            if word.split() != [word]:
                raise ConfigError("vocabulary", f"'{word}' is not one word")

    def resolve(self, texts: Iterable[str]) -> Self:
        if self.is_resolved:
            return self
        return replace(self, vocabulary=tuple(sorted({w for text in texts for w in text.split()})))

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
    """Each byte of UTF-8 is a token, the space between words too: no text is refused."""

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
        return list(_tidy(text).encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of any ids; what is no UTF-8 becomes U+FFFD."""
        return _tidy(bytes(int(i) for i in ids).decode(errors="replace"))

    @property
    def starts_word(self) -> np.ndarray:
        return np.zeros(self.size, bool)

    @property
    def separator(self) -> int:
        return ord(" ")


@dataclass(frozen=True)
class WordPieces(Tokenizer):
    """Frequent parts of words are tokens, from a unigram language model (Kudo 2018).

    sentencepiece's own id 0, for what is unknown, is left out: ids are sentencepiece's less one.
    """

    pieces: int = 1024
    """The number of tokens. Each character of the texts is one, and so is the start of a word."""

    byte_fallback: bool = False
    """Characters that the training texts lack are written as bytes: no text is refused.

    Each of the 256 bytes is then one of the `pieces` too.
    """

    model: str = ""
    """sentencepiece's model file as base64; empty: one is trained on the training texts."""

    def __post_init__(self):
        if self.pieces < 1:
            raise ConfigError("pieces", f"must be positive, is {self.pieces}")
        if not self.model:
            return
        if self._processor.unk_id() != 0:
            raise ConfigError("model", "must hold its piece for the unknown at id 0")
        if (held := self._processor.vocab_size() - 1) != self.pieces:
            raise ConfigError("pieces", f"the given model has {held}, not {self.pieces}")
        # Where there is no such piece, the one for the unknown is found.
        held = self._processor.is_byte(self._processor.piece_to_id("<0x00>"))
        if held != self.byte_fallback:
            which = "a piece for each byte" if held else "no pieces for bytes"
            raise ConfigError("byte_fallback", f"must be {held}: the given model has {which}")

    def resolve(self, texts: Iterable[str]) -> Self:
        if self.is_resolved:
            return self
        model = _train(map(_tidy, texts), self.pieces, self.byte_fallback)
        return replace(self, model=base64.b64encode(model).decode())

    @property
    def is_resolved(self) -> bool:
        return bool(self.model)

    @property
    def size(self) -> int:
        return self.pieces

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self._processor.id_to_piece(i + 1) for i in range(self.size))

    def encode(self, text: str) -> list[int]:
        return _look_up(self._processor.encode(_tidy(text), out_type=str), self._ids, "characters")

    def decode(self, ids: Sequence[int]) -> str:
        return _tidy(self._processor.decode([int(i) + 1 for i in ids]))

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
            raise ConfigError("model", "is no sentencepiece model in base64") from None


def _train(texts: Iterable[str], pieces: int, byte_fallback: bool) -> bytes:
    """The model file; the same texts give the same bytes."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=pieces + 1,
            character_coverage=1.0,
            byte_fallback=byte_fallback,
            normalization_rule_name="identity",
            max_sentence_length=1 << 24,  # bytes; longer texts are dropped without a word
            num_threads=1,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=_ONLY_ERRORS,
        )
    except RuntimeError as error:
        raise ConfigError("pieces", _refusal(str(error), pieces)) from None
    return model.getvalue()


def _refusal(message: str, pieces: int) -> str:
    """What sentencepiece says against a number of pieces, without the unknown one it counts."""
    if highest := re.search(r"too high .* <= (\d+)", message):
        return f"must be at most {int(highest[1]) - 1} for these texts, is {pieces}"
    if lowest := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return f"must be at least {int(lowest[1]) - 1} for these texts, is {pieces}"
    return f"sentencepiece cannot learn from these texts: {message}"


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _look_up(parts: Sequence[str], ids: dict[str, int], kind: str) -> list[int]:
    try:
        return [ids[part] for part in parts]
    except KeyError:
        unknown = list(dict.fromkeys(part for part in parts if part not in ids))
        named = ", ".join(f"'{part}'" for part in unknown[:_NAMED])
        raise UserError(
            f"the tokenizer's vocabulary lacks the {kind} {named}; "
            "normalise the text, or give a vocabulary that holds them"
        ) from None


def _refuse_repeated(vocabulary: Sequence[str]) -> None:
    if len(set(vocabulary)) < len(vocabulary):
        repeated = next(part for part in vocabulary if vocabulary.count(part) > 1)
        raise ConfigError("vocabulary", f"holds '{repeated}' more than once")
