"""From a plan to batches on the devices: read by threads, in order, ahead of need."""

from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np

from research.data.dataset import Bucket, Dataset, Example, Shapes
from research.data.sampler import Plan, SampledBatch

READ_AHEAD = 4  # batches that wait on the devices


class Pipeline:
    """The batches of a dataset as global arrays, sharded along their first axis.

    Every process makes the same plan and reads only the rows that its own devices hold. `shapes`
    gives what one example's arrays are padded to in a bucket.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        sharding: jax.sharding.Sharding,
        shapes: Callable[[Bucket | None], Shapes] | None = None,
    ):
        self.dataset, self.plan, self.sharding, self.shapes = dataset, plan, sharding, shapes

    def batches(self, start: int, stop: int) -> Iterator[dict[str, jax.Array]]:
        """The batches from number `start` to `stop`, counted through all epochs.

        Beside the dataset's arrays each has `mask` [batch] float32, 1 for an example and 0 for
        padding, and `index` [batch] int32, the position in the dataset, -1 for padding.
        """
        ahead = grain.ReadOptions(num_threads=READ_AHEAD, prefetch_buffer_size=READ_AHEAD)
        return iter(grain.MapDataset.range(start, stop).map(self._load).to_iter_dataset(ahead))

    def _load(self, number: int) -> dict[str, jax.Array]:
        epoch, batch = divmod(int(number), self.plan.batches_per_epoch)
        planned = self.plan.epoch(epoch)[batch]
        size = len(planned.indices)
        rows = self._rows(size)
        local = self._read(planned, rows, (self.plan.seed, epoch))
        return {name: self._place(array, rows, size) for name, array in local.items()}

    def _rows(self, size: int) -> np.ndarray:
        """The rows of a batch of that size that this process holds, ascending."""
        held = self.sharding.addressable_devices_indices_map((size,)).values()
        return np.unique(np.concatenate([np.arange(size)[index] for index in held if index]))

    def _read(self, planned: SampledBatch, rows: np.ndarray, seed: tuple[int, ...]) -> Example:
        indices = planned.indices[rows]
        present = indices >= 0
        # Padding repeats a real example: shapes and value ranges stay those of data.
        fill = planned.indices[0]
        shapes = self.shapes and self.shapes(planned.length)
        local = self.dataset.batch(np.where(present, indices, fill), seed, shapes)
        local["mask"] = np.where(present, local["mask"], 0).astype(np.float32)
        return local | {"index": indices.astype(np.int32)}

    def _place(self, local: np.ndarray, rows: np.ndarray, size: int) -> jax.Array:
        shape = (size, *local.shape[1:])

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # only where a device lies in another process
            return local[np.searchsorted(rows, np.arange(size)[index[0]])]

        return jax.make_array_from_callback(shape, self.sharding, shard)
