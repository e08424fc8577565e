"""Object detection as a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from research.common.errors import ConfigError
from research.data.dataset import ArrayDataset, Bucket, Dataset
from research.data.images import decode
from research.task import Average, Batch, Task, Tree
from research.tasks.object_detection.assignment import assign
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.boxes import NOTHING, Annotation
from research.tasks.object_detection.data import AnnotatedImages, DetectionExamples
from research.tasks.object_detection.decoding import Decoding
from research.tasks.object_detection.drawing import draw
from research.tasks.object_detection.losses import box_loss, class_loss
from research.tasks.object_detection.models import Detector, places
from research.tasks.object_detection.scenes import DigitScenes
from research.tasks.object_detection.scorer import DetectionScorer
from research.tasks.object_detection.sources import COCO, VOC, DetectionTFDS

_BOX_WEIGHT = 2.0  # of the loss of boxes beside that of classes, as in TOOD


@dataclass(frozen=True)
class ObjectDetection(Task):
    """The objects in an image: for each a class, a score and a box."""

    source: DigitScenes | COCO | VOC | DetectionTFDS = field(default_factory=DigitScenes)
    """Where the images and their objects come from."""

    image_size: tuple[int, int] = (128, 128)
    """Height and width that the network sees; images are fitted in, their proportions kept."""

    max_objects: int = 100
    """Objects of an image that are learned at most, the largest; all are scored."""

    model: Detector = field(default_factory=Detector)
    """The network."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """What is done to the training images."""

    decoding: Decoding = field(default_factory=Decoding)
    """How detections are chosen."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from the pixels, which lie in [0, 1], by channel; ImageNet's."""

    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """What the pixels are then divided by."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; its parameters are float32 in any case."""

    def __post_init__(self):
        strides, given = self.model.strides, self.model.backbone.strides
        first = given.index(strides[0]) if strides and strides[0] in given else 0
        if not strides or strides != given[first : first + len(strides)]:
            problem = f"must be some of the backbone's {given}, one after another, is {strides}"
            raise ConfigError("model.strides", problem)
        if self.model.width < 1 or self.model.head_depth < 0:
            problem = "its width must be at least 1 and its head_depth not negative"
            raise ConfigError("model", problem)
        for size in self.image_size:
            if size < 1 or size % strides[-1]:
                problem = f"must be multiples of the greatest stride, {strides[-1]}"
                raise ConfigError("image_size", f"{problem}, is {self.image_size}")
        if self.max_objects < 1:
            raise ConfigError("max_objects", f"must be at least 1, is {self.max_objects}")
        if min(self.std) <= 0:
            raise ConfigError("std", f"must be positive, is {self.std}")

    def resolve(self) -> "ObjectDetection":
        """With the class names, which only the data know."""
        try:
            return replace(self, source=self.source.resolve())
        except ConfigError as error:
            raise error.within("source") from None

    @cached_property
    def network(self) -> nn.Module:
        """The model, made for the number of classes and the dtype."""
        dtype, classes = jnp.dtype(self.dtype), len(self.source.class_names)
        backbone = self.model.backbone.clone(dtype=dtype)
        return self.model.clone(backbone=backbone, classes=classes, dtype=dtype)

    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """What `DetectionExamples` says of an example, [batch, ...]."""
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
        """The images of a split, whole."""
        return self._examples(split, None)

    def training(self) -> Dataset:
        """The images of "train", augmented."""
        return self._examples("train", self.augmentation)

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Parameters, and the running averages of batch normalisation."""
        image = jnp.zeros((1, *self.image_size, 3))
        variables = dict(self.network.init(key, image, train=False))
        return variables.pop("params"), variables

    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """Of classes and of boxes, each summed over places and a mean over objects."""
        images = self.normalize(batch["image"])
        if train:
            (logits, boxes), variables = self.network.apply(
                {"params": params, **variables}, images, train=True, mutable=list(variables)
            )
        else:
            logits, boxes = self._apply(params, variables, images)
        true = batch["boxes"], batch["labels"], batch["crowd"]
        of_classes, of_boxes = jax.vmap(self._losses)(logits, boxes, *true)
        objects = ((batch["labels"] >= 0) & ~batch["crowd"]).sum(axis=1)
        mask = batch["mask"]
        count = (objects * mask).sum()
        losses = {
            "loss": of_classes + _BOX_WEIGHT * of_boxes,
            "class_loss": of_classes,
            "box_loss": of_boxes,
        }
        return {name: Average((one * mask).sum(), count) for name, one in losses.items()}, variables

    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """Detections in pixels of the original image, the best first.

        `boxes` float32 [batch, detections, 4], `scores` float32 [batch, detections], 0 where there
        is no detection, and `labels` int32 [batch, detections].
        """
        images = self.normalize(batch["image"])
        logits, boxes = self._apply(params, variables, images)
        scale, size = (jnp.tile(batch[name], 2)[:, None] for name in ("scale", "size"))
        boxes = jnp.clip(boxes / scale, 0, size)
        boxes, scores, labels = jax.vmap(self.decoding)(jax.nn.sigmoid(logits), boxes)
        return {"boxes": boxes, "scores": scores, "labels": labels}

    def normalize(self, images: jax.Array) -> jax.Array:
        """Images uint8 [batch, height, width, 3] as the network takes them."""
        return ((images / 255.0 - jnp.array(self.mean)) / jnp.array(self.std)).astype(self.dtype)

    def scorer(self) -> DetectionScorer:
        """COCO's average precision."""
        return DetectionScorer(self.source.class_names, self.decoding.told_from)

    def read(self, given: str) -> Dataset:
        """An image file."""
        images = _OneImage(decode(Path(given), 3))
        examples = DetectionExamples(images, self.image_size, self.max_objects)
        # As arrays of the network's size: there can be many photographs.
        arrays = examples.batch(np.zeros(1, int), (0,), None)
        del arrays["mask"]  # which the pipeline makes
        return ArrayDataset(**arrays)

    def describe(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """The detections worth telling of, the best first: `class`, `score`, and `box` in pixels.

        A box is (x_min, y_min, x_max, y_max) of the original image.
        """
        (one,), names = predictions, self.source.class_names
        found = one["scores"] >= self.decoding.told_from
        arrays = (one[name][found].tolist() for name in ("labels", "scores", "boxes"))
        return {
            "objects": [
                {"class": names[label], "score": score, "box": box}
                for label, score, box in zip(*arrays, strict=True)
            ]
        }

    def rows(self, description: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A row for each object, its box in whole pixels."""
        rest = {key: value for key, value in description.items() if key != "objects"}
        sides = ("x_min", "y_min", "x_max", "y_max")
        nothing = dict.fromkeys(("class", "score", *sides), "-")
        return [
            rest
            | {"class": one["class"], "score": one["score"]}
            | {side: round(value) for side, value in zip(sides, one["box"], strict=True)}
            for one in description["objects"]
        ] or [rest | nothing]

    def draw(self, given: str, description: Mapping[str, Any]) -> Image.Image:
        """The image with the boxes and labels of `describe`."""
        objects = description["objects"]
        boxes = np.array([one["box"] for one in objects], np.float32).reshape(-1, 4)
        names, scores = ([one[key] for one in objects] for key in ("class", "score"))
        return draw(decode(Path(given), 3), boxes, names, np.array(scores))

    def _losses(
        self,
        logits: jax.Array,
        boxes: jax.Array,
        true_boxes: jax.Array,
        labels: jax.Array,
        crowd: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Of the classes and of the boxes of one image."""
        centres, strides = map(jnp.array, places(self.image_size, self.model.strides))
        scores = jax.nn.sigmoid(logits)
        targets = assign(scores, boxes, centres, strides, true_boxes, labels, crowd)
        return class_loss(logits, labels, targets), box_loss(boxes, true_boxes, targets)

    def _apply(self, params: Tree, variables: Tree, images: jax.Array) -> Any:
        return self.network.apply({"params": params, **variables}, images, train=False)

    def _examples(self, split: str, augmentation: Augmentation | None) -> Dataset:
        try:
            images = self.source.open(split)
        except ConfigError as error:
            raise error.within("source").within("task") from None
        return DetectionExamples(images, self.image_size, self.max_objects, augmentation)


class _OneImage(AnnotatedImages):
    """An image of which nothing is known."""

    def __init__(self, image: Image.Image):
        self._image = image

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> Image.Image:
        return self._image

    def annotation(self, index: int) -> Annotation:
        return NOTHING
