"""A residual network for short training budgets."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.layers.convolution import conv_and_norm
from research.tasks.image_classification.models.pooling import max_pool_2x2


class FastResNet(nn.Module):
    """A residual network for 32x32 images and short budgets, after ResNet-9 and airbench94.

    Each stage pools right after its first convolution, so that most of the computation has a low
    resolution, and adds a residual convolution. The head takes the maximum over positions.
    """

    widths: tuple[int, ...] = (64, 256, 256)
    """Channels of each stage; each halves the height and width."""

    stem_width: int = 24
    """Channels of the first convolution, which is 2x2."""

    head_scale: float = 0.125
    """Factor of the logits, which limits the softmax's confidence at high learning rates."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        conv, norm = conv_and_norm(self.dtype, train)
        x = nn.relu(conv(self.stem_width, (2, 2), padding="VALID", use_bias=True)(images))
        for width in self.widths:
            x = nn.relu(norm()(max_pool_2x2(conv(width, (3, 3))(x))))
            x = x + nn.relu(norm()(conv(width, (3, 3))(x)))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x.max(axis=(1, 2)))
        return self.head_scale * logits.astype(jnp.float32)
