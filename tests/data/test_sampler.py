import numpy as np
import pytest

from research.data.dataset import ArrayDataset, Dataset
from research.data.sampler import BatchSampler


class Ragged(Dataset):
    """Sequences of the given lengths; example i is filled with i."""

    def __init__(self, lengths, buckets):
        super().__init__()
        self.lengths, self.buckets = np.array(lengths), buckets

    def __len__(self):
        return len(self.lengths)

    def example(self, index, rng):
        return {"x": np.full(self.lengths[index], index, np.float32)}


def constant(size):
    """Returns the batch size of every bucket."""
    return lambda bucket: size


def indices(sampler, epoch):
    return [batch.indices for batch in sampler.epoch(epoch)]


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_every_example_occurs_exactly_once_in_evaluation(examples, batch_size):
    sampler = BatchSampler(
        ArrayDataset(x=np.arange(examples)), constant(batch_size), seed=0, training=False
    )
    seen = np.concatenate(indices(sampler, 0))
    assert all(len(batch) == batch_size for batch in indices(sampler, 0))
    assert seen[seen >= 0].tolist() == list(range(examples))


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (8, 4), (3, 8)])
def test_training_batches_are_full_and_contain_every_example(examples, batch_size):
    sampler = BatchSampler(
        ArrayDataset(x=np.arange(examples)), constant(batch_size), seed=0, training=True
    )
    for epoch in range(3):
        seen = np.concatenate(indices(sampler, epoch))
        assert seen.min() >= 0
        assert set(seen.tolist()) == set(range(examples))
        assert len(seen) == sampler.batches_per_epoch * batch_size


def test_the_order_depends_on_seed_and_epoch_alone():
    data = ArrayDataset(x=np.arange(100))
    first, same = (BatchSampler(data, constant(10), seed=1, training=True) for _ in range(2))
    same.epoch(7)
    assert np.array_equal(indices(first, 3), indices(same, 3))
    assert not np.array_equal(indices(first, 3), indices(first, 4))
    other = BatchSampler(data, constant(10), seed=2, training=True)
    assert not np.array_equal(indices(first, 3), indices(other, 3))


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_has_examples_of_one_bucket_and_longer_ones_are_dropped(training):
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    sampler = BatchSampler(Ragged(lengths, (10, 20, 30)), constant(8), seed=0, training=training)
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
def test_a_pair_belongs_to_the_smallest_bucket_that_fits_both_sides(order):
    lengths, buckets = pairs(), PAIRS[::order]
    sampler = BatchSampler(Ragged(lengths, buckets), constant(8), seed=0, training=False)
    bucket_of = {
        int(i): batch.length for batch in sampler.epoch(0) for i in batch.indices if i >= 0
    }
    for index, (left, right) in enumerate(lengths):
        fitting = [bucket for bucket in buckets if left <= bucket[0] and right <= bucket[1]]
        # Between buckets of equal size, the first one.
        assert bucket_of.get(index) == min(fitting, key=sum, default=None)
    assert sampler.num_dropped == (lengths > 24).any(axis=1).sum() > 0


@pytest.mark.parametrize("training", [True, False])
def test_each_bucket_has_its_own_batch_size(training):
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


def test_batches_of_all_buckets_are_shuffled_in_training():
    sampler = BatchSampler(
        Ragged(np.arange(160) % 20 + 1, (10, 20)), constant(8), seed=0, training=True
    )
    order = [batch.length for batch in sampler.epoch(0)]
    assert order != sorted(order)


def test_seeds_do_not_share_the_orders_of_epochs():
    """With a seed of `seed + epoch`, seed 1 would repeat epoch 1 of seed 0 as its epoch 0."""
    data = ArrayDataset(x=np.arange(100))
    samplers = [BatchSampler(data, constant(10), seed, training=True) for seed in (0, 1)]
    assert not np.array_equal(indices(samplers[0], 1), indices(samplers[1], 0))
