"""Lengths for batches to come in, so that little is padding and few programs are compiled."""

import numpy as np

_CANDIDATES = 200  # lengths among which the best are looked for


def choose_buckets(lengths: np.ndarray, count: int) -> tuple[float, ...]:
    """At most `count` lengths, ascending, that the given ones are padded to with least padding.

    The last is the greatest of the given lengths; the others are found by dynamic programming over
    their quantiles.

    Args:
      lengths: [examples], in any unit.
      count: of buckets.
    """
    ordered = np.sort(np.asarray(lengths, float))
    ranks = np.unique(np.linspace(0, len(ordered) - 1, _CANDIDATES).round().astype(int))
    edges = np.unique(ordered[ranks])
    below = np.searchsorted(ordered, edges, side="right")  # examples that are not longer
    # cost[i]: of all examples up to edge i, with edge i a bucket; cut[i]: the bucket before.
    cost, cuts = edges * below, []
    for _ in range(min(count, len(edges)) - 1):
        joined = cost[:, None] + edges * (below - below[:, None])
        joined[np.tril_indices(len(edges))] = np.inf
        cut = joined.argmin(axis=0)
        better = joined.min(axis=0) < cost
        cuts.append(np.where(better, cut, -1))
        cost = np.where(better, joined.min(axis=0), cost)
    chosen, at = [], len(edges) - 1
    for cut in (*reversed(cuts), np.full(len(edges), -1)):
        chosen.append(float(edges[at]))
        if cut[at] < 0:
            break
        at = cut[at]
    return tuple(reversed(chosen))
