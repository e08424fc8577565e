"""The input pipeline: from sampled indices to global arrays on the devices."""

from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np

from research.data.dataset import Bucket, Dataset, Example, Shapes
from research.data.sampler import BatchSampler, SampledBatch, SampledBucket

PREFETCH = 4  # batches that are prefetched to the devices


class Pipeline:
    """Loads the batches of a dataset as global arrays, sharded along their first axis.

    Every process samples the same batches and loads only the rows of its own devices.

    Args:
      dataset: the dataset to load from.
      sampler: the examples of every batch.
      sharding: of every array of a batch.
      shapes: returns the shapes that the arrays of an example are padded to in a bucket; None for
        examples of fixed shape.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: BatchSampler,
        sharding: jax.sharding.Sharding,
        shapes: Callable[[Bucket | None], Shapes] | None = None,
    ):
        self.dataset, self.sampler, self.sharding = dataset, sampler, sharding
        self.shapes = shapes

    def batches(self, start: int, stop: int) -> Iterator[dict[str, jax.Array]]:
        """Yields the batches from number `start` to `stop`, counted over all epochs.

        A batch has the arrays of the dataset, `mask` [batch] float32, 1 for an example and 0 for
        padding, and `index` [batch] int32, the position in the dataset, -1 for padding.
        """
        options = grain.ReadOptions(num_threads=PREFETCH, prefetch_buffer_size=PREFETCH)
        return iter(grain.MapDataset.range(start, stop).map(self._load).to_iter_dataset(options))

    def example(self, bucket: SampledBucket) -> Example:
        """Reads the first example of a bucket, as a batch of size 1 in host memory."""
        shapes = self.shapes and self.shapes(bucket.length)
        example = self.dataset.batch(bucket.indices[:1], (self.sampler.seed, 0), shapes)
        return {name: array for name, array in example.items() if name != "mask"}

    def _load(self, number: int) -> dict[str, jax.Array]:
        epoch, batch = divmod(int(number), self.sampler.batches_per_epoch)
        sampled = self.sampler.epoch(epoch)[batch]
        size = len(sampled.indices)
        rows = self._local_rows(size)
        local = self._read(sampled, rows, (self.sampler.seed, epoch))
        return {name: self._globalize(array, rows, size) for name, array in local.items()}

    def _local_rows(self, size: int) -> np.ndarray:
        """Returns the rows of a batch of that size that this process loads, ascending."""
        slices = self.sharding.addressable_devices_indices_map((size,)).values()
        return np.unique(np.concatenate([np.arange(size)[index] for index in slices if index]))

    def _read(self, sampled: SampledBatch, rows: np.ndarray, seed: tuple[int, ...]) -> Example:
        indices = sampled.indices[rows]
        present = indices >= 0
        # Padding repeats a real example, so that batch statistics are those of real examples.
        filler = sampled.indices[0]
        shapes = self.shapes and self.shapes(sampled.length)
        local = self.dataset.batch(np.where(present, indices, filler), seed, shapes)
        local["mask"] = np.where(present, local["mask"], 0).astype(np.float32)
        return local | {"index": indices.astype(np.int32)}

    def _globalize(self, local: np.ndarray, rows: np.ndarray, size: int) -> jax.Array:
        """Returns a global array [size, ...] of which `local` holds the given rows."""
        shape = (size, *local.shape[1:])

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # None only for devices of other processes
            return local[np.searchsorted(rows, np.arange(size)[index[0]])]

        return jax.make_array_from_callback(shape, self.sharding, shard)
