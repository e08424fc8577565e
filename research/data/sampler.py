"""Which examples form which batch: a pure function of (seed, epoch)."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from research.data.dataset import Bucket, Dataset


class SampledBatch(NamedTuple):
    """The examples of one batch."""

    indices: np.ndarray  # [batch] int64, -1 where the batch is filled up with padding
    length: Bucket | None  # the bucket they are padded to


class Members(NamedTuple):
    """The examples of one bucket, and how many of them a batch has."""

    length: Bucket | None
    indices: np.ndarray  # [examples] int64
    batch_size: int

    @property
    def batches(self) -> int:
        """The batches that they fill, the last of them perhaps in part."""
        return -(-len(self.indices) // self.batch_size)


class Plan:
    """How a dataset is cut into batches, all batches of a bucket of one size.

    For training each epoch is shuffled anew, and a last, incomplete batch is filled up with the
    first examples of the same epoch's order, so every example is seen and every batch is full. For
    evaluation the order is the dataset's, and the last batch is filled with padding, so that every
    example is seen exactly once. With buckets, each bucket is cut on its own, and examples that no
    bucket holds are left out.

    Args:
      dataset: what is cut.
      batch_size: the examples per batch in a bucket; None is the bucket of data without lengths.
      seed: of the order.
      training: whether to shuffle and fill up.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: Callable[[Bucket | None], int],
        seed: int,
        training: bool,
    ):
        self.seed, self.training = seed, training
        self.buckets = [Members(*found, batch_size(found[0])) for found in _members(dataset)]
        self.left_out = len(dataset) - sum(len(bucket.indices) for bucket in self.buckets)
        self.batches_per_epoch = sum(bucket.batches for bucket in self.buckets)
        # Two epochs are wanted at once where the pipeline reads ahead across their border.
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    @property
    def mean_batch_size(self) -> float:
        """The examples per batch, over an epoch."""
        places = sum(bucket.batches * bucket.batch_size for bucket in self.buckets)
        return places / self.batches_per_epoch

    def starts(self, epoch: int) -> np.ndarray:
        """The examples in an epoch before each of its batches, and at last all: [batches + 1]."""
        return np.cumsum([0, *(len(batch.indices) for batch in self.epoch(epoch))])

    def _epoch(self, epoch: int) -> list[SampledBatch]:
        rng = np.random.default_rng((self.seed, epoch))
        batches = []
        for bucket in self.buckets:
            order = rng.permutation(bucket.indices) if self.training else bucket.indices
            whole = np.full(bucket.batches * bucket.batch_size, -1, np.int64)
            whole[: len(order)] = order
            if self.training:
                whole[len(order) :] = np.resize(order, len(whole) - len(order))
            parts = whole.reshape(-1, bucket.batch_size)
            batches += [SampledBatch(part, bucket.length) for part in parts]
        if self.training and len(self.buckets) > 1:
            return [batches[i] for i in rng.permutation(len(batches))]
        return batches


def _members(dataset: Dataset) -> list[tuple[Bucket | None, np.ndarray]]:
    """The indices in each bucket that has any, the smallest bucket first."""
    rest = np.arange(len(dataset))
    if dataset.lengths is None:
        return [(None, rest)]
    lengths = np.atleast_2d(dataset.lengths.T).T  # [examples, sides]
    members = []
    for bucket in sorted(dataset.buckets, key=lambda bucket: int(np.sum(bucket))):
        fits = (lengths[rest] <= np.array(bucket)).all(axis=1)
        members.append((bucket, rest[fits]))
        rest = rest[~fits]
    return [(bucket, indices) for bucket, indices in members if len(indices)]
