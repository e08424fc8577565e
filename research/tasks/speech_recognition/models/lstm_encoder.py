"""Convolutional LSTM encoder for CTC."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured, renamed_from
from research.common.errors import ConfigError
from research.layers.ranges import check_ranges
from research.layers.recurrent import LSTM, Carry


class LSTMEncoder(nn.Module):
    """Strided convolutions over time, residual LSTM layers, and a linear output layer.

    Convolutions pad the utterance with zeros at its start and end, and nowhere else. The
    output at a frame therefore does not depend on batch padding, and with unidirectional LSTMs it
    depends on the future only through `look_ahead`: consecutive chunks of an utterance give the
    outputs of the whole.
    """

    channels: tuple[int, ...] = (256, 256)
    """Output channels of each convolution; the input channels are the features of a frame."""

    kernel_size: int = renamed_from("kernel", default=5)
    """Kernel size of each convolution in frames."""

    strides: tuple[int, ...] = (2, 1)
    """Stride of each convolution in frames."""

    num_layers: int = renamed_from("layers", default=3)
    """Number of LSTM layers."""

    features: int = 256
    """Size of the hidden state of each LSTM layer and direction."""

    bidirectional: bool = True
    """Use bidirectional LSTMs, which are more accurate but cannot process a stream."""

    dropout: float = 0.0
    """Dropout rate of the inputs of each LSTM layer and of the output layer."""

    unroll: int = 1
    """Number of frames per iteration of the LSTM's loop, for devices with slow loops."""

    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    def check(self) -> None:
        """Checks the fields.

        Raises:
          ConfigError: a value is invalid, or the numbers of channels and strides differ.
        """
        if len(self.channels) != len(self.strides):
            expected = f"expected {len(self.channels)}, one per convolution"
            raise ConfigError("strides", f"invalid strides {self.strides}: {expected}")
        check_ranges(self)

    @property
    def stride(self) -> int:
        """Number of feature frames per output frame."""
        return reduce(lambda a, b: a * b, self.strides, 1)

    @property
    def window(self) -> int:
        """Receptive field of the convolutions in feature frames."""
        window, stride = 1, 1
        for own in self.strides:
            window, stride = window + (self.kernel_size - 1) * stride, stride * own
        return window

    @property
    def look_back(self) -> int:
        """Number of feature frames of the receptive field before an output frame's first one."""
        return (self.window - 1) // 2

    @property
    def look_ahead(self) -> int:
        """Number of feature frames of the receptive field after an output frame's first one."""
        return self.window - 1 - self.look_back

    def num_frames(self, features: Any) -> Any:
        """Returns the number of output frames.

        Args:
          features: number of feature frames, int or array of int.
        """
        return -(-features // self.stride)

    def __call__(self, features: jax.Array, lengths: jax.Array, train: bool) -> jax.Array:
        """Computes the class log-probabilities of each frame.

        Args:
          features: [batch, time, size], zero in the padding.
          lengths: number of valid feature frames, int [batch].
          train: whether to apply dropout.

        Returns:
          float32 [batch, num_frames(time), classes].
        """
        frames = self.num_frames(features.shape[1])
        missing = (frames - 1) * self.stride + self.window - self.look_back - features.shape[1]
        padding = (self.look_back, max(missing, 0))
        features = jnp.pad(features, ((0, 0), padding, (0, 0)))
        return self.chunk(features, self.num_frames(lengths), None, train)[0]

    @nn.compact
    def chunk(
        self, features: jax.Array, frames: jax.Array, carries: list[Carry] | None, train: bool
    ) -> tuple[jax.Array, list[Carry]]:
        """Computes the class log-probabilities of consecutive frames of an utterance.

        Args:
          features: [batch, time, size], including `look_back` frames before the first output
            frame's own and `look_ahead` after the last one's.
          frames: number of valid output frames, int [batch].
          carries: states of all LSTM layers after the previous chunk; None at the start.
          train: whether to apply dropout.

        Returns:
          float32 [batch, output frames, classes], and the states after this chunk.
        """
        x = features.astype(self.dtype)
        for channels, stride in zip(self.channels, self.strides, strict=True):
            x = nn.Conv(channels, (self.kernel_size,), (stride,), "VALID", dtype=self.dtype)(x)
            x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        new_carries = []
        for layer in range(self.num_layers):
            lstm = LSTM(self.features, self.bidirectional, self.unroll, dtype=self.dtype)
            y, carry = lstm(dropout(x), frames, carries[layer] if carries else None)
            y = nn.LayerNorm(dtype=self.dtype)(y)
            x = x + y if x.shape == y.shape else y
            new_carries.append(carry)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(dropout(x))
        return nn.log_softmax(logits.astype(jnp.float32)), new_carries
