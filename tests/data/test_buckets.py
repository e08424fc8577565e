from itertools import combinations

import numpy as np
import pytest

from research.data.buckets import choose_buckets


def padding(lengths, buckets):
    """Fraction of the batches that is padding; every example fits a bucket."""
    lengths = np.atleast_2d(lengths.T).T
    padded = np.full(len(lengths), np.inf)
    for bucket in buckets:
        fits = (lengths <= np.array(bucket)).all(axis=1)
        padded[fits] = np.minimum(padded[fits], np.sum(bucket))
    return 1 - lengths.sum() / padded.sum()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_buckets_are_close_to_the_optimum(count):
    """The batches are at most 2 % larger than with the best buckets."""
    lengths = np.random.default_rng(count).integers(1, 30, 40)
    best = min(
        padding(lengths, (*others, lengths.max()))
        for size in range(count)
        for others in combinations(np.unique(lengths)[:-1], size)
    )
    buckets = choose_buckets(lengths, count)
    assert len(buckets) <= count and list(buckets) == sorted(buckets)
    assert 1 - padding(lengths, buckets) > 0.98 * (1 - best)


@pytest.mark.parametrize(("count", "most"), [(4, 0.15), (8, 0.08)])
def test_lengths_like_those_of_librispeech_need_little_padding(count, most):
    """Most utterances last 11 to 16 seconds, the others at least 1.4."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.normal(14.5, 1.5, 70_000), rng.uniform(1.4, 13, 30_000)])
    lengths = lengths.clip(1.4, 24.5)
    assert padding(lengths, choose_buckets(lengths, count)) < most


def translations(rng):
    """Numbers of words of sentences and translations, distributed as in Multi30k."""
    source = rng.lognormal(2.5, 0.3, 100_000)
    return source, source * rng.lognormal(-0.05, 0.15, len(source))


def pronunciations(rng):
    """Numbers of letters and phonemes of words, distributed as in a dictionary."""
    letters = rng.normal(8, 2.5, 100_000)
    return letters, 0.86 * letters + rng.integers(-1, 2, len(letters))


@pytest.mark.parametrize("pairs", [translations, pronunciations])
def test_pairs_of_lengths_need_little_padding(pairs):
    lengths = np.stack(pairs(np.random.default_rng(0)), axis=1).round().clip(1, 50).astype(int)
    buckets = choose_buckets(lengths, 12)
    assert len(buckets) <= 12
    assert padding(lengths, buckets) < 0.10
    one_by_one = zip(*(choose_buckets(side, 12) for side in lengths.T), strict=True)
    assert padding(lengths, buckets) < padding(lengths, list(one_by_one))


def test_the_last_bucket_has_the_greatest_length_of_every_side():
    lengths = np.array([[1, 9], [1, 9], [9, 1], [9, 1]])
    assert choose_buckets(lengths, 3) == ((1, 9), (9, 1), (9, 9))
    assert choose_buckets(lengths, 1) == ((9, 9),)


def test_there_are_at_most_as_many_buckets_as_lengths():
    assert choose_buckets(np.array([3, 3, 3]), 4) == (3,)
    assert choose_buckets(np.array([3, 5]), 4) == (3, 5)
    assert choose_buckets(np.array([[3, 5], [4, 4]]), 4) == ((3, 5), (4, 4), (4, 5))
