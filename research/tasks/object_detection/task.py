"""Object detection as a task of the engine."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.errors import ConfigError, within
from research.data.dataset import Bucket, Dataset
from research.layers.protocol import check_interface, check_outputs
from research.layers.ranges import check_ranges
from research.task import Average, Batch, Task, Tree
from research.tasks.object_detection.assignment import assign
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.data import (
    COCO,
    VOC,
    DetectionExamples,
    DetectionTFDS,
    DigitScenes,
)
from research.tasks.object_detection.decoding import Decoding
from research.tasks.object_detection.losses import box_loss, class_loss
from research.tasks.object_detection.models import Detector, anchor_points
from research.tasks.object_detection.scorer import METRICS, DetectionScorer
from research.weights.conversion import Preprocessing

if TYPE_CHECKING:
    from research.tasks.object_detection.predictor import ObjectDetectionPredictor

_MODEL_FIELDS = ("backbone", "strides", "channels", "num_head_convs")
_BOX_LOSS_WEIGHT = 2.0  # relative to the classification loss, as in TOOD


@dataclass(frozen=True)
class ObjectDetection(Task):
    """Predicts the class, score and bounding box of each object in an image."""

    metrics = METRICS

    source: DigitScenes | COCO | VOC | DetectionTFDS = field(default_factory=DigitScenes)
    """The dataset of annotated images."""

    image_size: tuple[int, int] = (128, 128)
    """Height and width of the network input; images are letterboxed, keeping their aspect ratio."""

    max_objects: int = 100
    """Maximum number of training targets per image, the largest objects first; evaluation uses all
    objects."""

    model: Detector = field(default_factory=Detector)
    """The network."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of the training images."""

    decoding: Decoding = field(default_factory=Decoding)
    """Selection of detections from the network outputs."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each channel, subtracted from pixels in [0, 1]; by default that of ImageNet."""

    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, which the centred pixels are divided by."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Computation dtype of the network; parameters are always float32."""

    def __post_init__(self):
        with within("model"):
            check_interface(self.model, ("images",), _MODEL_FIELDS)
        with within("model"), within("backbone"):
            check_ranges(self.model.backbone)
        strides, available = self.model.strides, self.model.backbone.strides
        first = available.index(strides[0]) if strides and strides[0] in available else 0
        if not strides or strides != available[first : first + len(strides)]:
            expected = f"expected consecutive strides of the backbone, {available}"
            problem = f"invalid value {strides}: {expected}"
            raise ConfigError("model.strides", problem)
        if self.model.channels < 1 or self.model.num_head_convs < 0:
            problem = "invalid value: expected channels of at least 1, num_head_convs of at least 0"
            raise ConfigError("model", problem)
        for size in self.image_size:
            if size < 1 or size % strides[-1]:
                expected = f"expected multiples of the largest stride, {strides[-1]}"
                raise ConfigError("image_size", f"invalid value {self.image_size}: {expected}")
        if self.max_objects < 1:
            problem = f"invalid value {self.max_objects}: expected at least 1"
            raise ConfigError("max_objects", problem)
        if min(self.std) <= 0:
            raise ConfigError("std", f"invalid value {self.std}: expected positive numbers")

    def resolve(self) -> "ObjectDetection":
        """Returns the task with the class names of its dataset."""
        with within("source"):
            return replace(self, source=self.source.resolve())

    def resolve_without_data(self) -> "ObjectDetection":
        """Returns the task with 80 classes, as many as COCO has, where the config has no names."""
        if self.source.class_names or isinstance(self.source, DigitScenes):
            return self
        names = tuple(map(str, range(80)))
        return replace(self, source=replace(self.source, class_names=names))

    @cached_property
    def network(self) -> nn.Module:
        """The model with the number of classes and the computation dtype filled in."""
        dtype, num_classes = jnp.dtype(self.dtype), len(self.source.class_names)
        backbone = self.model.backbone.clone(dtype=dtype)
        return self.model.clone(backbone=backbone, num_classes=num_classes, dtype=dtype)

    @property
    def name_table(self) -> tuple[tuple[str, str, str], ...]:
        """The backbone's names in PyTorch."""
        rules = self.model.backbone.name_table
        return tuple((pattern, f"backbone/{path}", layout) for pattern, path, layout in rules)

    @property
    def preprocessing(self) -> Preprocessing:
        """The normalisation of the pixels."""
        return {"mean": self.mean, "std": self.std}

    @property
    def pretrained_preprocessing(self) -> Preprocessing:
        """The normalisation that the published weights of the backbone expect."""
        return self.model.backbone.pretrained_preprocessing

    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the arrays of `DetectionExamples` with a batch dimension.

        `image` uint8 [batch, height, width, 3], letterboxed; `scale` float32 [batch, 2], the
        factors of x and y from the original to `image`; `size` float32 [batch, 2], the width and
        height of the original. The targets are `boxes`, `labels` and `crowd`.
        """
        shapes = {
            "image": ((*self.image_size, 3), jnp.uint8),
            "boxes": ((self.max_objects, 4), jnp.float32),
            "labels": ((self.max_objects,), jnp.int32),
            "crowd": ((self.max_objects,), jnp.bool_),
            "scale": ((2,), jnp.float32),
            "size": ((2,), jnp.float32),
        }
        return {
            name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
            for name, (shape, dtype) in shapes.items()
        }

    def dataset(self, split: str) -> Dataset:
        """Opens the letterboxed images of a split."""
        return self._examples(split, None)

    def training(self) -> Dataset:
        """Opens the augmented training images."""
        return self._examples("train", self.augmentation)

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and batch statistics."""
        image = jnp.zeros((1, *self.image_size, 3))
        outputs, initial = self.network.init_with_output(key, image, train=False)
        points = len(anchor_points(self.image_size, self.model.strides)[0])
        expected = {
            "logits [batch, points, classes]": (1, points, len(self.source.class_names)),
            "boxes [batch, points, 4]": (1, points, 4),
        }
        check_outputs(self.network, outputs, expected)
        variables = dict(initial)
        return variables.pop("params"), variables

    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """Computes the classification and box regression losses, normalised per object."""
        images = self.normalize(batch["image"])
        if train:
            (logits, boxes), variables = self.network.apply(
                {"params": params, **variables},
                images,
                train=True,
                mutable=list(variables),
                rngs={"dropout": key},
            )
        else:
            logits, boxes = self._apply(params, variables, images)
        true = batch["boxes"], batch["labels"], batch["crowd"]
        class_losses, box_losses = jax.vmap(self._image_losses)(logits, boxes, *true)
        num_objects = ((batch["labels"] >= 0) & ~batch["crowd"]).sum(axis=1)
        mask = batch["mask"]
        count = (num_objects.astype(mask.dtype) * mask).sum()
        losses = {
            "loss": class_losses + _BOX_LOSS_WEIGHT * box_losses,
            "class_loss": class_losses,
            "box_loss": box_losses,
        }
        averages = {name: Average((loss * mask).sum(), count) for name, loss in losses.items()}
        return averages, variables

    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """Returns detections in pixels of the original image, by decreasing score.

        `boxes` float32 [batch, detections, 4]; `scores` float32 [batch, detections], 0 for padding;
        and `labels` int32 [batch, detections].
        """
        images = self.normalize(batch["image"])
        logits, boxes = self._apply(params, variables, images)
        scale, size = (jnp.tile(batch[name], 2)[:, None] for name in ("scale", "size"))
        boxes = jnp.clip(boxes / scale, 0.0, size)
        boxes, scores, labels = jax.vmap(self.decoding)(jax.nn.sigmoid(logits), boxes)
        return {"boxes": boxes, "scores": scores, "labels": labels}

    def normalize(self, images: jax.Array) -> jax.Array:
        """Converts images uint8 [batch, height, width, 3] to normalised network inputs."""
        pixels = images.astype(jnp.float32) / 255.0
        return ((pixels - jnp.array(self.mean)) / jnp.array(self.std)).astype(self.dtype)

    def scorer(self) -> DetectionScorer:
        """Returns a scorer that computes COCO's average precision."""
        return DetectionScorer(self.source.class_names, self.decoding.display_threshold)

    def predictor(self) -> "ObjectDetectionPredictor":
        """Returns the predictor that detects objects in image files."""
        from research.tasks.object_detection.predictor import ObjectDetectionPredictor

        return ObjectDetectionPredictor(self)

    def _image_losses(
        self,
        logits: jax.Array,
        boxes: jax.Array,
        true_boxes: jax.Array,
        labels: jax.Array,
        crowd: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the classification loss and the box regression loss of one image."""
        points, strides = map(jnp.array, anchor_points(self.image_size, self.model.strides))
        scores = jax.nn.sigmoid(logits)
        targets = assign(scores, boxes, points, strides, true_boxes, labels, crowd)
        return class_loss(logits, labels, targets), box_loss(boxes, true_boxes, targets)

    def _apply(self, params: Tree, variables: Tree, images: jax.Array) -> Any:
        return self.network.apply({"params": params, **variables}, images, train=False)

    def _examples(self, split: str, augmentation: Augmentation | None) -> Dataset:
        with within("task"), within("source"):
            images = self.source.open(split)
        return DetectionExamples(images, self.image_size, self.max_objects, augmentation)
