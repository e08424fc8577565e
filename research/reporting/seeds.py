"""Runs that differ only by their seed, and whether groups of them differ significantly."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from research.reporting.runs import RunFiles

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one config, each with another seed."""

    runs: tuple[RunFiles, ...]

    @property
    def name(self) -> str:
        """Name of the first run, and the number of the others."""
        others = len(self.runs) - 1
        return self.runs[0].name + (f" and {others} more" if others else "")

    def values(self, split: str, metric: str) -> list[float]:
        """Returns a metric of each run with scores of a split."""
        scores = [run.score(split, metric) for run in self.runs]
        return [score for score in scores if score is not None]


@dataclass(frozen=True)
class Difference:
    """Difference of the means of two groups of runs."""

    mean: float

    low: float
    """Lower limit of its 95 % confidence interval."""

    high: float

    p: float
    """Probability of a difference of at least this size between groups with equal means."""


def group_by_seed(runs: Sequence[RunFiles]) -> list[SeedGroup]:
    """Groups runs whose configs are equal but for the seed, in the order of their first runs."""
    groups: dict[str, list[RunFiles]] = {}
    for run in runs:
        config = {key: value for key, value in run.values.items() if key != "seed"}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    return [SeedGroup(tuple(members)) for members in groups.values()]


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Returns the mean of `second` minus that of `first`, by Welch's t-test (1947).

    None for groups of one run, if all values of each group are equal, and if one is not finite.
    """
    from scipy.stats import ttest_ind  # imported when needed, as it takes a second

    if min(len(first), len(second)) < 2 or len({*first}) == len({*second}) == 1:
        return None
    if not all(map(math.isfinite, [*first, *second])):
        return None
    test = ttest_ind(second, first, equal_var=False)
    interval = test.confidence_interval(_CONFIDENCE)
    mean = statistics.fmean(second) - statistics.fmean(first)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue))
