"""Augmentation of utterances on the device, as pure functions of a key.

Each function below changes one utterance. `Augmentation` maps them over a batch with one key per
utterance, so that the result does not depend on padding or on the rest of the batch.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from research.common.config import renamed_from
from research.common.errors import ConfigError
from research.hardware.target import target

_STEPS = 128  # speeds are multiples of 1/128
_LANES = 128  # of a TPU's registers
_HALF_WIDTH = 16  # samples on each side of the resampling filter's centre
_MAX_DECAY = 0.5  # seconds
_MIN_CORNER_HZ = 50  # lower corners would put most of the noise below the audible range


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training utterances, first of the audio and then of the features.

    The defaults change nothing.
    """

    speed_perturbation: float = renamed_from("speed", default=0.0)
    """Maximum relative change of speed (Ko et al. 2015 use 0.1)."""

    reverberation_probability: float = renamed_from("reverberation", default=0.0)
    """Probability that an utterance is reverberated.

    With several devices each computes this for the whole batch, because XLA does not partition
    FFTs.
    """

    noise_snr_db: tuple[float, ...] = ()
    """Lowest and highest signal-to-noise ratio of added noise in dB; empty: no noise."""

    gain_db: float = 0.0
    """Maximum change of the volume in dB."""

    time_stretch: float = renamed_from("stretch", default=0.0)
    """Maximum relative change of speed of the features, for data sets without audio."""

    frequency_warp: float = renamed_from("band_warp", default=0.0)
    """Maximum relative scaling of the frequency axis, which imitates other vocal tract lengths.

    After Jaitly and Hinton (2013), but on the mel scale and on normalised features.
    """

    num_frequency_masks: int = renamed_from("frequency_masks", default=0)
    """Number of random frequency bands to set to zero (SpecAugment, Park et al. 2019)."""

    frequency_mask_width: int = 27
    """Maximum width of a frequency mask in features."""

    num_time_masks: int = renamed_from("time_masks", default=0)
    """Number of random time spans to set to zero (SpecAugment)."""

    time_mask_fraction: float = 0.05
    """Maximum length of a time mask as a fraction of the utterance."""

    def __post_init__(self):
        for key in ("speed_perturbation", "time_stretch"):
            if getattr(self, key) and not 1 / _STEPS <= getattr(self, key) <= 0.5:
                self._refuse(key, f"0 or a number in [1/{_STEPS}, 0.5]")
        limits = {"reverberation_probability": 1, "time_mask_fraction": 1, "frequency_warp": 0.5}
        for key, limit in limits.items():
            if not 0 <= getattr(self, key) <= limit:
                self._refuse(key, f"a number in [0, {limit}]")
        for key in ("gain_db", "num_frequency_masks", "frequency_mask_width", "num_time_masks"):
            if getattr(self, key) < 0:
                self._refuse(key, "at least 0")
        snr = self.noise_snr_db
        if snr and (len(snr) != 2 or snr[0] > snr[1]):
            self._refuse("noise_snr_db", "() or (lowest, highest)")

    def _refuse(self, key: str, expected: str) -> None:
        raise ConfigError(key, f"invalid value {getattr(self, key)}: expected {expected}")

    def audio(
        self, key: jax.Array, audio: jax.Array, samples: jax.Array, sample_rate: int
    ) -> tuple[jax.Array, jax.Array]:
        """Augments audio.

        Args:
          key: random key for the whole batch.
          audio: float32 [batch, samples].
          samples: int32 [batch], number of valid samples.
          sample_rate: in Hz.

        Returns:
          float32 [batch, ceil(samples / (1 - speed_perturbation))], and the numbers of valid
          samples, int32 [batch].
        """
        keys = jax.random.split(key, (len(audio), 5))
        return jax.vmap(partial(self._audio, sample_rate))(keys, audio, samples)

    def features(
        self, key: jax.Array, features: jax.Array, frames: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Augments features, which should have mean 0, the value of masks.

        Args:
          key: random key for the whole batch.
          features: float32 [batch, frames, size].
          frames: int32 [batch], number of valid frames.

        Returns:
          float32 [batch, ceil(frames / (1 - time_stretch)), size], and the numbers of valid frames,
          int32 [batch].
        """
        keys = jax.random.split(key, (len(features), 4))
        return jax.vmap(self._features)(keys, features, frames)

    def _audio(
        self, sample_rate: int, keys: jax.Array, audio: jax.Array, samples: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        speed_key, chance_key, room_key, noise_key, gain_key = keys
        if self.speed_perturbation:
            change = self.speed_perturbation
            audio, samples = perturb_speed(speed_key, audio, samples, change)
        if self.reverberation_probability:
            wet = reverberate(room_key, audio, samples, sample_rate)
            chosen = jax.random.bernoulli(chance_key, self.reverberation_probability)
            audio = jnp.where(chosen, wet, audio)
        if self.noise_snr_db:
            audio = add_noise(noise_key, audio, samples, sample_rate, *self.noise_snr_db)
        if self.gain_db:
            gain = jax.random.uniform(gain_key, minval=-self.gain_db, maxval=self.gain_db)
            audio = audio * 10 ** (gain / 20)
        return audio, samples

    def _features(
        self, keys: jax.Array, features: jax.Array, frames: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        stretch_key, warp_key, band_key, time_key = keys
        if self.time_stretch:
            features, frames = stretch_time(stretch_key, features, frames, self.time_stretch)
        if self.frequency_warp:
            features = warp_frequencies(warp_key, features, self.frequency_warp)
        length, size = features.shape
        width = min(self.frequency_mask_width, size)
        in_band = intervals(band_key, self.num_frequency_masks, width, size, size)
        max_length = (self.time_mask_fraction * frames.astype(jnp.float32)).astype(jnp.int32)
        in_span = intervals(time_key, self.num_time_masks, max_length, frames, length)
        return jnp.where(in_span[:, None] | in_band, 0, features), frames


def perturb_speed(
    key: jax.Array, audio: jax.Array, samples: jax.Array, change: float
) -> tuple[jax.Array, jax.Array]:
    """Resamples audio to a random speed, a multiple of 1/128 (Ko et al. 2015).

    Args:
      key: random key.
      audio: [samples].
      samples: number of valid samples, [] int32.
      change: maximum change of speed; speeds lie in [1 - change, 1 + change].

    Returns:
      audio [ceil(samples / (1 - change))], and the number of valid samples.
    """
    slowest, fastest = math.ceil(_STEPS * (1 - change)), math.floor(_STEPS * (1 + change))
    steps = jax.random.randint(key, (), slowest, fastest + 1)
    length = math.ceil(len(audio) / (1 - change))
    return _resample(audio, samples, steps, fastest, length)


def _resample(
    audio: jax.Array, samples: jax.Array, steps: jax.Array, fastest: int, length: int
) -> tuple[jax.Array, jax.Array]:
    """Resamples audio to `steps / 128` of its speed.

    Interpolates with a Hann-windowed sinc filter whose cutoff prevents aliasing (Smith, "Digital
    Audio Resampling", https://ccrma.stanford.edu/~jos/resample/). 128 new samples span `steps` old
    ones, so that the same filter matrix computes each block of 128.

    Returns:
      audio [length], and the number of valid samples.
    """
    taps = jnp.arange(fastest + 2 * _HALF_WIDTH)
    offsets = jnp.arange(_STEPS, dtype=jnp.float32) * (steps / _STEPS)
    distance = (taps[:, None] - _HALF_WIDTH).astype(jnp.float32) - offsets
    cutoff = jnp.minimum(_STEPS / steps, 1)
    window = jnp.cos(jnp.pi / 2 * jnp.clip(distance / _HALF_WIDTH, -1, 1)) ** 2
    kernel = cutoff * jnp.sinc(cutoff * distance) * window
    starts = steps * jnp.arange(math.ceil(length / _STEPS))
    end = fastest * len(starts) + len(taps)  # of the last block at the highest speed
    padding = (_HALF_WIDTH, max(0, end - _HALF_WIDTH - len(audio)))
    sources = _windows(jnp.pad(_zero_padding(audio, samples), padding), starts, len(taps))
    resampled = jnp.matmul(sources, kernel, precision=jax.lax.Precision.HIGHEST)
    samples = (samples * _STEPS + steps - 1) // steps
    return _zero_padding(resampled.reshape(-1)[:length], samples), samples


def _windows(audio: jax.Array, starts: jax.Array, size: int) -> jax.Array:
    """Returns the windows [windows, size] of audio [samples] that begin at `starts` [windows]."""
    if target().platform != "tpu":
        return jax.vmap(lambda start: jax.lax.dynamic_slice(audio, (start,), (size,)))(starts)
    # On a TPU slices become a loop over the windows, and a gather of samples is serial. Rows of 128
    # samples, shifted by selects, take 1/80 of the loop's cycles on a v5e, predicted; on a CPU they
    # take twice the time of the slices.
    num_rows = -(-(size + _LANES - 1) // _LANES)
    rows = jnp.pad(audio, (0, num_rows * _LANES - len(audio) % _LANES)).reshape(-1, _LANES)
    overlapping = [rows[i : len(rows) - num_rows + 1 + i] for i in range(num_rows)]
    row, shift = jnp.divmod(starts, _LANES)
    windows = jnp.concatenate(overlapping, axis=1)[row]
    for bit in (64, 32, 16, 8, 4, 2, 1):
        width = min(windows.shape[1] - bit, size + bit - 1)
        shifted = windows[:, bit : bit + width]
        windows = jnp.where((shift & bit)[:, None] > 0, shifted, windows[:, :width])
    return windows


def reverberate(
    key: jax.Array, audio: jax.Array, samples: jax.Array, sample_rate: int
) -> jax.Array:
    """Convolves audio [samples] with a random room impulse response.

    The impulse response is the direct sound followed by noise that decays by 60 dB within 0.1 to
    0.5 s (Polack's model of late reverberation, 1988) and whose energy is 0 to 10 dB below that of
    the direct sound. Power and length of the audio stay the same: the tail is truncated.
    """
    decay_key, ratio_key, tail_key = jax.random.split(key, 3)
    decay = jax.random.uniform(decay_key, minval=0.1, maxval=_MAX_DECAY)
    ratio_db = jax.random.uniform(ratio_key, maxval=10)
    seconds = jnp.arange(round(_MAX_DECAY * sample_rate)) / sample_rate
    tail = jax.random.normal(tail_key, seconds.shape) * 10 ** (-3 * seconds / decay)
    tail *= jnp.sqrt(10 ** (-ratio_db / 10) / (tail**2).sum())
    audio = _zero_padding(audio, samples)
    size = 1 << (len(audio) + len(tail) - 1).bit_length()
    response = jnp.fft.rfft(tail.at[0].set(1), size)
    wet = jnp.fft.irfft(jnp.fft.rfft(audio, size) * response)[: len(audio)]
    return _zero_padding(wet, samples) * jnp.sqrt(_power(audio, samples) / _power(wet, samples))


def add_noise(
    key: jax.Array,
    audio: jax.Array,
    samples: jax.Array,
    sample_rate: int,
    lowest_db: float,
    highest_db: float,
) -> jax.Array:
    """Adds noise to audio [samples] at a signal-to-noise ratio in [lowest_db, highest_db].

    A first-order low-pass filter with a random corner frequency shapes the noise: its spectrum is
    flat below the corner and falls by 6 dB per octave above, so that colours range from white to
    brown.
    """
    corner_key, ratio_key, noise_key = jax.random.split(key, 3)
    octaves = jax.random.uniform(corner_key, maxval=math.log2(sample_rate / 2 / _MIN_CORNER_HZ))
    decay = jnp.exp(-2 * jnp.pi * _MIN_CORNER_HZ * 2**octaves / sample_rate)
    noise = jax.random.normal(noise_key, (len(audio) + 511,))
    for shift in (1, 2, 4, 8, 16, 32, 64, 128, 256):  # sums 512 powers of the decay
        noise = noise[shift:] + decay**shift * noise[:-shift]
    ratio_db = jax.random.uniform(ratio_key, minval=lowest_db, maxval=highest_db)
    ratio = _power(audio, samples) / _power(noise, samples)
    return _zero_padding(audio + noise * jnp.sqrt(ratio * 10 ** (-ratio_db / 10)), samples)


def stretch_time(
    key: jax.Array, features: jax.Array, frames: jax.Array, change: float
) -> tuple[jax.Array, jax.Array]:
    """Changes the speed of features by linear interpolation between frames.

    Like tempo perturbation (Ko et al. 2015) it preserves pitch and formants.

    Args:
      key: random key.
      features: [frames, size].
      frames: number of valid frames, [] int32.
      change: maximum change of speed; speeds lie in [1 - change, 1 + change].

    Returns:
      features [ceil(frames / (1 - change)), size], and the number of valid frames.
    """
    speed = jax.random.uniform(key, minval=1 - change, maxval=1 + change)
    length = math.ceil(len(features) / (1 - change))
    position = speed * jnp.arange(length, dtype=jnp.float32)
    before = position.astype(jnp.int32)
    weight = (position - before.astype(jnp.float32))[:, None]
    stretched = (1 - weight) * features[before] + weight * features[before + 1]
    last = (jnp.asarray(frames - 1, jnp.float32) / speed).astype(jnp.int32)
    frames = jnp.where(frames > 0, 1 + last, 0)
    return jnp.where(jnp.arange(length)[:, None] < frames, stretched, 0), frames


def warp_frequencies(key: jax.Array, features: jax.Array, change: float) -> jax.Array:
    """Scales the frequency axis of features [frames, size] by 1 - change to 1 + change.

    The warp is linear up to 0.8 of the axis, and linear again from there so that it preserves the
    end of the axis (vocal tract length perturbation, Jaitly and Hinton 2013). Values between bands
    are interpolated linearly.
    """
    size = features.shape[1]
    scale = jax.random.uniform(key, minval=1 - change, maxval=1 + change)
    top = size - 1
    knee = 0.8 * top * jnp.minimum(scale, 1)
    band = jnp.arange(size, dtype=jnp.float32)
    above = top - (top - knee) / (top - knee / scale) * (top - band)
    source = jnp.where(band <= knee / scale, scale * band, above)
    weights = jnp.maximum(1 - jnp.abs(band[:, None] - source), 0)
    return jnp.matmul(features, weights, precision=jax.lax.Precision.HIGHEST)


def intervals(
    key: jax.Array, count: int, max_width: jax.Array | int, size: jax.Array | int, length: int
) -> jax.Array:
    """Returns the mask of random intervals, which may overlap (Park et al. 2019, section 2).

    Args:
      key: random key.
      count: number of intervals.
      max_width: each interval has 0 to `max_width` elements.
      size: intervals lie in the first `size` elements.
      length: number of elements.

    Returns:
      bool [length], true inside an interval.
    """
    width_draw, start_draw = jax.random.uniform(key, (2, count, 1))
    width = jnp.floor(width_draw * jnp.asarray(max_width + 1, jnp.float32))
    start = jnp.floor(start_draw * (jnp.asarray(size, jnp.float32) - width + 1))
    element = jnp.arange(length, dtype=jnp.float32)
    return ((start <= element) & (element < start + width)).any(axis=0)


def _zero_padding(audio: jax.Array, samples: jax.Array) -> jax.Array:
    """Sets the padding of audio [samples] to zero."""
    return jnp.where(jnp.arange(len(audio)) < samples, audio, 0)


def _power(audio: jax.Array, samples: jax.Array) -> jax.Array:
    """Returns the mean square of the valid samples, plus a constant that avoids division by 0."""
    count = jnp.maximum(samples, 1).astype(jnp.float32)
    return (_zero_padding(audio, samples) ** 2).sum() / count + 1e-20
