"""Networks from images [batch, height, width, channels] to logits [batch, classes] float32."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.common.errors import ConfigError

_he = nn.initializers.he_normal()


class MLP(nn.Module):
    """Dense layers on the flattened image."""

    widths: tuple[int, ...] = (256, 256)
    """Units of each hidden layer."""

    dropout: float = 0.0
    """Fraction of the hidden units dropped in training."""

    classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images.reshape(images.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype, kernel_init=_he)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return _head(self.classes, self.dtype)(x).astype(jnp.float32)


class CNN(nn.Module):
    """Stages of two 3x3 convolutions and a pooling, then dense."""

    widths: tuple[int, ...] = (32, 64)
    """Channels of each stage; each halves the height and width."""

    dropout: float = 0.0
    """Fraction of the last features dropped in training."""

    classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        conv, norm = _layers(self.dtype, train)
        x = images
        for width in self.widths:
            x = nn.relu(norm()(conv(width, (3, 3))(x)))
            x = nn.relu(norm()(conv(width, (3, 3))(x)))
            x = _halve(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return _head(self.classes, self.dtype)(x).astype(jnp.float32)


class ResNet(nn.Module):
    """Residual network (He et al. 2015), v1.5: a bottleneck's stride is in its 3x3 convolution."""

    depth: Literal[18, 50] = 18
    """Layers with weights; 18 has basic blocks and 50 bottlenecks."""

    stem: Literal["imagenet", "strided", "cifar"] = "imagenet"
    """A 7x7 convolution of stride 2 and a pooling; two 3x3 convolutions of stride 2, which are
    quicker on a CPU; or for small images a plain 3x3 convolution."""

    width: int = 64
    """Channels of the first stage."""

    classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, stages: int | None = None
    ) -> jax.Array | list[jax.Array]:
        """Logits; or what each of the first `stages` gives, [batch, height, width, channels]."""
        conv, norm = _layers(self.dtype, train)
        block = _BasicBlock if self.depth == 18 else _Bottleneck
        if self.stem == "imagenet":
            x = nn.relu(norm()(conv(self.width, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(images)))
            x = _halve_overlapping(x)
        elif self.stem == "strided":
            x = nn.relu(norm()(conv(self.width, (3, 3), (2, 2))(images)))
            x = nn.relu(norm()(conv(self.width, (3, 3), (2, 2))(x)))
        else:
            x = nn.relu(norm()(conv(self.width, (3, 3))(images)))
        found = []
        for stage, blocks in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[self.depth][:stages]):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(self.width * 2**stage, stride, conv, norm)(x)
            found.append(x)
        if stages is not None:
            return found
        return _head(self.classes, self.dtype)(x.mean(axis=(1, 2))).astype(jnp.float32)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image between the places of each stage."""
        first = 1 if self.stem == "cifar" else 4
        return tuple(first * 2**stage for stage in range(4))


class FastResNet(nn.Module):
    """A residual network for 32x32 images and short budgets, after ResNet-9 and airbench94.

    Each stage pools right after its first convolution, so that most of the work is done at low
    resolution, and adds a residual convolution. The head takes the maximum over positions.
    """

    widths: tuple[int, ...] = (64, 256, 256)
    """Channels of each stage."""

    stem_width: int = 24
    """Channels of the first convolution, whose patches are 2x2."""

    head_scale: float = 0.125
    """Factor on the logits, which keeps the softmax soft at high learning rates."""

    classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        conv, norm = _layers(self.dtype, train)
        x = nn.relu(conv(self.stem_width, (2, 2), padding="VALID", use_bias=True)(images))
        for width in self.widths:
            x = nn.relu(norm()(_halve(conv(width, (3, 3))(x))))
            x = x + nn.relu(norm()(conv(width, (3, 3))(x)))
        logits = _head(self.classes, self.dtype)(x.max(axis=(1, 2)))
        return self.head_scale * logits.astype(jnp.float32)


class _BasicBlock(nn.Module):
    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        y = nn.relu(self.norm()(self.conv(self.width, (3, 3), strides)(x)))
        # A last scale of zero lets every block begin as the identity (Goyal et al. 2017).
        y = self.norm(scale_init=nn.initializers.zeros)(self.conv(self.width, (3, 3))(y))
        if x.shape != y.shape:
            x = self.norm()(self.conv(self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


class _Bottleneck(nn.Module):
    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.width, (3, 3), strides)(y)))
        y = self.norm(scale_init=nn.initializers.zeros)(self.conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = self.norm()(self.conv(4 * self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


def _layers(dtype: Any, train: bool) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Makers of convolutions and batch normalisations, whose statistics are float32 in any case."""
    conv = partial(nn.Conv, use_bias=False, dtype=dtype, kernel_init=_he)
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=dtype)
    return conv, norm


def _halve(x: jax.Array) -> jax.Array:
    """2x2 max-pooling, an odd last row or column left out.

    The gradient of this form is elementwise; that of `nn.max_pool` took as long on a CPU as a
    convolution.
    """
    batch, height, width, channels = x.shape
    if min(height, width) < 2:
        raise ConfigError("task.model.widths", "has more stages than the images can be halved")
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def _halve_overlapping(x: jax.Array) -> jax.Array:
    """3x3 max-pooling of stride 2, one pixel of padding before and after; see `_halve`."""
    for axis in (1, 2):
        size, pad = x.shape[axis], [(0, 0)] * 4
        pad[axis] = (1, 1)
        x = jnp.pad(x, pad, constant_values=-jnp.inf)
        ends = [jax.lax.slice_in_dim(x, i, i + size, stride=2, axis=axis) for i in range(3)]
        x = jnp.maximum(jnp.maximum(ends[0], ends[1]), ends[2])
    return x


def _head(classes: int, dtype: Any) -> nn.Module:
    return nn.Dense(classes, dtype=dtype, name="head")
