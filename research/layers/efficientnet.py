"""EfficientNet-Lite (Tan and Le 2019; Liu 2020), as image classifiers and as backbones."""

import math
from functools import partial
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.layers.convolution import conv_and_norm
from research.layers.inverted_residual import ConvNorm, InvertedResidual
from research.weights.conversion import Preprocessing, Rules

# Factors of width and depth, and the published image size, of Lite0 to Lite4.
_VARIANTS = ((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300))

# Blocks, kernel size, stride, expansion factor and channels of each stage of Lite0.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _TOP = 32, 1280  # channels, the same in all variants


class EfficientNetLite(nn.Module):
    """EfficientNet without squeeze-and-excitation, with ReLU6, and of a fixed stem and head.

    It is an image classifier and a `Backbone`. The published weights expect RGB images of
    `image_size`, with a mean of 127 / 255 and a standard deviation of 128 / 255.
    """

    variant: Literal[0, 1, 2, 3, 4] = 0
    """The number in the name, Lite0 to Lite4: width and depth grow with it."""

    dropout: float = 0.2
    """Fraction of the last features dropped in training."""

    stochastic_depth: float = 0.0
    """Probability of skipping the last residual block in training, less for earlier ones in
    proportion to their depth (Huang et al. 2016); 0.2 in training from scratch as published."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @property
    def image_size(self) -> int:
        """Height and width of the images that the published weights were trained on."""
        return _VARIANTS[self.variant][2]

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each feature map in pixels of the image."""
        return (4, 8, 16, 32)

    @property
    def name_table(self) -> Rules:
        """Names of the parameters in `efficientnet_lite_pytorch` and in timm."""
        return NAME_TABLES[f"efficientnet_lite{self.variant}"]

    @property
    def pretrained_preprocessing(self) -> Preprocessing:
        """The normalisation of pixels in [0, 1] that the published weights expect."""
        return {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}

    @overload
    def __call__(self, images: jax.Array, train: bool) -> jax.Array: ...

    @overload
    def __call__(self, images: jax.Array, train: bool, stages: int) -> list[jax.Array]: ...

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, stages: int | None = None
    ) -> jax.Array | list[jax.Array]:
        """Returns logits float32 [batch, classes], or the feature maps of the first `stages`."""
        conv, norm = conv_and_norm(self.dtype, train)
        norm = partial(norm, momentum=0.99, epsilon=1e-3)
        layers: dict[str, Any] = {"padding": "same", "conv": conv, "norm": norm}
        layers["activation"] = nn.relu6
        x = ConvNorm(_STEM, 3, 2, **layers, name="stem")(images)
        feature_maps: list[jax.Array] = []
        stride, index = 2, 0
        counts = _num_blocks(self.variant)
        for stage, (_, kernel_size, stage_stride, expansion, features) in enumerate(_STAGES):
            stride *= stage_stride
            if stages is not None and stride > self.strides[stages - 1]:
                break
            for block in range(counts[stage]):
                x = InvertedResidual(
                    _scaled_width(features, self.variant),
                    expansion * x.shape[-1],
                    kernel_size,
                    stage_stride if block == 0 else 1,
                    **layers,
                    drop_rate=self.stochastic_depth * index / sum(counts),
                    name=f"block_{index}",
                )(x, train)
                index += 1
            if stride in self.strides:
                feature_maps[self.strides.index(stride) :] = [x]
        if stages is not None:
            return feature_maps
        x = ConvNorm(_TOP, 1, 1, **layers, name="top")(x).mean(axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def _scaled_width(features: int, variant: int) -> int:
    """Returns the channels of a stage: a multiple of 8, at most 10 % below the exact product."""
    exact = features * _VARIANTS[variant][0]
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def _num_blocks(variant: int) -> list[int]:
    """Returns the number of blocks of each stage; the first and the last are not scaled."""
    last = len(_STAGES) - 1
    return [
        blocks if stage in (0, last) else math.ceil(blocks * _VARIANTS[variant][1])
        for stage, (blocks, *_) in enumerate(_STAGES)
    ]


def _rules(variant: int) -> Rules:
    """Names in the package `efficientnet_lite_pytorch`, and in timm (`tf_efficientnet_lite0`)."""
    rules = [
        (r"_conv_stem|conv_stem", "stem/conv", "conv"),
        (r"_bn0|bn1", "stem/norm", "batch_norm"),
        (r"_conv_head|conv_head", "top/conv", "conv"),
        (r"_bn1|bn2", "top/norm", "batch_norm"),
        (r"_fc|classifier", "head", "dense"),
    ]
    parts = ("expand", "depthwise", "project")
    rules += [
        (rf"_blocks\.(\d+)\._{part}_conv", rf"block_\1/{part}/conv", "conv") for part in parts
    ]
    rules += [
        (rf"_blocks\.(\d+)\._bn{i}", rf"block_\1/{part}/norm", "batch_norm")
        for i, part in enumerate(parts)
    ]
    # timm counts the blocks within a stage, and a block's convolutions from its first one.
    index = 0
    for stage, blocks in enumerate(_num_blocks(variant)):
        convs = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
        for block in range(blocks):
            for i, (conv, part) in enumerate(zip(convs, parts[-len(convs) :], strict=True), 1):
                theirs, ours = rf"blocks\.{stage}\.{block}\.", f"block_{index}/{part}/"
                rules.append((theirs + conv, ours + "conv", "conv"))
                rules.append((theirs + f"bn{i}", ours + "norm", "batch_norm"))
            index += 1
    return tuple(rules)


NAME_TABLES: dict[str, Rules] = {
    f"efficientnet_lite{variant}": _rules(variant) for variant in range(len(_VARIANTS))
}
"""PyTorch names of the parameters, by model."""
