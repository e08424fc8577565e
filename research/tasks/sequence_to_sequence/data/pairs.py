"""Pairs of a source text and its target text, as the data sets return them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, overload


class Pair(NamedTuple):
    """A source text with its target."""

    source: str
    """The input text."""

    target: str
    """The output text to learn."""

    references: tuple[str, ...]
    """All correct outputs, the target first."""

    origin: str
    """Name of the pair in messages, such as "train.en:12"."""

    problem: str = ""
    """Why the pair is unusable; empty if it is usable."""


class LazyPairs(Sequence[Pair]):
    """Pairs that are built on access, since a split can have millions of them.

    Args:
      indices: index of each pair, in order.
      build: returns the pair of an index.
    """

    def __init__(self, indices: Sequence[int], build: Callable[[int], Pair]):
        self.indices, self.build = indices, build

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, position: int) -> Pair: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Pair]: ...
    def __getitem__(self, position: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(position, slice):
            return LazyPairs(self.indices[position], self.build)
        return self.build(self.indices[position])


def pair_with_one_reference(source: str, target: str, origin: str) -> Pair:
    """Returns a pair whose only reference is its target, faulty if either text is empty."""
    empty = [name for name, text in (("source", source), ("target", target)) if not text.strip()]
    problem = f"the {empty[0]} is empty" if empty else ""
    return Pair(source, target, (target,), origin, problem)
