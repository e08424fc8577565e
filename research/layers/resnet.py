"""Residual networks, as image classifiers and as backbones that return feature maps."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, Self, overload

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.layers.convolution import (
    IMAGENET,
    Padding,
    conv_and_norm,
    max_pool_3x3,
    padding_of,
)
from research.weights.conversion import Preprocessing, Rules

# Blocks of each stage, by depth.
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Backbone(Protocol):
    """A Flax module that computes feature maps, such as those that feed a feature pyramid."""

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each stage's feature map in pixels of the image, ascending."""

    def __call__(self, images: jax.Array, train: bool, stages: int) -> list[jax.Array]:
        """Returns the feature maps of the first `stages` stages, the finest first.

        Args:
          images: [batch, height, width, channels].
          train: whether batch statistics are updated and dropout is applied.
          stages: number of stages to compute; later ones have no parameters.

        Returns:
          One array [batch, height / stride, width / stride, features] for each stage.
        """

    def clone(self, **fields: Any) -> Self:
        """Returns a copy with some fields replaced, such as `dtype`."""


class ResNet(nn.Module):
    """Residual network v1.5 (He et al. 2015), with the stride in a bottleneck's 3x3 convolution.

    It is an image classifier and a `Backbone`.
    """

    depth: Literal[18, 34, 50, 101] = 18
    """Number of layers with weights: 18 and 34 (basic blocks), 50 and 101 (bottleneck blocks)."""

    stem: Literal["imagenet", "strided", "cifar"] = "imagenet"
    """First layers: "imagenet", a 7x7 convolution of stride 2 and a max-pooling; "strided", two 3x3
    convolutions of stride 2, faster on a CPU; "cifar", one 3x3 convolution for small images."""

    width: int = 64
    """Channels of the first stage; each further stage doubles them."""

    padding: Padding = "same"
    """Padding of the strided 3x3 convolutions; weights from PyTorch expect "torch"."""

    norm_group_size: int = 0
    """Number of consecutive examples that share the statistics of batch normalisation in training
    (ghost batch normalisation, Hoffer et al. 2017); 0: the whole batch. Groups within the examples
    of one device spare the communication of statistics."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @overload
    def __call__(self, images: jax.Array, train: bool) -> jax.Array: ...

    @overload
    def __call__(self, images: jax.Array, train: bool, stages: int) -> list[jax.Array]: ...

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, stages: int | None = None
    ) -> jax.Array | list[jax.Array]:
        """Returns logits float32 [batch, classes], or the feature maps of the first `stages`."""
        conv, norm = conv_and_norm(self.dtype, train, self.norm_group_size)
        conv_3x3 = partial(conv, kernel_size=(3, 3), padding=padding_of(3, self.padding))
        block = _BasicBlock if self.depth < 50 else _Bottleneck
        if self.stem == "imagenet":
            x = nn.relu(norm()(conv(self.width, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(images)))
            x = max_pool_3x3(x)
        elif self.stem == "strided":
            x = nn.relu(norm()(conv_3x3(self.width, strides=(2, 2))(images)))
            x = nn.relu(norm()(conv_3x3(self.width, strides=(2, 2))(x)))
        else:
            x = nn.relu(norm()(conv_3x3(self.width)(images)))
        feature_maps = []
        for stage, blocks in enumerate(_BLOCKS[self.depth][:stages]):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(self.width * 2**stage, stride, conv, conv_3x3, norm)(x)
            feature_maps.append(x)
        if stages is not None:
            return feature_maps
        head = nn.Dense(self.num_classes, dtype=self.dtype, name="head")
        return head(x.mean(axis=(1, 2))).astype(jnp.float32)

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each stage's feature map in pixels of the image."""
        first = 1 if self.stem == "cifar" else 4
        return tuple(first * 2**stage for stage in range(4))

    @property
    def name_table(self) -> Rules:
        """Names of the parameters in torchvision and timm, for the "imagenet" stem."""
        return NAME_TABLES[f"resnet{self.depth}"]

    @property
    def pretrained_preprocessing(self) -> Preprocessing:
        """The normalisation of pixels in [0, 1] that the published weights expect."""
        return IMAGENET


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    conv_3x3: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        y = nn.relu(self.norm()(self.conv_3x3(self.width, strides=strides)(x)))
        # The last scale starts at zero, so that each block starts as the identity (Goyal et al.
        # 2017).
        y = self.norm(scale_init=nn.initializers.zeros)(self.conv_3x3(self.width)(y))
        if x.shape != y.shape:
            x = self.norm()(self.conv(self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last with four times the channels, and a shortcut."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    conv_3x3: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv_3x3(self.width, strides=strides)(y)))
        y = self.norm(scale_init=nn.initializers.zeros)(self.conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = self.norm()(self.conv(4 * self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


def _rules(depth: int) -> Rules:
    """Names in torchvision and timm, where a block is numbered within its stage."""
    rules = [
        (r"conv1", "Conv_0", "conv"),
        (r"bn1", "BatchNorm_0", "batch_norm"),
        (r"fc", "head", "dense"),
    ]
    block, convolutions = ("_BasicBlock", 2) if depth < 50 else ("_Bottleneck", 3)
    index = 0
    for stage, blocks in enumerate(_BLOCKS[depth], 1):
        for i in range(blocks):
            theirs, ours = rf"layer{stage}\.{i}\.", f"{block}_{index}/"
            for n in range(convolutions):
                rules.append((theirs + f"conv{n + 1}", ours + f"Conv_{n}", "conv"))
                rules.append((theirs + f"bn{n + 1}", ours + f"BatchNorm_{n}", "batch_norm"))
            shortcut = rf"{theirs}downsample\."
            rules.append((shortcut + "0", ours + f"Conv_{convolutions}", "conv"))
            rules.append((shortcut + "1", ours + f"BatchNorm_{convolutions}", "batch_norm"))
            index += 1
    return tuple(rules)


NAME_TABLES: dict[str, Rules] = {f"resnet{depth}": _rules(depth) for depth in _BLOCKS}
"""PyTorch names of the parameters, by model."""
