"""Pooling of the small convolutional networks."""

import jax
from flax import linen as nn

from research.common.errors import ConfigError
from research.hardware.target import target


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Returns the 2x2 max-pooling of stride 2, without an odd last row or column.

    Args:
      x: [batch, height, width, channels].

    Raises:
      ConfigError: the height or the width is below 2.
    """
    batch, height, width, channels = x.shape
    if min(height, width) < 2:
        problem = "too many stages: each halves the images; use fewer widths or larger images"
        raise ConfigError("task.model.widths", problem)
    if target().platform != "cpu":
        return nn.max_pool(x, (2, 2), (2, 2))
    # The gradient of this form is elementwise; on a CPU that of `nn.max_pool` took as long as a
    # convolution. On a TPU v5e this form and the convolutions around it take a fifth more time,
    # predicted.
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
