"""Acoustic features: log-mel filter banks of the audio, or features precomputed in files.

Features are computed on the device, under `jit`. Frames after the end of an utterance are zero and
do not change the others.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from research.common.config import renamed_from
from research.common.errors import ConfigError

# Smallest power in a mel band for audio in [-1, 1]: 5 dB below the quantisation noise of 16-bit
# samples, so that digital silence resembles recorded silence and no recording is clipped.
_FLOOR = 1e-10
# Mean and standard deviation over all bands and frames of the Free Spoken Digit Dataset; those of
# other corpora are similar.
_MEAN, _STD = -10.5, 4.2


@dataclass(frozen=True)
class LogMel:
    """Logarithm of the power in mel-spaced frequency bands.

    Each frame is computed from one Hann window of the audio. Windows start at multiples of the hop
    and the audio is not padded at its start, so that a stream and the whole recording give the same
    frames.
    """

    sample_rate: int = 16000
    """Sample rate of the audio in Hz."""

    window_ms: float = 25.0
    """Length of a window in milliseconds."""

    hop_ms: float = 10.0
    """Time between the starts of consecutive windows in milliseconds."""

    num_mel_bins: int = renamed_from("bands", default=80)
    """Number of mel bands, the features of a frame."""

    low_hz: float = 20.0
    """Lower edge of the lowest band in Hz."""

    high_hz: float = 0.0
    """Upper edge of the highest band in Hz; 0: half the sample rate."""

    normalize: Literal["utterance", "fixed"] = "utterance"
    """Normalisation: each band to mean 0 and variance 1 over the utterance, or a fixed scaling.

    Streaming needs "fixed", because statistics of an utterance are known only at its end.
    """

    def __post_init__(self):
        if self.window_length < 2:
            problem = f"invalid window {self.window_ms}: expected at least two samples"
            raise ConfigError("window_ms", problem)
        if not 1 <= self.hop_length <= self.window_length:
            raise ConfigError(
                "hop_ms", f"invalid hop {self.hop_ms}: expected a value in (0, window_ms]"
            )
        if not 0 <= self.low_hz < self.max_hz:
            problem = f"invalid frequency {self.low_hz:g}: expected a value in [0, {self.max_hz:g})"
            raise ConfigError("low_hz", problem)
        if self.max_hz > self.sample_rate / 2:
            half = f"half the sample rate, {self.sample_rate / 2:g}"
            problem = f"invalid frequency {self.max_hz:g}: expected at most {half}"
            raise ConfigError("high_hz", problem)
        if self.num_mel_bins < 1 or not self.filters.any(axis=0).all():
            problem = f"invalid number {self.num_mel_bins}: some bands are empty; use fewer"
            raise ConfigError("num_mel_bins", problem)

    @property
    def size(self) -> int:
        """Number of features of a frame."""
        return self.num_mel_bins

    @property
    def rate(self) -> float:
        """Sample rate of the input in Hz."""
        return float(self.sample_rate)

    @property
    def frame_ms(self) -> float:
        """Time from one frame to the next in milliseconds."""
        return 1000 * self.hop_length / self.sample_rate

    def input_shape(self, length: int) -> tuple[int, ...]:
        """Returns the shape of an utterance of `length` samples."""
        return (length,)

    @property
    def window_length(self) -> int:
        """Number of samples in a window."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop_length(self) -> int:
        """Number of samples between the starts of consecutive windows."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def max_hz(self) -> float:
        """Upper edge of the highest band in Hz."""
        return self.high_hz or self.sample_rate / 2

    @property
    def filters(self) -> np.ndarray:
        """Weight of each DFT frequency in each band, float32 [frequencies, bands]."""
        return mel_filters(
            self.sample_rate, self.window_length, self.num_mel_bins, self.low_hz, self.max_hz
        )

    @property
    def band_hz(self) -> np.ndarray:
        """Centre of each band in Hz, float [bands]."""
        return _mel_edges(self.num_mel_bins, self.low_hz, self.max_hz)[1:-1]

    @property
    def _dft(self) -> np.ndarray:
        """The windowed DFT as a matrix [window_length, real and imaginary frequencies]."""
        dft = np.fft.rfft(np.diag(np.hanning(self.window_length + 1)[:-1]))
        return np.concatenate([dft.real, dft.imag], axis=1).astype(np.float32)

    def num_frames(self, samples: Any) -> Any:
        """Returns the number of frames of an utterance.

        Only complete windows count, except that an utterance shorter than a window is padded with
        zeros to one.

        Args:
          samples: number of samples, int or array of int.
        """
        excess = samples - self.window_length
        excess = max(excess, 0) if isinstance(excess, int) else jnp.maximum(excess, 0)
        return 1 + excess // self.hop_length

    def log_mel(self, audio: jax.Array, samples: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes unnormalised features and the number of valid frames.

        Args:
          audio: float32 [batch, samples] in [-1, 1].
          samples: int32 [batch], number of valid samples.

        Returns:
          float32 [batch, frames, bands], the natural logarithm of power, and int32 [batch].
        """
        audio = jnp.where(jnp.arange(audio.shape[1]) < samples[:, None], audio, 0)
        # A matrix product, because XLA does not partition FFTs: every device would compute those of
        # the whole batch.
        spectrum = jnp.matmul(self._windows(audio), self._dft, precision=jax.lax.Precision.HIGHEST)
        real, imaginary = jnp.split(spectrum, 2, axis=-1)
        power = real**2 + imaginary**2
        mel = jnp.matmul(power, self.filters, precision=jax.lax.Precision.HIGHEST)
        return jnp.log(jnp.maximum(mel, _FLOOR)), self.num_frames(samples)

    def _windows(self, audio: jax.Array) -> jax.Array:
        """Returns the windows [batch, frames, window_length] of audio [batch, samples].

        They are concatenated from shifted blocks of one hop each, because a TPU gathers single
        samples one by one; a CPU takes the same time for both.
        """
        batch, samples = audio.shape
        frames, hop = self.num_frames(samples), self.hop_length
        blocks = -(-self.window_length // hop)  # that a window overlaps
        size = (frames + blocks - 1) * hop
        audio = jnp.pad(audio, ((0, 0), (0, max(0, size - samples))))[:, :size]
        audio = audio.reshape(batch, -1, hop)
        parts = [audio[:, i : i + frames] for i in range(blocks)]
        return jnp.concatenate(parts, axis=-1)[..., : self.window_length]

    def __call__(self, audio: jax.Array, samples: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes normalised features and the number of valid frames.

        Args:
          audio: float32 [batch, samples] in [-1, 1].
          samples: int32 [batch], number of valid samples.

        Returns:
          float32 [batch, frames, bands] and int32 [batch].
        """
        features, frames = self.log_mel(audio, samples)
        if self.normalize == "utterance":
            return normalize_utterance(features, frames), frames
        return jnp.where(_frame_mask(features, frames), (features - _MEAN) / _STD, 0), frames


@dataclass(frozen=True)
class PrecomputedFeatures:
    """Features that the data set contains, such as MFCC."""

    former_names = ("Given",)

    size: int = 13
    """Number of features of a frame."""

    frame_ms: float = 10.0
    """Time from one frame to the next in milliseconds."""

    def __post_init__(self):
        for key in ("size", "frame_ms"):
            if getattr(self, key) <= 0:
                problem = f"invalid value {getattr(self, key)}: expected a positive number"
                raise ConfigError(key, problem)

    @property
    def rate(self) -> float:
        """Number of frames per second."""
        return 1000 / self.frame_ms

    def input_shape(self, length: int) -> tuple[int, ...]:
        """Returns the shape of an utterance of `length` frames."""
        return (length, self.size)

    def num_frames(self, length: Any) -> Any:
        """Returns the number of frames of an input of `length` frames, which is the same."""
        return length

    def __call__(self, features: jax.Array, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalises features [batch, frames, size] over each utterance.

        Args:
          features: float32 [batch, frames, size].
          frames: int32 [batch], number of valid frames.

        Returns:
          float32 [batch, frames, size], and `frames`.
        """
        return normalize_utterance(features, frames), frames


def normalize_utterance(features: jax.Array, frames: jax.Array) -> jax.Array:
    """Normalises features to mean 0 and variance 1 over each utterance; padding becomes 0.

    Args:
      features: float32 [batch, frames, size].
      frames: int32 [batch], number of valid frames.
    """
    valid = _frame_mask(features, frames)
    count = jnp.maximum(frames, 1)[:, None, None].astype(features.dtype)
    mean = jnp.where(valid, features, 0).sum(1, keepdims=True) / count
    centred = jnp.where(valid, features - mean, 0)
    variance = (centred**2).sum(1, keepdims=True) / count
    # The constant keeps rounding errors of constant features, as in a single frame, near 0.
    return centred * jax.lax.rsqrt(variance + 1e-5)


def mel_filters(
    sample_rate: int, window_length: int, num_mel_bins: int, low_hz: float, high_hz: float
) -> np.ndarray:
    """Returns triangular filters evenly spaced on the mel scale, each of area 1.

    The mel scale and the normalisation are those of Slaney's Auditory Toolbox (1998), the defaults
    of `librosa.filters.mel`: linear below 1 kHz, logarithmic above.

    Returns:
      float32 [window_length // 2 + 1, num_mel_bins].
    """
    frequencies = np.fft.rfftfreq(window_length, 1 / sample_rate)[:, None]
    edges = _mel_edges(num_mel_bins, low_hz, high_hz)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies - lower) / (centre - lower)
    falling = (upper - frequencies) / (upper - centre)
    triangles = np.maximum(np.minimum(rising, falling), 0)
    return (triangles * 2 / (upper - lower)).astype(np.float32)


def _mel_edges(num_mel_bins: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Returns the edges of the bands in Hz: band i has its centre at i + 1, and ends at i + 2."""
    return _mel_to_hz(np.linspace(_hz_to_mel(low_hz), _hz_to_mel(high_hz), num_mel_bins + 2))


_LOG_STEP = np.log(6.4) / 27  # logarithm of the frequency ratio of 1 mel above 1 kHz (15 mel)


def _hz_to_mel(hz: float) -> float:
    return 15 + np.log(hz / 1000) / _LOG_STEP if hz > 1000 else 15 * hz / 1000


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel > 15, 1000 * np.exp((mel - 15) * _LOG_STEP), 1000 * mel / 15)


def _frame_mask(features: jax.Array, frames: jax.Array) -> jax.Array:
    """Returns the mask of valid frames, bool [batch, frames, 1]."""
    return (jnp.arange(features.shape[1]) < frames[:, None])[..., None]
