"""Inverted residual blocks, of which MobileNets and EfficientNets consist."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.layers.convolution import Padding, depthwise_conv, padding_of

Activation = Callable[[jax.Array], jax.Array]


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation and an activation."""

    features: int
    kernel_size: int
    stride: int
    padding: Padding
    activation: Activation | None
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        options: dict[str, Any] = {}
        if self.depthwise:
            options = {
                "feature_group_count": self.features,
                "conv_general_dilated": depthwise_conv,
            }
        x = self.conv(
            self.features,
            (self.kernel_size,) * 2,
            (self.stride,) * 2,
            padding=padding_of(self.kernel_size, self.padding),
            name="conv",
            **options,
        )(x)
        x = self.norm(name="norm")(x)
        return self.activation(x) if self.activation else x


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depthwise convolution, a 1x1 projection and a shortcut.

    MobileNetV2 (Sandler et al. 2018), with squeeze-and-excitation as in MobileNetV3.
    """

    features: int
    """Channels of the output."""

    expanded: int
    """Channels of the depthwise convolution; without expansion where it is the input's number."""

    kernel_size: int
    stride: int
    padding: Padding
    activation: Activation
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    squeezed: int = 0
    """Hidden channels of squeeze-and-excitation; 0 omits it."""

    drop_rate: float = 0.0
    """Probability of skipping the block for an example in training (stochastic depth)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv_norm(
            name: str, features: int, kernel_size: int = 1, stride: int = 1, **options: Any
        ) -> ConvNorm:
            options = {"activation": self.activation} | options
            return ConvNorm(
                features,
                kernel_size,
                stride,
                self.padding,
                conv=self.conv,
                norm=self.norm,
                name=name,
                **options,
            )

        y = x
        if self.expanded != x.shape[-1]:
            y = conv_norm("expand", self.expanded)(y)
        y = conv_norm("depthwise", self.expanded, self.kernel_size, self.stride, depthwise=True)(y)
        if self.squeezed:
            y = SqueezeExcitation(self.squeezed, self.conv, name="squeeze_excitation")(y)
        y = conv_norm("project", self.features, activation=None)(y)
        if x.shape != y.shape:
            return y
        skip = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), deterministic=not train)
        return x + skip(y)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a function of all channels' means (Hu et al. 2018)."""

    squeezed: int
    """Hidden channels."""

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = jnp.mean(x, axis=(1, 2), keepdims=True)
        scale = nn.relu(self.conv(self.squeezed, (1, 1), use_bias=True, name="squeeze")(scale))
        scale = self.conv(x.shape[-1], (1, 1), use_bias=True, name="excite")(scale)
        return x * nn.hard_sigmoid(scale)
