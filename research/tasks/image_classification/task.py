"""Image classification as a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from research.common.errors import ConfigError
from research.data.dataset import ArrayDataset, Bucket, Dataset
from research.data.images import decode, fit, to_array
from research.task import Average, Batch, Task, Tree
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import TFDS, Digits, ImageFolder
from research.tasks.image_classification.models import CNN, MLP, FastResNet, ResNet
from research.tasks.image_classification.scorer import ClassificationScorer


@dataclass(frozen=True)
class ImageClassification(Task):
    """One label for an image, from a network that gives a logit for each class."""

    source: Digits | TFDS | ImageFolder = field(default_factory=Digits)
    """Where the images and labels come from."""

    model: MLP | CNN | ResNet | FastResNet = field(default_factory=CNN)
    """The network."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """What is done to the training images on the device."""

    label_smoothing: float = 0.0
    """The part of each target that is spread evenly over all classes (Szegedy et al. 2015)."""

    flip_in_prediction: bool = False
    """Predict with the mean of the logits for an image and its mirror image."""

    mean: tuple[float, ...] = (0.5,)
    """Subtracted from the pixels, which lie in [0, 1]; one number, or one for each channel."""

    std: tuple[float, ...] = (0.25,)
    """What the pixels are then divided by."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; its parameters are float32 in any case."""

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError("label_smoothing", f"must lie in [0, 1), is {self.label_smoothing}")
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (1, self.source.image_shape[2]):
                channels = self.source.image_shape[2]
                raise ConfigError(
                    key, f"must have 1 or {channels} numbers, as the images' channels"
                )
        if min(self.std) <= 0:
            raise ConfigError("std", f"must be positive, is {self.std}")

    def resolve(self) -> "ImageClassification":
        """With the class names, which only the data know."""
        try:
            return replace(self, source=self.source.resolve())
        except ConfigError as error:
            raise error.within("source") from None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return getattr(self.source, "classes", 0) or len(self.source.class_names)

    @cached_property
    def network(self) -> nn.Module:
        """The model, made for the number of classes and the dtype."""
        return self.model.clone(classes=self.classes, dtype=jnp.dtype(self.dtype))

    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Images uint8 [batch, height, width, channels] and labels int32 [batch]."""
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.source.image_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def dataset(self, split: str) -> Dataset:
        """The examples of a split."""
        try:
            return self.source.open(split)
        except ConfigError as error:
            raise error.within("source").within("task") from None

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Parameters, and the running averages of batch normalisation where there are any."""
        image = jnp.zeros((1, *self.source.image_shape))
        variables = dict(self.network.init(key, image, train=False))
        return variables.pop("params"), variables

    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """Softmax cross-entropy in nats, in training against smoothed and mixed targets."""
        images = self.normalize(batch["image"])
        targets = jax.nn.one_hot(batch["label"], self.classes)
        if train:
            augment_key, dropout_key = jax.random.split(key)
            images, targets = self.augmentation(augment_key, images, targets)
            targets = optax.smooth_labels(targets, self.label_smoothing)
            logits, variables = self.network.apply(
                {"params": params, **variables},
                images.astype(self.dtype),
                train=True,
                mutable=list(variables),
                rngs={"dropout": dropout_key},
            )
        else:
            logits = self._logits(params, variables, images)
        mask, count = batch["mask"], batch["mask"].sum()
        losses = optax.softmax_cross_entropy(logits, targets)
        correct = logits.argmax(-1) == batch["label"]
        metrics = {"loss": Average((losses * mask).sum(), count)}
        return metrics | {"accuracy": Average((correct * mask).sum(), count)}, variables

    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """Probabilities float32 [batch, classes]."""
        logits = self._logits(params, variables, self.normalize(batch["image"]))
        return {"probability": jax.nn.softmax(logits)}

    def scorer(self) -> ClassificationScorer:
        """Accuracy, and for many classes that of the five most probable."""
        return ClassificationScorer(self.source.class_names or tuple(map(str, range(self.classes))))

    def read(self, given: str) -> Dataset:
        """An image file, brought to the network's size as the test images are."""
        height, width, channels = self.source.image_shape
        crop_fraction = getattr(self.source, "crop_fraction", 1.0)
        image = to_array(fit(decode(Path(given), channels), height, width, crop_fraction))
        return ArrayDataset(image=image[None])

    def describe(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """The most probable class, its probability, and the next two."""
        names, probability = self.scorer().class_names, predictions[0]["probability"]
        best = np.argsort(-probability, kind="stable")[:3]
        rest = ", ".join(f"{names[i]} {probability[i]:.3f}" for i in best[1:])
        return {"class": names[best[0]], "probability": float(probability[best[0]]), "next": rest}

    def normalize(self, images: jax.Array | np.ndarray) -> jax.Array:
        """Images uint8 [batch, height, width, channels] as the network takes them, float32."""
        return (jnp.asarray(images) / 255.0 - jnp.array(self.mean)) / jnp.array(self.std)

    def _logits(self, params: Tree, variables: Tree, images: jax.Array) -> jax.Array:
        def apply(x: jax.Array) -> Any:
            return self.network.apply(
                {"params": params, **variables}, x.astype(self.dtype), train=False
            )

        if self.flip_in_prediction:
            return (apply(images) + apply(images[:, :, ::-1])) / 2
        return apply(images)
