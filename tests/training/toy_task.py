"""A task unlike image classification: sequences of several lengths, two inputs, a host metric.

Its target is the weighted sum of a sequence, or of two, and what it predicts are two arrays. It
stands for speech and translation, which come to the engine with the same needs.
"""

from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from research.data.dataset import Dataset
from research.task import Average, Scorer, Task

SIDES = ("frames", "notes")


class Sequences(Dataset):
    def __init__(self, count, buckets, seed):
        super().__init__()
        shape = (count, *np.shape(buckets[0]))
        self.lengths = np.random.default_rng(seed).integers(1, 13, shape)
        self.buckets, self.seed = buckets, seed

    def __len__(self):
        return len(self.lengths)

    def example(self, index, rng):
        own = np.random.default_rng((self.seed, index))
        lengths = np.atleast_1d(self.lengths[index])
        sides = [own.normal(size=(length, 2)).astype(np.float32) for length in lengths]
        weight = own.normal(size=()).astype(np.float32)
        target = weight * np.float32(sum(side.sum(dtype=np.float32) for side in sides))
        return {"weight": weight, "target": target} | dict(zip(SIDES, sides, strict=False))


class MedianError(Scorer):
    """A median cannot be added up from parts on the device."""

    targets = ("target", "weight")

    def __init__(self):
        self.errors = []
        self.indices = []

    def update(self, targets, predictions):
        self.errors += np.abs(targets["target"] - predictions["value"]).tolist()
        self.indices += targets["index"].tolist()

    def result(self, dataset):
        return {"median_error": float(np.median(self.errors))}

    def figures(self, dataset):
        return {"Errors": Figure()}


@dataclass(frozen=True)
class Toy(Task):
    sizes: tuple[int, ...] = (4, 8, 12)
    sides: int = 1
    examples: int = 50

    @property
    def buckets(self):
        return self.sizes if self.sides == 1 else tuple(product(self.sizes, repeat=self.sides))

    def batch_spec(self, batch_size, length):
        one = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
        lengths = np.atleast_1d(length or self.buckets[-1]).tolist()
        return {"weight": one, "target": one} | {
            side: jax.ShapeDtypeStruct((batch_size, size, 2), jnp.float32)
            for side, size in zip(SIDES, lengths, strict=False)
        }

    def dataset(self, split):
        return Sequences(
            self.examples, self.buckets, {"train": 0, "validation": 1, "test": 2}[split]
        )

    def init(self, key):
        return {"kernel": jax.random.normal(key, (2, 8)), "out": jnp.ones((8,)) / 8}, {}

    def loss(self, params, variables, batch, key, train):
        error = (self._value(params, batch) - batch["target"]) ** 2 * batch["mask"]
        return {"loss": Average(error.sum(), batch["mask"].sum())}, variables

    def predict(self, params, variables, batch):
        value = self._value(params, batch)
        return {"value": value, "sign": value > 0}

    def scorer(self):
        return MedianError()

    def read(self, given):
        raise NotImplementedError

    def describe(self, predictions):
        raise NotImplementedError

    def _value(self, params, batch):
        total = sum(batch[side].sum(1) for side in SIDES if side in batch)
        hidden = total @ params["kernel"]
        return batch["weight"] * (hidden @ params["out"])
