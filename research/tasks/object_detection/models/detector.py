"""A detector: a backbone, a feature pyramid over it, and one head for all levels.

It is anchor-free and of a single stage, as FCOS (Tian et al. 2019): each place of each level tells
how much it looks like an object of each class, and how far the four sides of its box are. So there
is nothing to be set for a data set but the levels, and nothing to be matched but places and boxes.
"""

import math
from dataclasses import field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from research.common.config import not_configured
from research.layers.resnet import ResNet

_PRIOR = 0.01  # what each place says of each class at first; most see nothing (Lin et al. 2017)
_FARTHEST = 8.0  # e^8 strides are beyond any image, and still a number


class Detector(nn.Module):
    """Classes and boxes at every place of a feature pyramid."""

    backbone: ResNet = field(default_factory=ResNet)
    """The classifier whose stages are looked at."""

    strides: tuple[int, ...] = (8, 16, 32)
    """Pixels between the places of each level: those of some stages, one after another."""

    width: int = 128
    """Channels of the pyramid and of the head."""

    head_depth: int = 2
    """3x3 convolutions of the head, for the classes and for the boxes each."""

    classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """What stands at all places, those of the finest level first, row by row.

        Args:
          images: [batch, height, width, 3].
          train: whether running averages are updated.

        Returns:
          Logits float32 [batch, places, classes], and boxes float32 [batch, places, 4] in pixels.
        """
        given = self.backbone.strides
        stages = self.backbone(images, train, stages=given.index(self.strides[-1]) + 1)
        levels = [x for x, stride in zip(stages, given, strict=False) if stride in self.strides]
        levels = self._pyramid(levels, train)
        classify = _Head(self.width, self.head_depth, self.classes, self.dtype, name="classify")
        locate = _Head(self.width, self.head_depth, 4, self.dtype, name="locate")
        centres, strides = anchor_points(images.shape[1:3], self.strides)
        sides = jnp.minimum(locate(levels, train), _FARTHEST)
        distances = jnp.exp(sides) * strides[:, None]
        low, high = centres - distances[..., :2], centres + distances[..., 2:]
        logits = classify(levels, train) + math.log(_PRIOR / (1 - _PRIOR))
        return logits, jnp.concatenate([low, high], axis=-1)

    def _pyramid(self, levels: list[jax.Array], train: bool) -> list[jax.Array]:
        """What coarse levels know is added to the fine ones (Lin et al. 2016)."""
        conv = partial(nn.Conv, self.width, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, not train, momentum=0.9, dtype=self.dtype)
        merged = [norm()(conv((1, 1))(x)) for x in levels]
        for fine in reversed(range(len(merged) - 1)):
            merged[fine] += _doubled(merged[fine + 1])
        return [nn.relu(norm()(conv((3, 3))(nn.relu(x)))) for x in merged]


class _Head(nn.Module):
    """Convolutions that all levels share, with a normalisation of each level's own."""

    width: int
    depth: int
    outputs: int
    dtype: Any

    @nn.compact
    def __call__(self, levels: list[jax.Array], train: bool) -> jax.Array:
        """[batch, height, width, channels] of each level to float32 [batch, places, outputs]."""
        conv = partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
        norm = partial(nn.BatchNorm, not train, momentum=0.9, dtype=self.dtype)
        for _ in range(self.depth):
            shared = conv(self.width, use_bias=False)
            levels = [nn.relu(norm()(shared(x))) for x in levels]
        last = conv(self.outputs, kernel_init=nn.initializers.normal(0.01))
        outputs = [last(x).reshape(x.shape[0], -1, self.outputs) for x in levels]
        return jnp.concatenate(outputs, axis=1).astype(jnp.float32)


def anchor_points(
    image_size: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The centres [places, 2] in x and y, and the strides [places], in pixels, float32."""
    centres, steps = [], []
    for stride in strides:
        y, x = (np.arange(0, size, stride, dtype=np.float32) + stride / 2 for size in image_size)
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        centres.append(grid)
        steps.append(np.full(len(grid), stride, np.float32))
    return np.concatenate(centres), np.concatenate(steps)


def _doubled(x: jax.Array) -> jax.Array:
    """Each pixel four times."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)
