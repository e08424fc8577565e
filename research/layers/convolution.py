"""Building blocks that the convolutional networks share."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from research.hardware.target import target
from research.layers import ghost_batch_norm
from research.weights.conversion import Preprocessing

Padding = Literal["same", "torch"]
"""Zeros around the input of a strided convolution: "same" as in TensorFlow, on an even size more
after it than before it; "torch" as in PyTorch models, equally many on both sides."""

IMAGENET: Preprocessing = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Mean and standard deviation of ImageNet's pixels in [0, 1], as torchvision's weights expect."""


def conv_and_norm(
    dtype: Any, train: bool, norm_group_size: int = 0
) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Returns constructors of convolutions without bias and of batch normalisation.

    Args:
      dtype: of the computation; parameters and batch statistics are float32.
      train: whether batch normalisation uses and updates the statistics of the batch.
      norm_group_size: number of consecutive examples that share statistics; 0: the whole batch.
    """
    he_normal = nn.initializers.he_normal()
    conv = partial(nn.Conv, use_bias=False, dtype=dtype, kernel_init=he_normal)
    norm: Any = nn.BatchNorm
    if norm_group_size:
        norm = partial(ghost_batch_norm.BatchNorm, group_size=norm_group_size)
    return conv, partial(norm, use_running_average=not train, momentum=0.9, dtype=dtype)


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """Returns the 3x3 max-pooling of stride 2, with one pixel of padding on each side.

    Args:
      x: [batch, height, width, channels].
    """
    if target().platform == "cpu":
        return _max_pool_on_cpu(x)
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def _max_pool_on_cpu(x: jax.Array) -> jax.Array:
    """The pooling of `max_pool_3x3`, in a form whose gradient is elementwise.

    On a CPU the gradient of `nn.max_pool` took as long as a convolution; on a TPU v5e this form
    costs 8 % of ResNet-50's step, predicted.
    """
    for axis in (1, 2):
        size, pad = x.shape[axis], [(0, 0)] * 4
        pad[axis] = (1, 1)
        x = jnp.pad(x, pad, constant_values=-jnp.inf)
        taps = [jax.lax.slice_in_dim(x, i, i + size, stride=2, axis=axis) for i in range(3)]
        x = jnp.maximum(jnp.maximum(taps[0], taps[1]), taps[2])
    return x


def padding_of(kernel_size: int, padding: Padding) -> str | list[tuple[int, int]]:
    """Returns the `padding` of `nn.Conv` for a square kernel of an odd size."""
    return "SAME" if padding == "same" else [(kernel_size // 2, kernel_size // 2)] * 2


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Depthwise convolution, as the `conv_general_dilated` of `nn.Conv`.

    On a CPU it is a sum over the kernel's taps, which XLA fuses into one loop: EfficientNet-Lite0
    takes a fifth of the time, and less with gradients (float32, 8 images of 224x224). On
    accelerators the sum could read the input once for each tap, so there it is XLA's convolution.

    Args:
      x: [batch, height, width, channels].
      kernel: [height, width, 1, channels].
      strides: vertical and horizontal.
      padding: "SAME" or the zeros before and after each spatial axis.
      **options: further arguments of `jax.lax.conv_general_dilated`; dilation is not supported.
    """
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    pads = [(0, 0), *padding, (0, 0)]

    def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, pads[1:3], **options)

    def by_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padded = jnp.pad(x, pads).astype(jnp.float32)
        taps = kernel[:, :, 0].astype(jnp.float32)
        return _depthwise_conv_on_cpu(padded, taps, tuple(strides)).astype(x.dtype)

    platform = target().platform
    if platform == "any":
        return jax.lax.platform_dependent(x, kernel, cpu=by_taps, default=by_xla)
    return by_taps(x, kernel) if platform == "cpu" else by_xla(x, kernel)


def _sum_of_taps(x: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """Depthwise convolution without padding.

    Args:
      x: [batch, height, width, channels].
      kernel: [height, width, channels].
      strides: vertical and horizontal.
    """
    total = jnp.zeros((), x.dtype)
    for (row, column), tap in _taps(x, kernel.shape[:2], strides):
        total = total + tap * kernel[row, column]
    return total


def _taps(
    x: jax.Array, window: tuple[int, ...], strides: tuple[int, int]
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """Yields each position in the window, and the inputs that the kernel's element there meets."""
    for row, column in np.ndindex(*window):
        last = (x.shape[1] - window[0] + row, x.shape[2] - window[1] + column)
        tap = x[:, row : last[0] + 1 : strides[0], column : last[1] + 1 : strides[1]]
        yield (row, column), tap


def _kernel_gradient(
    x: jax.Array, gradient: jax.Array, window: tuple[int, ...], strides: tuple[int, int]
) -> jax.Array:
    """The gradient [height, width, channels] of the kernel of `_sum_of_taps`.

    A loop over the rows of the output adds up elementwise products. On a CPU, XLA's reductions over
    examples, rows and columns, one for each tap, take 4 to 11 times as long.
    """
    batch, height, width, channels = gradient.shape

    def add_row(row: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        inputs = jax.lax.dynamic_slice_in_dim(x, row * strides[0], window[0], axis=1)
        outputs = jax.lax.dynamic_slice_in_dim(gradient, row, 1, axis=1)
        taps = _taps(inputs, window, (1, strides[1]))
        return [total + tap * outputs for total, (_, tap) in zip(sums, taps, strict=True)]

    zeros = [jnp.zeros((batch, 1, width, channels), x.dtype)] * math.prod(window)
    sums = jax.lax.fori_loop(0, height, add_row, zeros)
    return jnp.stack([total.sum((0, 1, 2)) for total in sums]).reshape(*window, channels)


def _forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum_of_taps(x, kernel, strides), (x, kernel)


def _backward(
    strides: tuple[int, int], inputs: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    transpose = jax.linear_transpose(lambda x: _sum_of_taps(x, kernel, strides), x)
    (x_gradient,) = transpose(gradient)
    return x_gradient, _kernel_gradient(x, gradient, kernel.shape[:2], strides)


_depthwise_conv_on_cpu = jax.custom_vjp(_sum_of_taps, nondiff_argnums=(2,))
_depthwise_conv_on_cpu.defvjp(_forward, _backward)
