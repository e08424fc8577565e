"""A minimal task with variable lengths, two input sequences and a metric computed on the host.

The target is the weighted sum of one sequence or of two. The task exercises the parts of the
contract that image classification does not: buckets of one or two lengths, several predicted
arrays, and a scorer whose metric is not a mean over examples.
"""

from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from research.common.errors import UserError
from research.data.dataset import ArrayDataset, Dataset
from research.predictor import Predictor
from research.reporting.figures import Figure
from research.reporting.html import element
from research.task import Average, Scorer, Task

SIDES = ("frames", "notes")


class Sequences(Dataset):
    """Random sequences [length, 2] float32 of 1 to 12 steps."""

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
    """The median absolute error, which cannot be computed from a sum and a count."""

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
        return [Figure("Errors", element("p", f"{len(self.errors)}"))]


class ToyPredictor(Predictor):
    """Predicts the value of a sequence of length 1, given as text such as "0.5 -1"."""

    input_kind = "text"

    def preprocess(self, item):
        try:
            first, second = map(float, item.split())
        except ValueError:
            message = f"invalid input '{item}': expected two numbers, e.g. '0.5 -1'"
            raise UserError(message) from None
        frames = np.array([[[first, second]]], np.float32)
        return ArrayDataset(frames=frames, weight=np.ones(1, np.float32))

    def postprocess(self, predictions):
        (prediction,) = predictions
        return {"value": float(prediction["value"]), "positive": bool(prediction["sign"])}


@dataclass(frozen=True)
class Toy(Task):
    """Predicts the weighted sum of one or two sequences with a linear model."""

    sizes: tuple[int, ...] = (4, 8, 12)
    """Bucket lengths of each side."""

    sides: int = 1
    """Number of sequences in an example, 1 or 2."""

    examples: int = 50
    """Number of examples in each split."""

    @property
    def buckets(self):
        return self.sizes if self.sides == 1 else tuple(product(self.sizes, repeat=self.sides))

    def batch_spec(self, batch_size, length):
        scalar = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
        lengths = np.atleast_1d(length or self.buckets[-1]).tolist()
        return {"weight": scalar, "target": scalar} | {
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

    def predictor(self):
        return ToyPredictor()

    def _value(self, params, batch):
        total = sum(batch[side].sum(1) for side in SIDES if side in batch)
        hidden = total @ params["kernel"]
        return batch["weight"] * (hidden @ params["out"])
