"""Pairs of texts as examples: encoded once, with a length for each side, perhaps packed."""

import logging
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from research.common.errors import UserError
from research.data.dataset import Dataset, Example
from research.tasks.sequence_to_sequence.beam_search import END
from research.tasks.sequence_to_sequence.data import Pair

log = logging.getLogger(__name__)
SIDES = ("source", "target")
Encode = Callable[[str], list[int]]


class Limit(NamedTuple):
    """How long a sequence may be, its end counted."""

    longest: int
    truncate: bool  # whether a longer one is cut; else its pair is left out


class EncodedPairs(Dataset):
    """Each side of a pair as classes int32 [length], ended by `END`, and its segments, all 1.

    Args:
      pairs: the texts; what cannot be used is skipped and named.
      encoders: from a text to its classes, for the source, and for the target where it is known.
      limit: on the length of a side.
      scored: whether the pairs are scored and not learned. Then one whose target cannot be encoded
        or is too long stays, as a scorer compares texts; but it has no part in the loss.
      buckets: that batches come in, ascending; one is added where pairs are longer.
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
        # One long array a side instead of many short ones: there may be millions of pairs.
        self._ids = [array("i") for _ in self._sides]
        lengths, truncated = [], 0
        for index in range(len(pairs)):
            encoded = self._encode(index)
            if limit.truncate and max(map(len, encoded)) >= limit.longest:
                encoded = [ids[: limit.longest - 1] for ids in encoded]
                truncated += 1
            for kept, ids in zip(self._ids, encoded, strict=True):
                kept.extend([*ids, END])
            lengths.append([len(ids) + 1 for ids in encoded])
        if truncated:
            log.warning("cut %d of %d pairs to %d tokens", truncated, len(pairs), limit.longest)
        self.lengths = np.array(lengths)
        self._ends = np.cumsum(self.lengths, axis=0)
        self.buckets = _with_room(buckets, self.lengths, limit.longest)

    def __len__(self) -> int:
        return len(self.pairs)

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        if index in self.unusable:
            return None
        example = packed([self.classes(index)], self._sides)
        if index in self._without_loss:
            example["target_segments"] = np.zeros_like(example["target"])
        return example

    def classes(self, index: int) -> list[np.ndarray]:
        """The classes of each side of a pair, int32 [length]."""
        ends, lengths = self._ends[index], self.lengths[index]
        return [
            np.array(ids[end - length : end], np.int32)
            for ids, end, length in zip(self._ids, ends, lengths, strict=True)
        ]

    def _encode(self, index: int) -> list[list[int]]:
        """The classes of each side without the end; none where the pair cannot be used."""
        pair = self.pairs[index]
        try:
            if pair.fault:
                raise UserError(pair.fault)
            source, *target = self._encoders
            encoded = [source(pair.source)]
            if target:
                encoded.append(self._encode_target(index, target[0]))
            return encoded
        except UserError as error:
            self.skip(index, f"{pair.where}: {error}")
            return [[] for _ in self._sides]

    def _encode_target(self, index: int, encode: Encode) -> list[int]:
        try:
            ids = encode(self.pairs[index].target)
        except UserError:
            if not self._scored:
                raise
            ids = []
            self._without_loss.add(index)
        if self._scored and not self.limit.truncate and len(ids) >= self.limit.longest:
            ids = []
            self._without_loss.add(index)
        return ids


class PackedPairs(Dataset):
    """Rows of one length, each filled with as many pairs as fit, told apart by their segments."""

    def __init__(self, pairs: EncodedPairs, length: int):
        super().__init__()
        self.pairs = pairs
        self._rows = _pack(pairs, length)
        self.lengths = np.full((len(self._rows), len(SIDES)), length)
        self.buckets = ((length, length),)

    def __len__(self) -> int:
        return len(self._rows)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        return packed([self.pairs.classes(pair) for pair in self._rows[index]], SIDES)


def packed(sequences: Sequence[Sequence[np.ndarray]], sides: Sequence[str]) -> Example:
    """One example of several pairs, one behind the other."""
    example: Example = {}
    for side, parts in zip(sides, zip(*sequences, strict=True), strict=True):
        lengths = [len(part) for part in parts]
        segments = np.repeat(np.arange(1, len(parts) + 1, dtype=np.int32), lengths)
        example |= {side: np.concatenate(parts), f"{side}_segments": segments}
    return example


def _pack(pairs: EncodedPairs, length: int) -> list[list[int]]:
    """The pairs of each row: in a fixed random order, each row until the next pair does not fit."""
    longest = min(length, pairs.limit.longest)
    usable = np.flatnonzero((pairs.lengths <= longest).all(axis=1))
    if left_out := len(pairs) - len(usable):
        log.warning("left out %d of %d pairs: too long", left_out, len(pairs))
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


def _with_room(
    buckets: Sequence[tuple[int, ...]], lengths: np.ndarray, longest: int
) -> tuple[tuple[int, ...], ...]:
    """The buckets, and one more where a pair within the limit is longer than the last."""
    allowed = lengths[(lengths <= longest).all(axis=1)]
    greatest = np.maximum(buckets[-1], allowed.max(axis=0, initial=0))
    if (greatest > buckets[-1]).any():
        return (*buckets, tuple(greatest.tolist()))
    return tuple(buckets)
