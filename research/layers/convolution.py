"""Building blocks that the convolutional networks share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def conv_and_norm(
    dtype: Any, train: bool
) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Returns constructors of convolutions without bias and of batch normalisation.

    Args:
      dtype: of the computation; parameters and batch statistics are float32.
      train: whether batch normalisation uses and updates the statistics of the batch.
    """
    he_normal = nn.initializers.he_normal()
    conv = partial(nn.Conv, use_bias=False, dtype=dtype, kernel_init=he_normal)
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=dtype)
    return conv, norm


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """Returns the 3x3 max-pooling of stride 2, with one pixel of padding on each side.

    The result is that of `nn.max_pool`. The gradient of this form is elementwise; on a CPU that of
    `nn.max_pool` took as long as a convolution.

    Args:
      x: [batch, height, width, channels].
    """
    for axis in (1, 2):
        size, pad = x.shape[axis], [(0, 0)] * 4
        pad[axis] = (1, 1)
        x = jnp.pad(x, pad, constant_values=-jnp.inf)
        taps = [jax.lax.slice_in_dim(x, i, i + size, stride=2, axis=axis) for i in range(3)]
        x = jnp.maximum(jnp.maximum(taps[0], taps[1]), taps[2])
    return x
