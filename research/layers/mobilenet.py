"""MobileNetV3 (Howard et al. 2019), as image classifiers and as backbones."""

from functools import partial
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.layers.convolution import IMAGENET, conv_and_norm
from research.layers.inverted_residual import ConvNorm, InvertedResidual
from research.weights.conversion import Preprocessing, Rules


class _Block(NamedTuple):
    """A row of the paper's tables 1 and 2."""

    kernel_size: int
    expanded: int  # channels of the depthwise convolution
    features: int  # channels of the output
    squeeze: bool  # squeeze-and-excitation
    hard_swish: bool  # the activation, else ReLU
    stride: int


_BLOCKS = {
    "small": (
        _Block(3, 16, 16, True, False, 2),
        _Block(3, 72, 24, False, False, 2),
        _Block(3, 88, 24, False, False, 1),
        _Block(5, 96, 40, True, True, 2),
        _Block(5, 240, 40, True, True, 1),
        _Block(5, 240, 40, True, True, 1),
        _Block(5, 120, 48, True, True, 1),
        _Block(5, 144, 48, True, True, 1),
        _Block(5, 288, 96, True, True, 2),
        _Block(5, 576, 96, True, True, 1),
        _Block(5, 576, 96, True, True, 1),
    ),
    "large": (
        _Block(3, 16, 16, False, False, 1),
        _Block(3, 64, 24, False, False, 2),
        _Block(3, 72, 24, False, False, 1),
        _Block(5, 72, 40, True, False, 2),
        _Block(5, 120, 40, True, False, 1),
        _Block(5, 120, 40, True, False, 1),
        _Block(3, 240, 80, False, True, 2),
        _Block(3, 200, 80, False, True, 1),
        _Block(3, 184, 80, False, True, 1),
        _Block(3, 184, 80, False, True, 1),
        _Block(3, 480, 112, True, True, 1),
        _Block(3, 672, 112, True, True, 1),
        _Block(5, 672, 160, True, True, 2),
        _Block(5, 960, 160, True, True, 1),
        _Block(5, 960, 160, True, True, 1),
    ),
}
_STEM = 16  # channels
_HIDDEN = {"small": 1024, "large": 1280}  # units before the logits


class MobileNetV3(nn.Module):
    """Inverted residuals with squeeze-and-excitation and hard swish, as in torchvision.

    It is an image classifier and a `Backbone`. torchvision's weights expect RGB images of 224x224,
    with ImageNet's mean (0.485, 0.456, 0.406) and standard deviation (0.229, 0.224, 0.225).
    """

    size: Literal["small", "large"] = "small"
    """The network of the paper's table 2 or of its table 1."""

    dropout: float = 0.2
    """Fraction of the last features dropped in training."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each feature map in pixels of the image."""
        return (4, 8, 16, 32)

    @property
    def name_table(self) -> Rules:
        """Names of the parameters in torchvision."""
        return NAME_TABLES[f"mobilenet_v3_{self.size}"]

    @property
    def pretrained_preprocessing(self) -> Preprocessing:
        """The normalisation of pixels in [0, 1] that the published weights expect."""
        return IMAGENET

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
        layers: dict[str, Any] = {"padding": "torch", "conv": conv, "norm": norm}
        x = ConvNorm(_STEM, 3, 2, **layers, activation=nn.hard_swish, name="stem")(images)
        feature_maps: list[jax.Array] = []
        stride = 2
        for index, block in enumerate(_BLOCKS[self.size]):
            stride *= block.stride
            if stages is not None and stride > self.strides[stages - 1]:
                break
            x = InvertedResidual(
                block.features,
                block.expanded,
                block.kernel_size,
                block.stride,
                **layers,
                activation=nn.hard_swish if block.hard_swish else nn.relu,
                squeezed=_divisible_by_8(block.expanded // 4) if block.squeeze else 0,
                name=f"block_{index}",
            )(x, train)
            if stride in self.strides:
                feature_maps[self.strides.index(stride) :] = [x]
        if stages is not None:
            return feature_maps
        top = ConvNorm(6 * x.shape[-1], 1, 1, **layers, activation=nn.hard_swish, name="top")
        x = top(x).mean(axis=(1, 2))
        x = nn.hard_swish(nn.Dense(_HIDDEN[self.size], dtype=self.dtype, name="hidden")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def _divisible_by_8(channels: int) -> int:
    """Returns the nearest multiple of 8, at most 10 % below."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _rules(size: str) -> Rules:
    """Names in torchvision, which counts the layers of a block that exist."""
    blocks = _BLOCKS[size]
    rules = [
        (r"features\.0\.0", "stem/conv", "conv"),
        (r"features\.0\.1", "stem/norm", "batch_norm"),
        (rf"features\.{len(blocks) + 1}\.0", "top/conv", "conv"),
        (rf"features\.{len(blocks) + 1}\.1", "top/norm", "batch_norm"),
        (r"classifier\.0", "hidden", "dense"),
        (r"classifier\.3", "head", "dense"),
    ]
    inputs = _STEM
    for index, block in enumerate(blocks):
        parts = ["expand"] * (block.expanded != inputs) + ["depthwise"]
        parts += ["squeeze_excitation"] * block.squeeze + ["project"]
        for i, part in enumerate(parts):
            theirs, ours = rf"features\.{index + 1}\.block\.{i}\.", f"block_{index}/{part}/"
            if part == "squeeze_excitation":
                rules.append((theirs + "fc1", ours + "squeeze", "conv"))
                rules.append((theirs + "fc2", ours + "excite", "conv"))
            else:
                rules.append((theirs + "0", ours + "conv", "conv"))
                rules.append((theirs + "1", ours + "norm", "batch_norm"))
        inputs = block.features
    return tuple(rules)


NAME_TABLES: dict[str, Rules] = {f"mobilenet_v3_{size}": _rules(size) for size in _BLOCKS}
"""PyTorch names of the parameters, by model."""
