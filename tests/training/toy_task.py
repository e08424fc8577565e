"""A task unlike image classification: sequences of several lengths, two inputs, a host metric.

Its target is the weighted sum of a sequence, and what it predicts are two arrays. It stands for
speech and translation, which come to the engine with the same needs.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from research.data.dataset import Dataset
from research.task import Scorer, Task, Total


class Sequences(Dataset):
    def __init__(self, count, buckets, seed):
        super().__init__()
        self.lengths = np.random.default_rng(seed).integers(1, 13, count)
        self.buckets, self.seed = buckets, seed

    def __len__(self):
        return len(self.lengths)

    def example(self, index, rng):
        own = np.random.default_rng((self.seed, index))
        frames = own.normal(size=(self.lengths[index], 2)).astype(np.float32)
        weight = own.normal(size=()).astype(np.float32)
        return {"frames": frames, "weight": weight, "target": weight * frames.sum(dtype=np.float32)}


class MedianError(Scorer):
    """A median cannot be added up from parts on the device."""

    targets = ("target", "weight")

    def __init__(self):
        self.errors = []
        self.indices = []

    def update(self, targets, predictions):
        self.errors += np.abs(targets["target"] - predictions["value"]).tolist()
        self.indices += targets["index"].tolist()

    def result(self):
        return {"median_error": float(np.median(self.errors))}

    def figures(self, dataset):
        return {"Errors": Figure()}


@dataclass(frozen=True)
class Toy(Task):
    buckets: tuple[int, ...] = (4, 8, 12)
    examples: int = 50

    def batch_spec(self, batch_size, length):
        length = length or self.buckets[-1]
        return {
            "frames": jax.ShapeDtypeStruct((batch_size, length, 2), jnp.float32),
            "weight": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
            "target": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
        }

    def dataset(self, split):
        return Sequences(
            self.examples, self.buckets, {"train": 0, "validation": 1, "test": 2}[split]
        )

    def init(self, key):
        return {"kernel": jax.random.normal(key, (2, 8)), "out": jnp.ones((8,)) / 8}, {}

    def loss(self, params, variables, batch, key, train):
        error = (self._value(params, batch) - batch["target"]) ** 2 * batch["mask"]
        return {"loss": Total(error.sum(), batch["mask"].sum())}, variables

    def predict(self, params, variables, batch):
        value = self._value(params, batch)
        return {"value": value, "sign": value > 0}

    def scorer(self):
        return MedianError()

    def read(self, path):
        raise NotImplementedError

    def describe(self, predictions):
        raise NotImplementedError

    def _value(self, params, batch):
        hidden = batch["frames"].sum(1) @ params["kernel"]
        return batch["weight"] * (hidden @ params["out"])
