"""Vision Transformer (Dosovitskiy et al. 2021), as an image classifier."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.common.errors import ConfigError
from research.layers.transformer import TransformerLayer
from research.weights.conversion import Preprocessing, Rules


class ViT(nn.Module):
    """Pre-norm Transformer over image patches and a class token; the default is ViT-S/16.

    Positions are learned, one for each patch, so that parameters fit one image size. timm's weights
    of `vit_small_patch16_224` expect RGB images of 224x224 with a mean and a standard deviation of
    0.5.
    """

    patch_size: int = 16
    """Height and width of a patch in pixels; it divides those of the images."""

    features: int = 384
    """Size of a token."""

    num_layers: int = 12
    """Number of Transformer layers."""

    num_heads: int = 6
    """Number of attention heads; it divides `features`."""

    feedforward_dim: int = 1536
    """Hidden size of the feed-forward networks."""

    dropout: float = 0.0
    """Dropout rate of embeddings, attention weights, hidden units and each layer's outputs."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @property
    def name_table(self) -> Rules:
        """Names of the parameters in timm."""
        return _rules(self.num_heads)

    @property
    def pretrained_preprocessing(self) -> Preprocessing:
        """The normalisation of pixels in [0, 1] that the published weights expect."""
        return {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits float32 [batch, classes].

        Raises:
          ConfigError: the patches do not tile the images.
        """
        height, width = images.shape[1:3]
        if height % self.patch_size or width % self.patch_size:
            problem = f"invalid value {self.patch_size}: expected a divisor of the image size"
            raise ConfigError("task.model.patch_size", f"{problem}, {height}x{width}")
        patch = (self.patch_size, self.patch_size)
        embedding = nn.Conv(
            self.features, patch, patch, "VALID", dtype=self.dtype, name="patch_embedding"
        )
        x = embedding(images).reshape(images.shape[0], -1, self.features)
        normal = nn.initializers.normal(0.02)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.features))
        positions = self.param("positions", normal, (1, 1 + x.shape[1], self.features))
        token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.features))
        x = jnp.concatenate([token, x], axis=1) + positions.astype(self.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        everywhere = jnp.ones((1, 1, 1), bool)
        for i in range(self.num_layers):
            layer = TransformerLayer(
                self.features,
                self.num_heads,
                self.feedforward_dim,
                self.dropout,
                cross_attention=False,
                dtype=self.dtype,
                activation=partial(nn.gelu, approximate=False),
                name=f"layer_{i}",
            )
            x, _ = layer(x, layer.self_keys_values(x), everywhere, train=train)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x[:, 0])
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def _rules(num_heads: int) -> Rules:
    """Names in timm."""
    layer = r"blocks\.(\d+)\."
    return (
        (r"cls_token", "class_token", "tensor"),
        (r"pos_embed", "positions", "tensor"),
        (r"patch_embed\.proj", "patch_embedding", "conv"),
        (layer + "norm1", r"layer_\1/own_norm", "layer_norm"),
        (layer + r"attn\.qkv", r"layer_\1/own", f"qkv:{num_heads}"),
        (layer + r"attn\.proj", r"layer_\1/own/out", f"out:{num_heads}"),
        (layer + "norm2", r"layer_\1/feedforward_norm", "layer_norm"),
        (layer + r"mlp\.fc1", r"layer_\1/up", "dense"),
        (layer + r"mlp\.fc2", r"layer_\1/down", "dense"),
        (r"norm", "norm", "layer_norm"),
        (r"head", "head", "dense"),
    )


NAME_TABLES: dict[str, Rules] = {"vit_small_patch16_224": _rules(num_heads=6)}
"""PyTorch names of the parameters, by model."""
