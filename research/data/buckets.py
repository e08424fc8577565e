"""Bucket lengths that minimise padding for a number of compiled programs."""

from typing import Any

import numpy as np

_CANDIDATES = 2048  # candidate buckets
_ROUNDS = 2  # of local improvement after the greedy choice


def choose_buckets(lengths: np.ndarray, num_buckets: int) -> tuple[Any, ...]:
    """Chooses at most `num_buckets` buckets with little padding.

    The last bucket has the greatest length of every side. The others are added greedily, each the
    one that saves the most padding. The saving is submodular, so the greedy choice reaches at least
    63 % of the optimum (Nemhauser et al. 1978). Then each bucket is replaced by the best one given
    all others.

    Args:
      lengths: [examples], or [examples, sides] for examples with several lengths, in any unit.
      num_buckets: maximum number of buckets.

    Returns:
      The length of each bucket in ascending order, or one tuple of lengths per side for each
      bucket, in ascending order of their sums.
    """
    lengths = np.asarray(lengths)
    sides = np.atleast_2d(lengths.T)  # [sides, examples]
    edges = [_edges(side, round(_CANDIDATES ** (1 / len(sides)))) for side in sides]
    candidates = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, len(sides))
    # Examples that fit the same candidates are counted and treated as one kind.
    tightest = [np.searchsorted(*pair) for pair in zip(edges, sides, strict=True)]
    counts = np.bincount(np.ravel_multi_index(tightest, [len(edge) for edge in edges]))
    kinds = np.flatnonzero(counts)
    size = candidates.sum(axis=1)
    # [candidates, kinds]: padded size of an example if the bucket is added to the greatest one.
    fits = (candidates[:, None] >= candidates[kinds]).all(axis=2)
    padded = np.where(fits, size[:, None], size[-1]).astype(float)

    def best(others: list[int]) -> int:
        return int((np.minimum(padded, padded[others].min(axis=0)) @ counts[kinds]).argmin())

    chosen = [len(candidates) - 1]
    while len(chosen) < num_buckets:
        chosen.append(best(chosen))
    for _ in range(_ROUNDS):
        for i in range(1, num_buckets):
            chosen[i] = best(chosen[:i] + chosen[i + 1 :])
    used = np.union1d(
        0, padded[chosen].argmin(axis=0)
    )  # the greatest one, and those that examples use
    buckets = candidates[np.array(chosen)[used]]
    rows = buckets[np.argsort(buckets.sum(axis=1), kind="stable")].tolist()
    return tuple(tuple(row) if lengths.ndim > 1 else row[0] for row in rows)


def _edges(lengths: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` lengths of a side in ascending order, the greatest included.

    They are denser where more padding would accumulate. The square root keeps some at rare lengths.
    """
    values, examples = np.unique(lengths, return_counts=True)
    quantiles = np.cumsum(np.sqrt(values * examples))
    return values[np.unique(np.searchsorted(quantiles, np.linspace(0, quantiles[-1], count)))]
