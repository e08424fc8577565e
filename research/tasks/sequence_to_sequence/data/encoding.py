"""Text pairs as examples: encoded once, bucketed by the lengths of both sides, or packed."""

import logging
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from research.common.errors import UserError
from research.data.dataset import Dataset, Example
from research.tasks.sequence_to_sequence.data.pairs import Pair
from research.tasks.sequence_to_sequence.decoding import EOS

log = logging.getLogger(__name__)
SIDES = ("source", "target")
Encode = Callable[[str], list[int]]


class Limit(NamedTuple):
    """The maximum length of a sequence, EOS included."""

    max_length: int
    truncate: bool  # whether longer sequences are truncated; else their pairs are dropped


class EncodedPairs(Dataset):
    """Each side of a pair as classes int32 [length] that end with EOS, and its segments, all 1.

    Args:
      pairs: the texts; unusable pairs are skipped and logged.
      encoders: map a text to its classes, without EOS: of the source, and of the target if known.
      limit: maximum length of a side.
      buckets: bucket lengths in ascending order; one is added if pairs are longer.
      scored: whether the pairs are for scoring instead of training. Then a pair whose target cannot
        be encoded or is too long is kept, since scorers compare texts, but excluded from the loss.
    """

    lengths: np.ndarray  # int [pairs, sides]

    def __init__(
        self,
        pairs: Sequence[Pair],
        encoders: Sequence[Encode],
        limit: Limit,
        buckets: Sequence[tuple[int, ...]],
        scored: bool = False,
    ):
        super().__init__()
        self.pairs, self.limit = pairs, limit
        self._encoders, self._scored = encoders, scored
        self._without_loss: set[int] = set()
        self._sides = SIDES[: len(encoders)]
        # One long array per side instead of many short ones: there may be millions of pairs.
        self._classes = [array("i") for _ in self._sides]
        lengths, truncated = [], 0
        for index in range(len(pairs)):
            encoded = self._encode(index)
            if limit.truncate and max(map(len, encoded)) >= limit.max_length:
                encoded = [ids[: limit.max_length - 1] for ids in encoded]
                truncated += 1
            for all_classes, ids in zip(self._classes, encoded, strict=True):
                all_classes.extend([*ids, EOS])
            lengths.append([len(ids) + 1 for ids in encoded])
        if truncated:
            counts = truncated, len(pairs), limit.max_length
            log.warning("truncated %d of %d pairs to %d tokens", *counts)
        self.lengths = np.array(lengths)
        self._ends = np.cumsum(self.lengths, axis=0)
        self.buckets = _extended(buckets, self.lengths, limit.max_length)

    def __len__(self) -> int:
        return len(self.pairs)

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        if index in self.unusable:
            return None
        example = pack([self.classes(index)], self._sides)
        if index in self._without_loss:
            example["target_segments"] = np.zeros_like(example["target"])
        return example

    def classes(self, index: int) -> list[np.ndarray]:
        """Returns the classes of each side of a pair, int32 [length]."""
        ends, lengths = self._ends[index], self.lengths[index]
        return [
            np.array(ids[end - length : end], np.int32)
            for ids, end, length in zip(self._classes, ends, lengths, strict=True)
        ]

    def _encode(self, index: int) -> list[list[int]]:
        """Returns the classes of each side without EOS; empty lists for an unusable pair."""
        pair = self.pairs[index]
        try:
            if pair.problem:
                raise UserError(pair.problem)
            source, *target = self._encoders
            encoded = [source(pair.source)]
            if target:
                encoded.append(self._encode_target(index, target[0]))
            return encoded
        except UserError as error:
            self.skip(index, f"{pair.origin}: {error}")
            return [[] for _ in self._sides]

    def _encode_target(self, index: int, encode: Encode) -> list[int]:
        try:
            ids = encode(self.pairs[index].target)
        except UserError:
            if not self._scored:
                raise
            ids = []
            self._without_loss.add(index)
        if self._scored and not self.limit.truncate and len(ids) >= self.limit.max_length:
            ids = []
            self._without_loss.add(index)
        return ids


class PackedPairs(Dataset):
    """Rows of a fixed length, each packed with as many pairs as fit, separated by segments."""

    def __init__(self, pairs: EncodedPairs, length: int):
        super().__init__()
        self.pairs = pairs
        self._rows = _assign_rows(pairs, length)
        self.lengths = np.full((len(self._rows), len(SIDES)), length)
        self.buckets = ((length, length),)

    def __len__(self) -> int:
        return len(self._rows)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        return pack([self.pairs.classes(pair) for pair in self._rows[index]], SIDES)


def pack(sequences: Sequence[Sequence[np.ndarray]], sides: Sequence[str]) -> Example:
    """Concatenates pairs to one example.

    Args:
      sequences: of each pair, the classes of each side, int32 [length].
      sides: names of the sides.
    """
    example: Example = {}
    for side, parts in zip(sides, zip(*sequences, strict=True), strict=True):
        lengths = [len(part) for part in parts]
        segments = np.repeat(np.arange(1, len(parts) + 1, dtype=np.int32), lengths)
        example |= {side: np.concatenate(parts), f"{side}_segments": segments}
    return example


def _assign_rows(pairs: EncodedPairs, length: int) -> list[list[int]]:
    """Fills rows in a fixed random order; a row ends where the next pair does not fit."""
    max_length = min(length, pairs.limit.max_length)
    usable = np.flatnonzero((pairs.lengths <= max_length).all(axis=1))
    if dropped := len(pairs) - len(usable):
        log.warning("dropped %d of %d pairs: too long", dropped, len(pairs))
    rows: list[list[int]] = []
    filled = np.full(len(SIDES), length)
    for index in np.random.default_rng(0).permutation(usable).tolist():
        if index in pairs.unusable:
            continue
        filled = filled + pairs.lengths[index]
        if (filled > length).any():
            rows.append([])
            filled = pairs.lengths[index]
        rows[-1].append(index)
    return rows


def _extended(
    buckets: Sequence[tuple[int, ...]], lengths: np.ndarray, max_length: int
) -> tuple[tuple[int, ...], ...]:
    """Returns the buckets, and one more if a pair within the limit exceeds the last one."""
    allowed = lengths[(lengths <= max_length).all(axis=1)]
    greatest = np.maximum(buckets[-1], allowed.max(axis=0, initial=0))
    if (greatest > buckets[-1]).any():
        return (*buckets, tuple(greatest.tolist()))
    return tuple(buckets)
