"""What the network hears: log-mel features of the waveform, or features that files give.

Everything runs on the device, under `jit`. Frames past an utterance's end come out as zeros and
change nothing else.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from research.common.errors import ConfigError

# Power in a band, for audio in [-1, 1]: 5 dB below the rounding noise of 16-bit samples, so digital
# silence sounds like any other silence, and no recording is cut off.
_FLOOR = 1e-10
# Over all bands and frames of the Free Spoken Digit Dataset; other speech is near enough.
_MEAN, _STD = -10.5, 4.2


@dataclass(frozen=True)
class LogMel:
    """The logarithm of the power in bands spaced as the ear spaces pitch (the mel scale).

    A frame is the Hann-windowed audio from a multiple of the hop on, with nothing before it, so
    it depends on its own samples alone and a stream gives the frames that the whole gives.
    """

    sample_rate: int = 16000
    """Of the audio, in Hz."""

    window_ms: float = 25.0
    """The audio that one frame sees."""

    hop_ms: float = 10.0
    """From the start of one frame to that of the next."""

    bands: int = 80
    """The number of features of a frame."""

    low_hz: float = 20.0
    """Where the lowest band begins."""

    high_hz: float = 0.0
    """Where the highest band ends; 0: at half the sample rate."""

    normalize: Literal["utterance", "fixed"] = "utterance"
    """Mean 0 and variance 1 of each band over the utterance, or a fixed shift and scale.

    A stream needs "fixed", as the rest of the utterance is not known yet.
    """

    def __post_init__(self):
        if self.window < 2:
            raise ConfigError("window_ms", f"must hold two samples or more, is {self.window_ms}")
        if not 1 <= self.hop <= self.window:
            raise ConfigError("hop_ms", f"must lie in (0, window_ms], is {self.hop_ms}")
        if not 0 <= self.low_hz < self.high:
            raise ConfigError("low_hz", f"must lie in [0, {self.high:g}), is {self.low_hz:g}")
        if self.high > self.sample_rate / 2:
            half = f"half the sample rate, {self.sample_rate / 2:g}"
            raise ConfigError("high_hz", f"must not exceed {half}, is {self.high:g}")
        if self.bands < 1 or not self.filters.any(axis=0).all():
            problem = f"{self.bands} bands do not fit: some hold no frequency; set fewer"
            raise ConfigError("bands", problem)

    @property
    def size(self) -> int:
        """The number of features of a frame."""
        return self.bands

    @property
    def rate(self) -> float:
        """Samples per second."""
        return float(self.sample_rate)

    @property
    def frame_ms(self) -> float:
        """From one frame to the next."""
        return 1000 * self.hop / self.sample_rate

    def input_shape(self, length: int) -> tuple[int, ...]:
        """Of one utterance of so many samples."""
        return (length,)

    @property
    def window(self) -> int:
        """Samples that one frame sees."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from the start of one frame to that of the next."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def high(self) -> float:
        """Where the highest band ends, in Hz."""
        return self.high_hz or self.sample_rate / 2

    @property
    def filters(self) -> np.ndarray:
        """The weight of each frequency of the window's DFT in each band, [frequencies, bands]."""
        return mel_filters(self.sample_rate, self.window, self.bands, self.low_hz, self.high)

    @property
    def _dft(self) -> np.ndarray:
        """The Hann window and the DFT as one matrix [window, real and imaginary frequencies]."""
        dft = np.fft.rfft(np.diag(np.hanning(self.window + 1)[:-1]))
        return np.concatenate([dft.real, dft.imag], axis=1).astype(np.float32)

    def frames(self, samples: Any) -> Any:
        """The number of frames of so many samples, an int or an array of them.

        Only whole windows count, but the shortest utterance has one frame, filled up with zeros.
        """
        return 1 + (samples > self.window) * ((samples - self.window) // self.hop)

    def log_mel(self, audio: jax.Array, samples: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The features before they are normalised, and the number of valid frames.

        Args:
          audio: float32 [batch, samples] in [-1, 1].
          samples: int32 [batch], how many of them are valid.

        Returns:
          float32 [batch, frames, bands], the natural logarithm of power, and int32 [batch].
        """
        audio = jnp.where(jnp.arange(audio.shape[1]) < samples[:, None], audio, 0)
        audio = jnp.pad(audio, ((0, 0), (0, max(0, self.window - audio.shape[1]))))
        starts = self.hop * np.arange(self.frames(audio.shape[1]))
        windows = audio[:, starts[:, None] + np.arange(self.window)]
        # A product, as XLA splits no FFT over devices: each would compute it for the whole batch.
        spectrum = jnp.matmul(windows, self._dft, precision=jax.lax.Precision.HIGHEST)
        real, imaginary = jnp.split(spectrum, 2, axis=-1)
        power = real**2 + imaginary**2
        mel = jnp.matmul(power, self.filters, precision=jax.lax.Precision.HIGHEST)
        return jnp.log(jnp.maximum(mel, _FLOOR)), self.frames(samples)

    def __call__(self, audio: jax.Array, samples: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features and the number of valid frames, as `log_mel` but normalised.

        Args:
          audio: float32 [batch, samples] in [-1, 1].
          samples: int32 [batch], how many of them are valid.

        Returns:
          float32 [batch, frames, bands] and int32 [batch].
        """
        features, frames = self.log_mel(audio, samples)
        if self.normalize == "utterance":
            return normalize_utterance(features, frames), frames
        return jnp.where(_valid(features, frames), (features - _MEAN) / _STD, 0), frames


@dataclass(frozen=True)
class Given:
    """Features that come computed in the data, such as MFCC."""

    size: int = 13
    """The number of features of a frame."""

    frame_ms: float = 10.0
    """From one frame to the next."""

    def __post_init__(self):
        for key in ("size", "frame_ms"):
            if getattr(self, key) <= 0:
                raise ConfigError(key, f"must be positive, is {getattr(self, key)}")

    @property
    def rate(self) -> float:
        """Frames per second."""
        return 1000 / self.frame_ms

    def input_shape(self, length: int) -> tuple[int, ...]:
        """Of one utterance of so many frames."""
        return (length, self.size)

    def frames(self, length: Any) -> Any:
        """The number of frames of so many frames."""
        return length

    def __call__(self, features: jax.Array, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[batch, frames, size], normalised over each utterance, and `frames` int32 [batch]."""
        return normalize_utterance(features, frames), frames


def normalize_utterance(features: jax.Array, frames: jax.Array) -> jax.Array:
    """Features of mean 0 and variance 1 over each utterance's valid frames; the others are 0.

    Args:
      features: float32 [batch, frames, size].
      frames: int32 [batch], how many are valid.
    """
    valid = _valid(features, frames)
    count = jnp.maximum(frames, 1)[:, None, None]
    mean = jnp.where(valid, features, 0).sum(1, keepdims=True) / count
    centred = jnp.where(valid, features - mean, 0)
    variance = (centred**2).sum(1, keepdims=True) / count
    # What never changes, as in a single frame, becomes about 0 and not amplified rounding.
    return centred * jax.lax.rsqrt(variance + 1e-5)


def mel_filters(
    sample_rate: int, window: int, bands: int, low_hz: float, high_hz: float
) -> np.ndarray:
    """Triangular filters float32 [window // 2 + 1, bands], evenly spaced in mel, each of area 1.

    The mel scale and the norm are those of Slaney's Auditory Toolbox (1998), the defaults of
    `librosa.filters.mel`: linear below 1 kHz, logarithmic above.
    """
    frequencies = np.fft.rfftfreq(window, 1 / sample_rate)[:, None]
    edges = _mel_to_hz(np.linspace(_hz_to_mel(low_hz), _hz_to_mel(high_hz), bands + 2))
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies - lower) / (centre - lower)
    falling = (upper - frequencies) / (upper - centre)
    triangles = np.maximum(np.minimum(rising, falling), 0)
    return (triangles * 2 / (upper - lower)).astype(np.float32)


_LOG_STEP = np.log(6.4) / 27  # of frequency for one mel above 1 kHz, which is mel 15


def _hz_to_mel(hz: float) -> float:
    return 15 + np.log(hz / 1000) / _LOG_STEP if hz > 1000 else 15 * hz / 1000


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel > 15, 1000 * np.exp((mel - 15) * _LOG_STEP), 1000 * mel / 15)


def _valid(features: jax.Array, frames: jax.Array) -> jax.Array:
    """[batch, frames, 1] bool."""
    return (jnp.arange(features.shape[1]) < frames[:, None])[..., None]
