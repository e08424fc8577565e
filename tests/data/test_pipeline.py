import jax
import numpy as np
import pytest

from research.common.errors import UserError
from research.data.dataset import ArrayDataset, Dataset
from research.data.pipeline import Pipeline
from research.data.sampler import BatchSampler
from research.hardware.mesh import MeshConfig, batch_sharding


class Noisy(Dataset):
    """Random numbers; example 3 is unusable, and example 5 raises an error if `fatal`."""

    def __init__(self, fatal=False):
        super().__init__()
        self.fatal = fatal

    def __len__(self):
        return 12

    def example(self, index, rng):
        if index == 3:
            self.unusable[index] = "example 3 is broken"
            return None
        if index == 5 and self.fatal:
            raise UserError("example 5 is broken; remove it")
        return {"x": rng.normal(size=2).astype(np.float32)}


def pipeline(dataset, batch_size, training=True, seed=0, **mesh):
    """A pipeline with a batch size, or with a function from buckets to batch sizes."""
    size = batch_size if callable(batch_size) else lambda bucket: batch_size
    sharding = batch_sharding(MeshConfig(**mesh).build(jax.devices()))
    return Pipeline(dataset, BatchSampler(dataset, size, seed, training), sharding)


def fetch(batches):
    return [jax.device_get(batch) for batch in batches]


def test_batches_do_not_depend_on_the_first_one_that_is_read():
    data = ArrayDataset(x=np.arange(50))
    whole = fetch(pipeline(data, 8).batches(0, 20))
    part = fetch(pipeline(data, 8).batches(13, 20))
    assert len(part) == 7
    for a, b in zip(whole[13:], part, strict=True):
        assert np.array_equal(a["x"], b["x"])
        assert np.array_equal(a["index"], b["index"])


@pytest.mark.parametrize("mesh", [{"devices": 1}, {}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}])
def test_rows_are_in_order_on_every_mesh(mesh):
    data = ArrayDataset(x=np.arange(20))
    first, second, third = fetch(pipeline(data, 8, training=False, **mesh).batches(0, 3))
    assert np.concatenate([first["x"], second["x"]]).tolist() == list(range(16))
    assert third["index"].tolist() == [16, 17, 18, 19, -1, -1, -1, -1]
    assert third["mask"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("mesh", [{"devices": 1}, {}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}])
def test_rows_are_in_order_in_batches_of_several_sizes(mesh):
    data = ArrayDataset(x=np.arange(30))
    data.lengths, data.buckets = np.repeat([1, 5], [20, 10]), (2, 5)
    sizes = {2: 16, 5: 8}
    batches = fetch(pipeline(data, sizes.get, training=False, **mesh).batches(0, 4))
    assert [len(batch["x"]) for batch in batches] == [16, 16, 8, 8]
    real = [batch["x"][batch["mask"] > 0].tolist() for batch in batches]
    assert real == [[*range(16)], [*range(16, 20)], [*range(20, 28)], [28, 29]]
    assert [batch["index"][batch["mask"] > 0].tolist() for batch in batches] == real
    assert all((batch["index"][batch["mask"] == 0] == -1).all() for batch in batches)


def test_a_batch_is_sharded_over_the_devices():
    batch = next(pipeline(ArrayDataset(x=np.arange(16)), 16, fsdp=2, tensor=2).batches(0, 1))
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(4,)}


def test_an_unusable_example_is_masked_and_named():
    data = Noisy()
    (batch,) = fetch(pipeline(data, 12, training=False, devices=1).batches(0, 1))
    assert batch["mask"].tolist() == [1, 1, 1, 0] + [1] * 8
    assert data.unusable == {3: "example 3 is broken"}
    assert np.array_equal(batch["x"][3], batch["x"][0])


def test_a_batch_without_usable_examples_is_masked():
    batches = fetch(pipeline(Noisy(), 1, training=False, devices=1).batches(0, 12))
    assert [float(batch["mask"][0]) for batch in batches] == [1, 1, 1, 0] + [1] * 8


def test_errors_of_the_data_propagate():
    with pytest.raises(UserError, match="example 5 is broken; remove it"):
        fetch(pipeline(Noisy(fatal=True), 12, devices=1).batches(0, 1))


def test_random_examples_depend_on_the_seed_the_epoch_and_the_index():
    def by_index(epoch, batch_size, seed=0):
        made = pipeline(Noisy(), batch_size, seed=seed, devices=1)
        per_epoch = made.sampler.batches_per_epoch
        batches = fetch(made.batches(epoch * per_epoch, (epoch + 1) * per_epoch))
        return {
            int(i): tuple(x)
            for b in batches
            for i, x in zip(b["index"], b["x"], strict=True)
            if i != 3
        }

    assert by_index(0, 4) == by_index(0, 6)
    several = (by_index(0, 4), by_index(1, 4), by_index(0, 4, seed=1), by_index(1, 4, seed=1))
    drawn = [x for examples in several for x in examples.values()]
    assert len(set(drawn)) == len(drawn) == 4 * 11
