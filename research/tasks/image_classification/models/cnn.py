"""A small convolutional network."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.layers.convolution import conv_and_norm
from research.tasks.image_classification.models.pooling import max_pool_2x2


class CNN(nn.Module):
    """Stages of two 3x3 convolutions and a 2x2 max-pooling, and a dense layer."""

    widths: tuple[int, ...] = (32, 64)
    """Channels of each stage; each halves the height and width."""

    dropout: float = 0.0
    """Fraction of the last features dropped in training."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        conv, norm = conv_and_norm(self.dtype, train)
        x = images
        for width in self.widths:
            x = nn.relu(norm()(conv(width, (3, 3))(x)))
            x = nn.relu(norm()(conv(width, (3, 3))(x)))
            x = max_pool_2x2(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head = nn.Dense(self.num_classes, dtype=self.dtype, name="head")
        return head(x).astype(jnp.float32)
