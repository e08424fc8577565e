"""Networks that turn features into class scores for CTC."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured
from research.common.errors import ConfigError
from research.layers.recurrent import LSTM, Carry


class LSTMEncoder(nn.Module):
    """Strided convolutions over time, a stack of residual LSTM layers, and a score for each class.

    The features are taken to be zero before their beginning and after their end, and nothing else
    is padded: what a frame is given depends neither on padding nor, with LSTMs in one direction, on
    anything beyond `look_ahead`, so that chunks of an utterance give what the whole gives.
    """

    channels: tuple[int, ...] = (256, 256)
    """Of each convolution; the bands of a frame are its input channels."""

    kernel: int = 5
    """Frames that a convolution sees at once."""

    strides: tuple[int, ...] = (2, 1)
    """By which each convolution shortens the sequence."""

    layers: int = 3
    """The number of LSTM layers."""

    features: int = 256
    """The size of the state of each direction of each layer."""

    bidirectional: bool = True
    """Read the utterance backwards too: better, but not to be had in a stream."""

    dropout: float = 0.0
    """The part of the inputs of each LSTM layer and of the last one that is dropped in training."""

    unroll: int = 1
    """Frames in one round of the LSTM's loop, for devices on which rounds are dear."""

    classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    def check(self) -> None:
        """Raises ConfigError where the numbers do not go together."""
        if len(self.channels) != len(self.strides):
            problem = f"names {len(self.strides)} convolutions, channels {len(self.channels)}"
            raise ConfigError("strides", problem)
        for key in ("kernel", "layers", "features", "unroll", *("strides",) * bool(self.strides)):
            value = getattr(self, key)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ConfigError(key, f"must be at least 1, is {value}")
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", f"must lie in [0, 1), is {self.dropout}")

    @property
    def stride(self) -> int:
        """Features that become one output frame."""
        return reduce(lambda a, b: a * b, self.strides, 1)

    @property
    def window(self) -> int:
        """Features that the convolutions of one output frame see."""
        window, stride = 1, 1
        for own in self.strides:
            window, stride = window + (self.kernel - 1) * stride, stride * own
        return window

    @property
    def look_back(self) -> int:
        """Features before the first of an output frame's own that its convolutions see."""
        return (self.window - 1) // 2

    @property
    def look_ahead(self) -> int:
        """Features after the first of an output frame's own that its convolutions see."""
        return self.window - 1 - self.look_back

    def frames(self, features: Any) -> Any:
        """The output frames of so many features; int or array of int."""
        return -(-features // self.stride)

    def __call__(self, features: jax.Array, lengths: jax.Array, train: bool) -> jax.Array:
        """Log-probabilities of a whole batch.

        Args:
          features: [batch, time, bands], zero in the padding.
          lengths: valid frames of the features, int [batch].
          train: whether to drop.

        Returns:
          Float32 [batch, frames(time), classes].
        """
        frames = self.frames(features.shape[1])
        missing = (frames - 1) * self.stride + self.window - self.look_back - features.shape[1]
        padding = (self.look_back, max(missing, 0))
        features = jnp.pad(features, ((0, 0), padding, (0, 0)))
        return self.chunk(features, self.frames(lengths), None, train)[0]

    @nn.compact
    def chunk(
        self, features: jax.Array, frames: jax.Array, carries: list[Carry] | None, train: bool
    ) -> tuple[jax.Array, list[Carry]]:
        """Log-probabilities of a piece of an utterance, and the states to go on from.

        Args:
          features: [batch, time, bands], with `look_back` features of context before the first
            frame and `look_ahead` after the last.
          frames: valid output frames, int [batch].
          carries: the states of all LSTM layers after the piece before; None at the beginning.
          train: whether to drop.
        """
        x = features.astype(self.dtype)
        for channels, stride in zip(self.channels, self.strides, strict=True):
            x = nn.Conv(channels, (self.kernel,), (stride,), "VALID", dtype=self.dtype)(x)
            x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        after = []
        for layer in range(self.layers):
            lstm = LSTM(self.features, self.bidirectional, self.unroll, dtype=self.dtype)
            y, carry = lstm(dropout(x), frames, carries[layer] if carries else None)
            y = nn.LayerNorm(dtype=self.dtype)(y)
            x = x + y if x.shape == y.shape else y
            after.append(carry)
        logits = nn.Dense(self.classes, dtype=self.dtype, name="head")(dropout(x))
        return nn.log_softmax(logits.astype(jnp.float32)), after
