import jax
import numpy as np
import pytest

from research.common.errors import UserError
from research.data.dataset import ArrayDataset, Concatenation, Dataset
from research.data.pipeline import Pipeline
from research.data.sampler import BatchSampler
from research.hardware.mesh import MeshConfig, batch_sharding


class Noisy(Dataset):
    """Random numbers; example 3 is unusable, example 5 an error where `fatal`."""

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


def pipeline(dataset, batch_size, training=True, **mesh):
    """Batches of that many examples, or of as many as `batch_size(bucket)` says."""
    size = batch_size if callable(batch_size) else lambda bucket: batch_size
    sharding = batch_sharding(MeshConfig(**mesh).build())
    return Pipeline(dataset, BatchSampler(dataset, size, 0, training), sharding)


def fetch(batches):
    return [jax.device_get(batch) for batch in batches]


def test_a_batch_starts_where_it_is_asked_to():
    data = ArrayDataset(x=np.arange(50))
    whole = fetch(pipeline(data, 8).batches(0, 20))
    part = fetch(pipeline(data, 8).batches(13, 20))
    assert len(part) == 7
    for a, b in zip(whole[13:], part, strict=True):
        assert np.array_equal(a["x"], b["x"])
        assert np.array_equal(a["index"], b["index"])


@pytest.mark.parametrize("mesh", [{"devices": 1}, {}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}])
def test_rows_lie_in_order_on_any_mesh(mesh):
    data = ArrayDataset(x=np.arange(20))
    first, second, third = fetch(pipeline(data, 8, training=False, **mesh).batches(0, 3))
    assert np.concatenate([first["x"], second["x"]]).tolist() == list(range(16))
    assert third["index"].tolist() == [16, 17, 18, 19, -1, -1, -1, -1]
    assert third["mask"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("mesh", [{"devices": 1}, {}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}])
def test_rows_lie_in_order_in_batches_of_several_sizes(mesh):
    data = ArrayDataset(x=np.arange(30))
    data.lengths, data.buckets = np.repeat([1, 5], [20, 10]), (2, 5)
    sizes = {2: 16, 5: 8}
    batches = fetch(pipeline(data, sizes.get, training=False, **mesh).batches(0, 4))
    assert [len(batch["x"]) for batch in batches] == [16, 16, 8, 8]
    real = [batch["x"][batch["mask"] > 0].tolist() for batch in batches]
    assert real == [[*range(16)], [*range(16, 20)], [*range(20, 28)], [28, 29]]
    assert [batch["index"][batch["mask"] > 0].tolist() for batch in batches] == real
    assert all((batch["index"][batch["mask"] == 0] == -1).all() for batch in batches)


def test_a_batch_lies_split_over_the_devices():
    batch = next(pipeline(ArrayDataset(x=np.arange(16)), 16, fsdp=2, tensor=2).batches(0, 1))
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(4,)}


def test_a_concatenation_is_one_dataset_after_the_other():
    parts = [ArrayDataset(x=np.arange(3)), ArrayDataset(x=np.arange(10, 12))]
    parts[0].lengths, parts[0].buckets = np.array([1, 2, 2]), (2,)
    parts[1].lengths, parts[1].buckets = np.array([4, 1]), (2, 5)
    whole = Concatenation(parts)
    rng = np.random.default_rng(0)
    assert [int(whole.example(i, rng)["x"]) for i in range(len(whole))] == [0, 1, 2, 10, 11]
    assert whole.lengths.tolist() == [1, 2, 2, 4, 1] and whole.buckets == (2, 5)
    parts[0].lengths, parts[0].buckets = np.array([[1, 2]] * 3), ((2, 2), (4, 4))
    parts[1].lengths, parts[1].buckets = np.array([[3, 1]] * 2), ((4, 4),)
    whole = Concatenation(parts)
    assert whole.lengths.tolist() == [[1, 2]] * 3 + [[3, 1]] * 2
    assert whole.buckets == ((2, 2), (4, 4))


def test_an_unusable_example_is_masked_and_named():
    data = Noisy()
    (batch,) = fetch(pipeline(data, 12, training=False, devices=1).batches(0, 1))
    assert batch["mask"].tolist() == [1, 1, 1, 0] + [1] * 8
    assert data.unusable == {3: "example 3 is broken"}
    assert np.array_equal(batch["x"][3], batch["x"][0])


def test_a_batch_of_nothing_but_unusable_examples_is_masked_out():
    batches = fetch(pipeline(Noisy(), 1, training=False, devices=1).batches(0, 12))
    assert [float(batch["mask"][0]) for batch in batches] == [1, 1, 1, 0] + [1] * 8


def test_an_error_of_the_data_arrives_as_it_is():
    with pytest.raises(UserError, match="example 5 is broken; remove it"):
        fetch(pipeline(Noisy(fatal=True), 12, devices=1).batches(0, 1))


def test_randomness_on_the_host_belongs_to_the_example_and_the_epoch():
    def by_index(epoch, batch_size):
        made = pipeline(Noisy(), batch_size, devices=1)
        per_epoch = made.sampler.batches_per_epoch
        batches = fetch(made.batches(epoch * per_epoch, (epoch + 1) * per_epoch))
        return {
            int(i): tuple(x)
            for b in batches
            for i, x in zip(b["index"], b["x"], strict=True)
            if i != 3
        }

    assert by_index(0, 4) == by_index(0, 6)
    assert by_index(0, 4) != by_index(1, 4)
