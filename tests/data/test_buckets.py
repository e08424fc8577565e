from itertools import combinations

import numpy as np
import pytest

from research.data.buckets import choose_buckets


def padding(lengths, buckets):
    """The part of all that is in the batches that is padding."""
    padded = np.array(buckets)[np.searchsorted(buckets, lengths)]
    return 1 - lengths.sum() / padded.sum()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_no_other_lengths_pad_less(count):
    lengths = np.random.default_rng(count).integers(1, 30, 40)
    best = min(
        padding(lengths, sorted((*others, lengths.max())))
        for size in range(count)
        for others in combinations(np.unique(lengths)[:-1], size)
    )
    buckets = choose_buckets(lengths, count)
    assert len(buckets) <= count and list(buckets) == sorted(buckets)
    assert padding(lengths, buckets) == pytest.approx(best)


def test_lengths_like_those_of_librispeech_need_little_padding():
    """Eight lengths; most utterances have 11 to 16 seconds, the others from 1.4 up."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.normal(14.5, 1.5, 70_000), rng.uniform(1.4, 13, 30_000)])
    lengths = lengths.clip(1.4, 24.5)
    assert padding(lengths, choose_buckets(lengths, 8)) < 0.10


def test_few_lengths():
    assert choose_buckets(np.array([3, 3, 3]), 4) == (3.0,)
    assert choose_buckets(np.array([3, 5]), 4) == (3.0, 5.0)
