"""Batch sampling: the examples of every batch, as a pure function of (seed, epoch)."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from research.data.dataset import Bucket, Dataset


class SampledBatch(NamedTuple):
    """The examples of one batch."""

    indices: np.ndarray  # [batch] int64; -1 marks a row of padding
    length: Bucket | None  # the bucket that the examples are padded to


class SampledBucket(NamedTuple):
    """The examples of one bucket, and the size of its batches."""

    length: Bucket | None
    indices: np.ndarray  # [examples] int64
    batch_size: int

    @property
    def num_batches(self) -> int:
        """The number of batches in an epoch; the last one may be incomplete."""
        return -(-len(self.indices) // self.batch_size)


class BatchSampler:
    """Splits the examples of a dataset into batches; each bucket has one batch size.

    In training, every epoch has its own order, and the last batch is completed with the first
    examples of the same epoch: every example occurs, and every batch is full. In evaluation, the
    order is that of the dataset, and the last batch is completed with padding: every example occurs
    exactly once. Buckets are split separately. Examples longer than every bucket are dropped.

    Args:
      dataset: the dataset to sample from.
      batch_size: returns the batch size of a bucket; None is the only bucket of a dataset without
        lengths.
      seed: seed of the order.
      training: whether to shuffle, and to complete the last batch with examples.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: Callable[[Bucket | None], int],
        seed: int,
        training: bool,
    ):
        self.seed, self.training = seed, training
        self.buckets = [
            SampledBucket(length, indices, batch_size(length))
            for length, indices in _assign_buckets(dataset)
        ]
        self.num_dropped = len(dataset) - sum(len(bucket.indices) for bucket in self.buckets)
        self.batches_per_epoch = sum(bucket.num_batches for bucket in self.buckets)
        # The pipeline prefetches across the end of an epoch, so it needs two epochs at a time.
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    @property
    def mean_batch_size(self) -> float:
        """The mean number of rows per batch over an epoch."""
        rows = sum(bucket.num_batches * bucket.batch_size for bucket in self.buckets)
        return rows / self.batches_per_epoch

    def offsets(self, epoch: int) -> np.ndarray:
        """Returns the row offset of each batch of an epoch, and their total: [batches + 1]."""
        return np.cumsum([0, *(len(batch.indices) for batch in self.epoch(epoch))])

    def _epoch(self, epoch: int) -> list[SampledBatch]:
        rng = np.random.default_rng((self.seed, epoch))
        batches = []
        for bucket in self.buckets:
            order = rng.permutation(bucket.indices) if self.training else bucket.indices
            rows = np.full(bucket.num_batches * bucket.batch_size, -1, np.int64)
            rows[: len(order)] = order
            if self.training:
                rows[len(order) :] = np.resize(order, len(rows) - len(order))
            batches += [
                SampledBatch(indices, bucket.length)
                for indices in rows.reshape(-1, bucket.batch_size)
            ]
        if self.training and len(self.buckets) > 1:
            return [batches[i] for i in rng.permutation(len(batches))]
        return batches


def _assign_buckets(dataset: Dataset) -> list[tuple[Bucket | None, np.ndarray]]:
    """Returns every bucket that has examples with their indices, the smallest bucket first."""
    remaining = np.arange(len(dataset))
    if dataset.lengths is None:
        return [(None, remaining)]
    lengths = np.atleast_2d(dataset.lengths.T).T  # [examples, sides]
    assigned = []
    for bucket in sorted(dataset.buckets, key=lambda bucket: int(np.sum(bucket))):
        fits = (lengths[remaining] <= np.array(bucket)).all(axis=1)
        assigned.append((bucket, remaining[fits]))
        remaining = remaining[~fits]
    return [(bucket, indices) for bucket, indices in assigned if len(indices)]
