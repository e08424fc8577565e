"""The image classification task."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from research.common.config import renamed_from
from research.common.errors import ConfigError, within
from research.data.dataset import Bucket, Dataset
from research.layers.protocol import check_interface, check_outputs
from research.layers.ranges import check_ranges
from research.predictor import Predictor
from research.task import Average, Batch, Task, Tree, Vocabularies
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import TFDS, DigitPhotographs, Digits, ImageFolder
from research.tasks.image_classification.few_shot import FewShot, FewShotScores, few_shot
from research.tasks.image_classification.models import (
    CNN,
    MLP,
    Classifier,
    EfficientNetLite,
    FastResNet,
    MobileNetV3,
    ResNet,
    ViT,
)
from research.tasks.image_classification.scorer import METRICS, ClassificationScorer
from research.weights.conversion import Preprocessing


@dataclass(frozen=True)
class ImageClassification(Task):
    """Predicts one of several classes for each image."""

    metrics = METRICS

    source: Digits | DigitPhotographs | TFDS | ImageFolder = field(default_factory=Digits)
    """Images and labels."""

    model: MLP | CNN | ResNet | FastResNet | EfficientNetLite | MobileNetV3 | ViT = field(
        default_factory=CNN
    )
    """Network that computes the logits of the classes."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of training batches, on the device."""

    label_smoothing: float = 0.0
    """Fraction of each target distributed evenly over all classes (Szegedy et al. 2015)."""

    test_time_flip: bool = renamed_from("flip_in_prediction", default=False)
    """Test-time augmentation: average the logits of each image and its mirror image."""

    input_size: tuple[int, ...] = ()
    """Height and width to which images are resized on the device, after augmentation: small images
    for a network that was trained on larger ones. Empty: their own size."""

    mean: tuple[float, ...] = (0.5,)
    """Mean of the pixels in [0, 1], subtracted from them; one number, or one for each channel."""

    std: tuple[float, ...] = (0.25,)
    """Standard deviation of the pixels, by which they are divided; one number, or one for each
    channel."""

    few_shot: FewShot | None = None
    """Few-shot evaluation on other classes; None: there is none."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the network's computation; its parameters are float32."""

    def __post_init__(self):
        with within("model"):
            check_interface(self.model, ("images",))
            check_ranges(self.model)
        if not 0 <= self.label_smoothing < 1:
            problem = f"invalid fraction {self.label_smoothing}: expected a number in [0, 1)"
            raise ConfigError("label_smoothing", problem)
        if len(self.input_size) not in (0, 2) or any(side < 1 for side in self.input_size):
            problem = f"invalid value {self.input_size}: expected (height, width), or ()"
            raise ConfigError("input_size", problem)
        channels = self.source.image_shape[2]
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (1, channels):
                expected = "1 number" if channels == 1 else f"1 or {channels} numbers"
                problem = f"invalid value {getattr(self, key)}: expected {expected}"
                raise ConfigError(key, f"{problem}, as the images have {channels} channels")
        new = self.few_shot.source.image_shape if self.few_shot else self.source.image_shape
        if new != self.source.image_shape:
            problem = f"invalid images of {new}: task.source has {self.source.image_shape}"
            raise ConfigError("few_shot.source", problem)
        if min(self.std) <= 0:
            raise ConfigError("std", f"invalid value {self.std}: expected positive numbers")

    def resolve(self) -> "ImageClassification":
        """Returns the task with the class names of the data."""
        with within("source"):
            source = self.source.resolve()
        if not self.few_shot:
            return replace(self, source=source)
        with within("few_shot"), within("source"):
            few_shot = replace(self.few_shot, source=self.few_shot.source.resolve())
        return replace(self, source=source, few_shot=few_shot)

    def resolve_without_data(self) -> "ImageClassification":
        """Returns the task with 100 classes where the config does not give their number."""
        if self.num_classes or not isinstance(self.source, ImageFolder):
            return self
        names = tuple(map(str, range(100)))
        return replace(self, source=replace(self.source, class_names=names))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.source.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels; numbers where the data have none."""
        return self.source.class_names or tuple(map(str, range(self.num_classes)))

    @cached_property
    def network(self) -> Classifier:
        """The model with its number of classes and dtype."""
        return self.model.clone(num_classes=self.num_classes, dtype=jnp.dtype(self.dtype))

    @property
    def name_table(self) -> tuple[tuple[str, str, str], ...]:
        """The model's names in PyTorch, where it has such a table."""
        return getattr(self.network, "name_table", ())

    @property
    def preprocessing(self) -> Preprocessing:
        """The normalisation of the pixels."""
        return {"mean": self.mean, "std": self.std}

    @property
    def pretrained_preprocessing(self) -> Preprocessing:
        """The normalisation that the published weights of the model expect."""
        return getattr(self.network, "pretrained_preprocessing", {})

    @property
    def vocabularies(self) -> Vocabularies:
        """The last layer has a slice for each class."""
        names = self.class_names
        return ("^params/head/kernel$", 1, names), ("^params/head/bias$", 0, names)

    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns images uint8 [batch, height, width, channels] and labels int32 [batch]."""
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.source.image_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def dataset(self, split: str) -> Dataset:
        """Opens the examples of a split."""
        with within("task"), within("source"):
            return self.source.open(split)

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters, and batch statistics where the model has them."""
        image = self.resize(jnp.zeros((1, *self.source.image_shape)))
        logits, initial = self.network.init_with_output(key, image, train=False)
        check_outputs(self.network, logits, {"logits [batch, classes]": (1, self.num_classes)})
        variables = dict(initial)
        return variables.pop("params"), variables

    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """Returns softmax cross-entropy in nats and accuracy.

        In training, images and targets are augmented and targets are smoothed.
        """
        images = self.normalize(batch["image"])
        targets = jax.nn.one_hot(batch["label"], self.num_classes)
        if train:
            augment_key, dropout_key = jax.random.split(key)
            images, targets = self.augmentation(augment_key, images, targets)
            targets = optax.smooth_labels(targets, self.label_smoothing)
            logits, variables = self.network.apply(
                {"params": params, **variables},
                self.resize(images).astype(self.dtype),
                train=True,
                mutable=list(variables),
                rngs={"dropout": dropout_key},
            )
        else:
            logits = self._logits(params, variables, images)
        mask, count = batch["mask"], batch["mask"].sum()
        losses = optax.softmax_cross_entropy(logits, targets)
        correct = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        metrics = {"loss": Average((losses * mask).sum(), count)}
        return metrics | {"accuracy": Average((correct * mask).sum(), count)}, variables

    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """Returns probabilities float32 [batch, classes]."""
        logits = self._logits(params, variables, self.normalize(batch["image"]))
        return {"probability": jax.nn.softmax(logits)}

    def scorer(self) -> ClassificationScorer:
        """Returns a scorer of accuracy, and of top-5 accuracy for many classes."""
        return ClassificationScorer(self.class_names)

    def further_scores(self, params: Tree, variables: Tree, split: str) -> FewShotScores | None:
        """Returns the few-shot accuracies on a split of `few_shot.source`."""
        return few_shot(self, params, variables, split) if self.few_shot else None

    def predictor(self) -> Predictor:
        """Returns the predictor of image files."""
        from research.tasks.image_classification.predictor import ImageClassificationPredictor

        return ImageClassificationPredictor(self)

    def normalize(self, images: jax.Array | np.ndarray) -> jax.Array:
        """Scales pixels to [0, 1], subtracts the mean and divides by the standard deviation.

        Args:
          images: uint8 [..., height, width, channels].

        Returns:
          The network's input, float32 [..., height, width, channels].
        """
        pixels = jnp.asarray(images).astype(jnp.float32) / 255.0
        return (pixels - jnp.array(self.mean)) / jnp.array(self.std)

    def resize(self, images: jax.Array) -> jax.Array:
        """Resizes images float32 [batch, height, width, channels] to `input_size`, bilinearly."""
        if not self.input_size:
            return images
        return jax.image.resize(
            images, (images.shape[0], *self.input_size, images.shape[3]), "linear"
        )

    def _logits(self, params: Tree, variables: Tree, images: jax.Array) -> jax.Array:
        """Returns the logits float32 [batch, classes] of normalised images."""

        def apply(x: jax.Array) -> Any:
            x = self.resize(x).astype(self.dtype)
            return self.network.apply({"params": params, **variables}, x, train=False)

        if self.test_time_flip:
            return (apply(images) + apply(images[:, :, ::-1])) / 2
        return apply(images)
