"""Which examples form which batch: a pure function of (seed, epoch)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from research.data.dataset import Dataset


class PlannedBatch(NamedTuple):
    """The examples of one batch."""

    indices: np.ndarray  # [batch] int64, -1 where the batch is filled up with padding
    length: int | None  # the bucket they are padded to


class Plan:
    """How a dataset is cut into batches of one size.

    For training each epoch is shuffled anew, and a last, incomplete batch is filled up with the
    first examples of the same epoch's order, so every example is seen and every batch is full. For
    evaluation the order is the dataset's, and the last batch is filled with padding, so that every
    example is seen exactly once. With buckets, each bucket is cut on its own, and examples longer
    than the last one are left out.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, training: bool):
        self.batch_size, self.seed, self.training = batch_size, seed, training
        self.buckets = _members(dataset)
        self.left_out = len(dataset) - sum(len(members) for _, members in self.buckets)
        self.batches_per_epoch = sum(-(-len(m) // batch_size) for _, m in self.buckets)
        # Two epochs are wanted at once where the pipeline reads ahead across their border.
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, epoch: int) -> list[PlannedBatch]:
        rng = np.random.default_rng((self.seed, epoch))
        batches = []
        for length, members in self.buckets:
            order = rng.permutation(members) if self.training else members
            whole = np.full(-(-len(order) // self.batch_size) * self.batch_size, -1, np.int64)
            whole[: len(order)] = order
            if self.training:
                whole[len(order) :] = np.resize(order, len(whole) - len(order))
            batches += [PlannedBatch(part, length) for part in whole.reshape(-1, self.batch_size)]
        if self.training and len(self.buckets) > 1:
            return [batches[i] for i in rng.permutation(len(batches))]
        return batches


def _members(dataset: Dataset) -> list[tuple[int | None, np.ndarray]]:
    """The indices in each bucket that has any."""
    if dataset.lengths is None:
        return [(None, np.arange(len(dataset)))]
    bucket_of = np.searchsorted(dataset.buckets, dataset.lengths)
    members = [(size, np.flatnonzero(bucket_of == i)) for i, size in enumerate(dataset.buckets)]
    return [(size, indices) for size, indices in members if len(indices)]
