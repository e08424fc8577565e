"""Encoding, truncation, bucketing and packing of pairs."""

import numpy as np
import pytest

from research.common.errors import UserError
from research.tasks.sequence_to_sequence.data import EncodedPairs, Limit, PackedPairs, Pair

LIMIT = Limit(max_length=8, truncate=False)


def encode(text):
    if "?" in text:
        raise UserError("no '?'")
    return [ord(letter) - ord("a") + 1 for letter in text]


def encoded(texts, limit=LIMIT, buckets=((4, 4), (6, 6)), scored=False):
    pairs = [
        Pair(source, target, (target,), f"file:{number}", "" if source else "the source is empty")
        for number, (source, target) in enumerate(texts, 1)
    ]
    return EncodedPairs(pairs, [encode, encode], limit, buckets, scored)


def example(dataset, index):
    return dataset.example(index, np.random.default_rng(0))


def test_each_side_ends_with_eos():
    dataset = encoded([("ab", "c"), ("abc", "de")])
    assert {name: array.tolist() for name, array in example(dataset, 1).items()} == {
        "source": [1, 2, 3, 0],
        "source_segments": [1, 1, 1, 1],
        "target": [4, 5, 0],
        "target_segments": [1, 1, 1],
    }
    assert dataset.lengths.tolist() == [[3, 2], [4, 3]]


def test_unusable_pairs_are_skipped_and_named(caplog):
    dataset = encoded([("ab", "c"), ("", "c"), ("a?", "c"), ("b", "a")])
    assert [example(dataset, i) is None for i in range(4)] == [False, True, True, False]
    assert example(dataset, 3)["source"].tolist() == [2, 0]
    assert "file:2: the source is empty" in caplog.text and "file:3: no '?'" in caplog.text


@pytest.mark.parametrize("target", ["c?", "c" * 20])
def test_a_scored_pair_with_an_invalid_target_is_kept_without_a_loss(target):
    dataset = encoded([("ab", target), ("ab", "c"), ("a?", "c")], scored=True)
    assert dataset.unusable.keys() == {2}
    assert example(dataset, 0)["source"].tolist() == [1, 2, 0]
    assert example(dataset, 0)["target_segments"].sum() == 0
    assert example(dataset, 1)["target_segments"].tolist() == [1, 1]
    assert (dataset.lengths[:2] <= 6).all()


def test_a_batch_of_unusable_pairs_is_masked():
    dataset = encoded([("", "c"), ("abcde", "abcde")])
    shapes = dict.fromkeys(("source", "source_segments", "target", "target_segments"), (4,))
    batch = dataset.batch(np.array([0, 0]), (0,), shapes)
    assert batch["mask"].tolist() == [0, 0] and batch["source"].shape == (2, 4)


def test_a_bucket_is_added_for_longer_pairs_within_the_limit():
    dataset = encoded([("ab", "abcdefg"), ("a" * 8, "b")])
    assert dataset.buckets == ((4, 4), (6, 6), (6, 8))
    assert dataset.lengths[1, 0] == 9  # longer than any bucket: dropped by the sampler


def test_long_texts_are_truncated_and_counted(caplog):
    dataset = encoded([("abcdefghi", "b"), ("a", "b")], LIMIT._replace(truncate=True))
    assert example(dataset, 0)["source"].tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert "truncated 1 of 2 pairs to 8 tokens" in caplog.text


def test_every_pair_is_packed_once(caplog):
    rng = np.random.default_rng(0)
    texts = [("a" * rng.integers(1, 6), "b" * rng.integers(1, 6)) for _ in range(50)]
    texts += [("a" * 12, "b"), ("a?", "b")]  # 12 fit into a row but exceed the limit
    rows = PackedPairs(encoded(texts), length=16)
    lengths = []
    for index in range(len(rows)):
        row = example(rows, index)
        for side in ("source", "target"):
            assert len(row[side]) == len(row[f"{side}_segments"]) <= 16
        sizes = [np.bincount(row[f"{side}_segments"])[1:] for side in ("source", "target")]
        lengths += zip(*(size.tolist() for size in sizes), strict=True)
        ends = np.cumsum(sizes[0]) - 1
        assert (row["source"][ends] == 0).all() and (row["source"] == 0).sum() == len(ends)
    assert sorted(lengths) == sorted((len(s) + 1, len(t) + 1) for s, t in texts[:50])
    assert len(rows) < 25
    assert "dropped 1 of 52 pairs: too long" in caplog.text
    with pytest.raises(IndexError):
        example(rows, len(rows))
