"""Parallel text in the user's own files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from research.common.errors import ConfigError, caused_by
from research.common.files import read_lines
from research.data.splits import (
    check_duplicates,
    check_fraction,
    fall_back_to_validation,
    hold_out_random,
)
from research.tasks.sequence_to_sequence.data.pairs import LazyPairs, Pair, pair_with_one_reference


@dataclass(frozen=True)
class ParallelText:
    """Your own sentence pairs, one per line, in UTF-8.

    Either two files, ("train.en", "train.de"), whose lines correspond by number, or one file,
    ("train.tsv",), with two tab-separated columns. The source comes first, then the target. Files
    that end in `.gz` are decompressed.
    """

    train: tuple[str, ...]
    """Training files."""

    validation: tuple[str, ...] = ()
    """Validation files; empty: some lines of `train` are held out."""

    test: tuple[str, ...] = ()
    """Test files; empty: the validation split is the test split."""

    validation_fraction: float = 0.02
    """Fraction of the lines to hold out if there are no validation files."""

    def __post_init__(self):
        for key in ("train", "validation", "test"):
            files = len(getattr(self, key))
            if files > 2 or (key == "train" and not files):
                expected = "expected a source and a target file, or one TSV file"
                raise ConfigError(key, f"invalid number of files {files}: {expected}")
        check_fraction("validation_fraction", self.validation_fraction)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; if not, the validation split is used instead."""
        return bool(self.test)

    def open(self, split: str) -> Sequence[Pair]:
        """Returns the pairs of a split; the files are kept in memory."""
        if split == "train":
            check_duplicates(self)
        return self._open(fall_back_to_validation(split, self.has_test, self.train[0]))

    def contents(self, split: str) -> Iterator[tuple[str, str]]:
        """Yields the name and the content of every usable pair, to find duplicates."""
        if split == "test" and not self.has_test:
            return
        for pair in self._open(split):
            if not pair.problem:  # blank lines are no duplicates
                yield pair.origin, f"{pair.source}\t{pair.target}"

    def _open(self, split: str) -> Sequence[Pair]:
        if split == "test" or self.validation:
            return self._load(split)
        pairs = self._load("train")
        parts = hold_out_random(len(pairs), self.validation_fraction)
        indices = parts.held_out if split == "validation" else parts.kept
        return LazyPairs(indices.tolist(), pairs.__getitem__)

    def _load(self, key: str) -> Sequence[Pair]:
        paths = [Path(path) for path in getattr(self, key)]
        with caused_by(key):
            columns = [read_lines(path) for path in paths]
        if len(columns) == 1:
            columns = _split_columns(key, paths[0], columns[0])
        sources, targets = columns
        if len(sources) != len(targets):
            problem = f"invalid {paths[1]}: expected {len(sources)} lines, as in {paths[0]}"
            raise ConfigError(key, f"{problem}, got {len(targets)}")
        if not sources:
            raise ConfigError(key, f"invalid {paths[0]}: expected at least one line")
        return LazyPairs(
            range(len(sources)),
            lambda i: pair_with_one_reference(sources[i], targets[i], f"{paths[0]}:{i + 1}"),
        )


def _split_columns(key: str, path: Path, lines: Sequence[str]) -> list[list[str]]:
    """Returns the two columns of a TSV file.

    Raises:
      ConfigError: a line has not exactly two columns.
    """
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            expected = f"expected two tab-separated columns, got {len(row)}"
            raise ConfigError(key, f"invalid line {path}:{number}: {expected}")
    return [[row[column] for row in rows] for column in (0, 1)]
