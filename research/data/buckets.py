"""Lengths for batches to come in, so that little is padding and few programs are compiled."""

from typing import Any

import numpy as np

_CANDIDATES = 2048  # buckets among which the best are looked for
_ROUNDS = 2  # in which each bucket is chosen anew


def choose_buckets(lengths: np.ndarray, count: int) -> tuple[Any, ...]:
    """At most `count` buckets that the given lengths are padded to with little padding.

    The last holds the greatest length of every side. The others are added one by one, each the one
    that then saves most padding. The saving is submodular, so this greedy choice has at least 63 %
    of the best one's (Nemhauser et al. 1978). Then each is chosen anew in view of all others.

    Args:
      lengths: [examples], or [examples, sides] where an example has several, in any unit.
      count: of buckets.

    Returns:
      a number for each bucket, ascending, or a tuple of one a side, ascending by their sums.
    """
    lengths = np.asarray(lengths)
    sides = np.atleast_2d(lengths.T)  # [sides, examples]
    edges = [_edges(side, round(_CANDIDATES ** (1 / len(sides)))) for side in sides]
    candidates = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, len(sides))
    # All examples that fit the same candidates are counted and then treated as one.
    tightest = [np.searchsorted(*pair) for pair in zip(edges, sides, strict=True)]
    counts = np.bincount(np.ravel_multi_index(tightest, [len(edge) for edge in edges]))
    kinds = np.flatnonzero(counts)
    size = candidates.sum(axis=1)
    # [candidates, kinds]: what an example takes where there is this bucket beside the greatest.
    fits = (candidates[:, None] >= candidates[kinds]).all(axis=2)
    taken = np.where(fits, size[:, None], size[-1]).astype(float)

    def best(others: list[int]) -> int:
        return int((np.minimum(taken, taken[others].min(axis=0)) @ counts[kinds]).argmin())

    chosen = [len(candidates) - 1]
    while len(chosen) < count:
        chosen.append(best(chosen))
    for _ in range(_ROUNDS):
        for i in range(1, count):
            chosen[i] = best(chosen[:i] + chosen[i + 1 :])
    used = np.union1d(0, taken[chosen].argmin(axis=0))  # the greatest, and what examples go to
    buckets = candidates[np.array(chosen)[used]]
    rows = buckets[np.argsort(buckets.sum(axis=1), kind="stable")].tolist()
    return tuple(tuple(row) if lengths.ndim > 1 else row[0] for row in rows)


def _edges(lengths: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the lengths of a side, ascending, the greatest among them.

    They lie close where padding adds up: by the root, so that rare lengths are not passed over.
    """
    values, examples = np.unique(lengths, return_counts=True)
    places = np.cumsum(np.sqrt(values * examples))
    return values[np.unique(np.searchsorted(places, np.linspace(0, places[-1], count)))]
