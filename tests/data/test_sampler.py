import numpy as np
import pytest

from research.data.dataset import ArrayDataset, Dataset, Subset
from research.data.sampler import BatchSampler


class Ragged(Dataset):
    """Sequences of given lengths; example i counts i in its first place."""

    def __init__(self, lengths, buckets):
        super().__init__()
        self.lengths, self.buckets = np.array(lengths), buckets

    def __len__(self):
        return len(self.lengths)

    def example(self, index, rng):
        return {"x": np.full(self.lengths[index], index, np.float32)}


def each(size):
    """Batches of one size, whatever the bucket."""
    return lambda bucket: size


def indices(sampler, epoch):
    return [batch.indices for batch in sampler.epoch(epoch)]


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_evaluation_sees_every_example_exactly_once(examples, batch_size):
    sampler = BatchSampler(
        ArrayDataset(x=np.arange(examples)), each(batch_size), seed=0, training=False
    )
    seen = np.concatenate(indices(sampler, 0))
    assert all(len(batch) == batch_size for batch in indices(sampler, 0))
    assert seen[seen >= 0].tolist() == list(range(examples))


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (8, 4), (3, 8)])
def test_training_batches_are_full_and_leave_nobody_out(examples, batch_size):
    sampler = BatchSampler(
        ArrayDataset(x=np.arange(examples)), each(batch_size), seed=0, training=True
    )
    for epoch in range(3):
        seen = np.concatenate(indices(sampler, epoch))
        assert seen.min() >= 0
        assert set(seen.tolist()) == set(range(examples))
        assert len(seen) == sampler.batches_per_epoch * batch_size


def test_the_order_depends_on_seed_and_epoch_alone():
    data = ArrayDataset(x=np.arange(100))
    first, same = (BatchSampler(data, each(10), seed=1, training=True) for _ in range(2))
    same.epoch(7)
    assert np.array_equal(indices(first, 3), indices(same, 3))
    assert not np.array_equal(indices(first, 3), indices(first, 4))
    other = BatchSampler(data, each(10), seed=2, training=True)
    assert not np.array_equal(indices(first, 3), indices(other, 3))


@pytest.mark.parametrize("training", [True, False])
def test_buckets_keep_lengths_apart_and_leave_out_what_is_too_long(training):
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    sampler = BatchSampler(Ragged(lengths, (10, 20, 30)), each(8), seed=0, training=training)
    seen = []
    for batch in sampler.epoch(0):
        real = batch.indices[batch.indices >= 0]
        assert (lengths[real] <= batch.length).all()
        assert (lengths[real] > batch.length - 10).all()
        seen += real.tolist()
    assert set(seen) == set(np.flatnonzero(lengths <= 30).tolist())
    if not training:
        assert len(seen) == len(set(seen))


PAIRS = ((8, 8), (8, 16), (16, 8), (4, 20), (24, 24))


def pairs(count=300):
    return np.random.default_rng(0).integers(1, 28, (count, 2))


@pytest.mark.parametrize("order", [1, -1], ids=["ascending", "descending"])
def test_a_pair_goes_to_the_smallest_bucket_that_holds_both_sides(order):
    lengths, buckets = pairs(), PAIRS[::order]
    sampler = BatchSampler(Ragged(lengths, buckets), each(8), seed=0, training=False)
    bucket_of = {
        int(i): batch.length for batch in sampler.epoch(0) for i in batch.indices if i >= 0
    }
    for index, (left, right) in enumerate(lengths):
        holding = [bucket for bucket in buckets if left <= bucket[0] and right <= bucket[1]]
        # Of two buckets of one size it is the one that stands first.
        assert bucket_of.get(index) == min(holding, key=sum, default=None)
    assert sampler.num_dropped == (lengths > 24).any(axis=1).sum() > 0


@pytest.mark.parametrize("training", [True, False])
def test_each_bucket_has_batches_of_its_own_size(training):
    lengths = pairs()
    sampler = BatchSampler(Ragged(lengths, PAIRS), lambda bucket: 320 // sum(bucket), 0, training)
    batches = sampler.epoch(0)
    assert len(batches) == sampler.batches_per_epoch
    assert {(batch.length, len(batch.indices)) for batch in batches} == {
        (bucket, 320 // sum(bucket)) for bucket in PAIRS
    }
    seen = np.concatenate([batch.indices for batch in batches])
    fitting = np.flatnonzero((lengths <= 24).all(axis=1)).tolist()
    assert set(seen[seen >= 0].tolist()) == set(fitting)
    assert training or sorted(seen[seen >= 0].tolist()) == fitting
    assert sampler.mean_batch_size == pytest.approx(len(seen) / len(batches))
    assert sampler.offsets(0)[:3].tolist() == [0, *np.cumsum([len(b.indices) for b in batches[:2]])]
    assert sampler.offsets(0)[-1] == len(seen)


def test_buckets_are_mixed_in_training():
    sampler = BatchSampler(
        Ragged(np.arange(160) % 20 + 1, (10, 20)), each(8), seed=0, training=True
    )
    order = [batch.length for batch in sampler.epoch(0)]
    assert order != sorted(order)


def test_a_batch_is_padded_to_its_bucket():
    batch = Ragged([2, 3], (4,)).batch(np.array([0, 1]), (0,), {"x": (4,)})
    assert batch["x"].tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]
    assert batch["mask"].tolist() == [1, 1]


def test_a_subset_keeps_lengths_in_step():
    both = Subset(Ragged([[1, 5], [2, 6], [3, 7]], ((4, 8),)), np.array([2, 0]))
    assert both.lengths.tolist() == [[3, 7], [1, 5]]
    part = Subset(Ragged([1, 2, 3, 4], (4,)), np.array([3, 1]))
    assert part.lengths.tolist() == [4, 2]
    assert part.batch(np.array([0]), (0,), None)["x"].tolist() == [[3, 3, 3, 3]]
