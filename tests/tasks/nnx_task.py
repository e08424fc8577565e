"""A task whose model is an `flax.nnx` module, behind the same contract as the Linen tasks.

`nnx.split` separates a module into a static graph definition and trees of arrays. The task keeps
the graph definition, and hands the arrays to the engine as parameters and other variables.
"""

from dataclasses import dataclass, field
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from research.data.dataset import ArrayDataset
from research.predictor import Predictor
from research.task import Average, Task
from research.tasks.image_classification.data import Digits
from research.tasks.image_classification.scorer import ClassificationScorer


class Classifier(nnx.Module):
    """A hidden layer with batch normalisation and dropout, from images to 10 logits."""

    def __init__(self, width: int, dropout: float, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.output = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Returns logits float32 [batch, 10] of images float32 [batch, 8, 8, 1].

        In training mode `key` is the dropout key; in evaluation mode it is not needed.
        """
        x = nnx.relu(self.norm(self.hidden(images.reshape(images.shape[0], -1))))
        return self.output(self.dropout(x, rngs=key))


@dataclass(frozen=True)
class NNXDigits(Task):
    """Classification of the embedded digits."""

    source: Digits = field(default_factory=Digits)
    """Where the images and labels come from."""

    width: int = 32
    """Units of the hidden layer."""

    dropout: float = 0.1
    """Fraction of the hidden units dropped in training."""

    @cached_property
    def graph(self) -> nnx.GraphDef:
        """The structure of the module; static, without arrays."""
        abstract = nnx.eval_shape(lambda: self._module(jax.random.key(0)))
        return nnx.split(abstract, nnx.Param, ...)[0]

    def batch_spec(self, batch_size, length):
        return {
            "image": jax.ShapeDtypeStruct((batch_size, 8, 8, 1), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def dataset(self, split):
        return self.source.open(split)

    def init(self, key):
        _, params, variables = nnx.split(self._module(key), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(variables)

    def loss(self, params, variables, batch, key, train):
        module = self._merge(params, variables, train)
        logits = module(_normalize(batch["image"]), key if train else None)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        total, count = (losses * batch["mask"]).sum(), batch["mask"].sum()
        # Batch normalisation has assigned new running averages to the module's variables.
        _, _, variables = nnx.split(module, nnx.Param, ...)
        return {"loss": Average(total, count)}, nnx.to_pure_dict(variables)

    def predict(self, params, variables, batch):
        module = self._merge(params, variables, train=False)
        return {"probability": jax.nn.softmax(module(_normalize(batch["image"])))}

    def scorer(self):
        return ClassificationScorer(self.source.class_names)

    def predictor(self):
        return NNXDigitsPredictor()

    def _module(self, key: jax.Array) -> Classifier:
        return Classifier(self.width, self.dropout, nnx.Rngs(key))

    def _merge(self, params, variables, train: bool) -> Classifier:
        module = nnx.merge(self.graph, params, variables)
        module.train() if train else module.eval()
        return module


class NNXDigitsPredictor(Predictor):
    """Classifies `.npy` files of 8x8 uint8 arrays."""

    def preprocess(self, item):
        return ArrayDataset(image=np.load(item).reshape(1, 8, 8, 1))

    def postprocess(self, predictions):
        (prediction,) = predictions
        return {"class": int(prediction["probability"].argmax())}


def _normalize(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255
