"""A multilayer perceptron."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured


class MLP(nn.Module):
    """Dense layers on the flattened image."""

    widths: tuple[int, ...] = (256, 256)
    """Units of each hidden layer."""

    dropout: float = 0.0
    """Fraction of the hidden units dropped in training."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        he_normal = nn.initializers.he_normal()
        x = images.reshape(images.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype, kernel_init=he_normal)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head = nn.Dense(self.num_classes, dtype=self.dtype, name="head")
        return head(x).astype(jnp.float32)
