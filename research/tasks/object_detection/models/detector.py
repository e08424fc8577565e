"""A single-stage, anchor-free detector: backbone, feature pyramid and a head shared by all levels.

As in FCOS (Tian et al. 2019), each anchor point of each level predicts class logits and the
distances to the four sides of its box, so that no anchor boxes are tuned per data set.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from research.common.config import not_configured, renamed_from, widened_from
from research.layers.efficientnet import EfficientNetLite
from research.layers.mobilenet import MobileNetV3
from research.layers.resnet import ResNet

_PRIOR = 0.01  # initial score of every class: most anchor points are background (Lin et al. 2017)
_MAX_LOG_DISTANCE = 8.0  # keeps exp finite; e^8 strides exceed any image


class Detector(nn.Module):
    """Predicts class logits and a box at every anchor point of a feature pyramid."""

    backbone: ResNet | EfficientNetLite | MobileNetV3 = widened_from(ResNet)
    """Backbone that feeds the feature pyramid."""

    strides: tuple[int, ...] = (8, 16, 32)
    """Strides of the pyramid levels in pixels: consecutive strides of the backbone."""

    channels: int = renamed_from("width", default=128)
    """Channels of the feature pyramid and of the head."""

    num_head_convs: int = renamed_from("head_depth", default=2)
    """Number of 3x3 convolutions of the classification and of the box branch."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns the predictions of all anchor points, in the order of `anchor_points`.

        Args:
          images: [batch, height, width, 3].
          train: whether batch statistics are updated and dropout, with the random stream "dropout",
            is applied.

        Returns:
          Logits float32 [batch, points, classes], and boxes float32 [batch, points, 4] in pixels.
        """
        available = self.backbone.strides
        stages = self.backbone(images, train, stages=available.index(self.strides[-1]) + 1)
        levels = [x for x, stride in zip(stages, available, strict=False) if stride in self.strides]
        levels = self._pyramid(levels, train)
        head = partial(_Head, self.channels, self.num_head_convs, dtype=self.dtype)
        classify = head(outputs=self.num_classes, name="classify")
        locate = head(outputs=4, name="locate")
        points, strides = anchor_points(images.shape[1:3], self.strides)
        log_distances = jnp.minimum(locate(levels, train), _MAX_LOG_DISTANCE)
        distances = jnp.exp(log_distances) * strides[:, None]
        low, high = points - distances[..., :2], points + distances[..., 2:]
        logits = classify(levels, train) + math.log(_PRIOR / (1 - _PRIOR))
        return logits, jnp.concatenate([low, high], axis=-1)

    def _pyramid(self, levels: list[jax.Array], train: bool) -> list[jax.Array]:
        """Feature pyramid: adds upsampled coarse features to fine ones (Lin et al. 2016)."""
        conv = partial(nn.Conv, self.channels, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, not train, momentum=0.9, dtype=self.dtype)
        merged = [norm()(conv((1, 1))(x)) for x in levels]
        for fine in reversed(range(len(merged) - 1)):
            merged[fine] += _upsample(merged[fine + 1])
        return [nn.relu(norm()(conv((3, 3))(nn.relu(x)))) for x in merged]


class _Head(nn.Module):
    """Convolutions shared by all levels, with separate batch normalisation per level."""

    channels: int
    num_convs: int
    outputs: int
    dtype: Any

    @nn.compact
    def __call__(self, levels: list[jax.Array], train: bool) -> jax.Array:
        """Maps each level [batch, height, width, channels] to float32 [batch, points, outputs]."""
        conv = partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
        norm = partial(nn.BatchNorm, not train, momentum=0.9, dtype=self.dtype)
        for _ in range(self.num_convs):
            shared = conv(self.channels, use_bias=False)
            levels = [nn.relu(norm()(shared(x))) for x in levels]
        last = conv(self.outputs, kernel_init=nn.initializers.normal(0.01))
        outputs = [last(x).reshape(x.shape[0], -1, self.outputs) for x in levels]
        return jnp.concatenate(outputs, axis=1).astype(jnp.float32)


def anchor_points(
    image_size: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the anchor points of all levels, finest level first, in row-major order.

    Args:
      image_size: height and width, in pixels.
      strides: of the levels, in pixels.

    Returns:
      x and y of each point, float32 [points, 2], and its stride, float32 [points], in pixels.
    """
    points, point_strides = [], []
    for stride in strides:
        y, x = (np.arange(0, size, stride, dtype=np.float32) + stride / 2 for size in image_size)
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        points.append(grid)
        point_strides.append(np.full(len(grid), stride, np.float32))
    return np.concatenate(points), np.concatenate(point_strides)


def _upsample(x: jax.Array) -> jax.Array:
    """Upsamples by 2, with nearest neighbours."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)
