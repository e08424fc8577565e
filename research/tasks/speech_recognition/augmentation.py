"""Augmentation of utterances on the device: pure functions of a key.

Each function below changes one utterance. `Augmentation` maps them over a batch with a key for
each, so that neither padding nor the other utterances of the batch make a difference.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from research.common.errors import ConfigError

_STEPS = 128  # speeds are multiples of 1/128
_REACH = 16  # samples on each side that a resampled one is computed from
_LONGEST_DECAY = 0.5  # seconds
_LOWEST_CORNER = 50  # Hz; were noise brown from below, most of it would be too low to be heard


@dataclass(frozen=True)
class Augmentation:
    """What is done to training utterances: first to the audio, then to its features.

    By default nothing.
    """

    speed: float = 0.0
    """Play the audio faster or slower by up to this part (Ko et al. 2015: 0.1)."""

    reverberation: float = 0.0
    """The part of the utterances that sound as in a room.

    With several devices each computes this for the whole batch, as XLA splits no FFT over devices.
    """

    noise_snr_db: tuple[float, ...] = ()
    """Add noise; the lowest and the highest ratio of speech to noise in dB. Empty: no noise."""

    gain_db: float = 0.0
    """Change the volume by up to so many dB."""

    stretch: float = 0.0
    """Stretch or shrink features in time by up to this part: `speed` where there is no audio."""

    band_warp: float = 0.0
    """Stretch the frequency axis by up to this part, as other speakers' vocal tracts do.

    After Jaitly and Hinton (2013), but along the mel scale, on features normalised already.
    """

    frequency_masks: int = 0
    """Zero so many random bands of each utterance (SpecAugment, Park et al. 2019)."""

    frequency_mask_width: int = 27
    """The greatest width of such a band, in features."""

    time_masks: int = 0
    """Zero so many random spans of each utterance (SpecAugment)."""

    time_mask_fraction: float = 0.05
    """The greatest length of such a span, as a part of the utterance."""

    def __post_init__(self):
        for key in ("speed", "stretch"):
            if getattr(self, key) and not 1 / _STEPS <= getattr(self, key) <= 0.5:
                problem = f"must be 0 or lie in [1/{_STEPS}, 0.5], is {getattr(self, key)}"
                raise ConfigError(key, problem)
        for key, greatest in (("reverberation", 1), ("time_mask_fraction", 1), ("band_warp", 0.5)):
            if not 0 <= getattr(self, key) <= greatest:
                raise ConfigError(key, f"must lie in [0, {greatest}], is {getattr(self, key)}")
        for key in ("gain_db", "frequency_masks", "frequency_mask_width", "time_masks"):
            if getattr(self, key) < 0:
                raise ConfigError(key, f"must not be negative, is {getattr(self, key)}")
        snr = self.noise_snr_db
        if snr and (len(snr) != 2 or snr[0] > snr[1]):
            raise ConfigError("noise_snr_db", f"must be () or (lowest, highest), is {snr}")

    def audio(
        self, key: jax.Array, audio: jax.Array, samples: jax.Array, sample_rate: int
    ) -> tuple[jax.Array, jax.Array]:
        """Augmented audio and its valid samples.

        Args:
          key: for the whole batch.
          audio: float32 [batch, samples].
          samples: int32 [batch], how many are valid.
          sample_rate: in Hz.

        Returns:
          float32 [batch, ceil(samples / (1 - speed))] and int32 [batch].
        """
        keys = jax.random.split(key, (len(audio), 5))
        return jax.vmap(partial(self._audio, sample_rate))(keys, audio, samples)

    def features(
        self, key: jax.Array, features: jax.Array, frames: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Augmented features, which should have mean 0, and their valid frames.

        Args:
          key: for the whole batch.
          features: float32 [batch, frames, size].
          frames: int32 [batch], how many are valid.

        Returns:
          float32 [batch, ceil(frames / (1 - stretch)), size] and int32 [batch].
        """
        keys = jax.random.split(key, (len(features), 4))
        return jax.vmap(self._features)(keys, features, frames)

    def _audio(
        self, sample_rate: int, keys: jax.Array, audio: jax.Array, samples: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        speed_key, chance_key, room_key, noise_key, gain_key = keys
        if self.speed:
            audio, samples = perturb_speed(speed_key, audio, samples, self.speed)
        if self.reverberation:
            wet = reverberate(room_key, audio, samples, sample_rate)
            chosen = jax.random.bernoulli(chance_key, self.reverberation)
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
        if self.stretch:
            features, frames = stretch_time(stretch_key, features, frames, self.stretch)
        if self.band_warp:
            features = warp_bands(warp_key, features, self.band_warp)
        length, size = features.shape
        width = min(self.frequency_mask_width, size)
        in_band = intervals(band_key, self.frequency_masks, width, size, size)
        longest = (self.time_mask_fraction * frames).astype(jnp.int32)
        in_span = intervals(time_key, self.time_masks, longest, frames, length)
        return jnp.where(in_span[:, None] | in_band, 0, features), frames


def perturb_speed(
    key: jax.Array, audio: jax.Array, samples: jax.Array, change: float
) -> tuple[jax.Array, jax.Array]:
    """Audio at a speed from [1 - change, 1 + change], a multiple of 1/128 (Ko et al. 2015).

    Takes audio [samples]; returns [ceil(samples / (1 - change))] and how many are valid.
    """
    slowest, fastest = math.ceil(_STEPS * (1 - change)), math.floor(_STEPS * (1 + change))
    steps = jax.random.randint(key, (), slowest, fastest + 1)
    length = math.ceil(len(audio) / (1 - change))
    return _resample(audio, samples, steps, fastest, length)


def _resample(
    audio: jax.Array, samples: jax.Array, steps: jax.Array, fastest: int, length: int
) -> tuple[jax.Array, jax.Array]:
    """Audio at `steps / 128` of its speed, [length], and how many are valid.

    Interpolates with a Hann-windowed sinc that cuts off what would alias (Smith, "Digital Audio
    Resampling", https://ccrma.stanford.edu/~jos/resample/). As 128 new samples take `steps` old
    ones, one matrix makes every 128 of them.
    """
    taps = jnp.arange(fastest + 2 * _REACH)
    distance = taps[:, None] - _REACH - jnp.arange(_STEPS) * (steps / _STEPS)
    cutoff = jnp.minimum(_STEPS / steps, 1)
    window = jnp.cos(jnp.pi / 2 * jnp.clip(distance / _REACH, -1, 1)) ** 2
    kernel = cutoff * jnp.sinc(cutoff * distance) * window
    starts = steps * jnp.arange(math.ceil(length / _STEPS))
    padded = jnp.pad(_cut(audio, samples), (_REACH, 0))
    sources = padded.at[starts[:, None] + taps].get(mode="fill", fill_value=0)
    resampled = jnp.matmul(sources, kernel, precision=jax.lax.Precision.HIGHEST)
    samples = (samples * _STEPS + steps - 1) // steps
    return _cut(resampled.reshape(-1)[:length], samples), samples


def reverberate(
    key: jax.Array, audio: jax.Array, samples: jax.Array, sample_rate: int
) -> jax.Array:
    """Audio [samples] in a random room, as strong as before and as long: the last echoes are cut.

    The impulse response is the direct sound and noise that fades by 60 dB within 0.1 to 0.5 s
    (Polack's model of late reverberation, 1988), 0 to 10 dB weaker in sum than the direct sound.
    """
    decay_key, ratio_key, tail_key = jax.random.split(key, 3)
    decay = jax.random.uniform(decay_key, minval=0.1, maxval=_LONGEST_DECAY)
    ratio_db = jax.random.uniform(ratio_key, maxval=10)
    seconds = jnp.arange(round(_LONGEST_DECAY * sample_rate)) / sample_rate
    tail = jax.random.normal(tail_key, seconds.shape) * 10 ** (-3 * seconds / decay)
    tail *= jnp.sqrt(10 ** (-ratio_db / 10) / (tail**2).sum())
    audio = _cut(audio, samples)
    size = 1 << (len(audio) + len(tail) - 1).bit_length()
    response = jnp.fft.rfft(tail.at[0].set(1), size)
    wet = jnp.fft.irfft(jnp.fft.rfft(audio, size) * response)[: len(audio)]
    return _cut(wet, samples) * jnp.sqrt(_power(audio, samples) / _power(wet, samples))


def add_noise(
    key: jax.Array,
    audio: jax.Array,
    samples: jax.Array,
    sample_rate: int,
    lowest_db: float,
    highest_db: float,
) -> jax.Array:
    """Audio [samples] with noise, weaker by `lowest_db` to `highest_db` than its valid samples.

    The noise is white up to a random frequency and falls by 6 dB an octave from there on: all
    colours from white to brown, of a first-order low-pass filter.
    """
    corner_key, ratio_key, noise_key = jax.random.split(key, 3)
    octaves = jax.random.uniform(corner_key, maxval=math.log2(sample_rate / 2 / _LOWEST_CORNER))
    decay = jnp.exp(-2 * jnp.pi * _LOWEST_CORNER * 2**octaves / sample_rate)
    noise = jax.random.normal(noise_key, (len(audio) + 511,))
    for shift in (1, 2, 4, 8, 16, 32, 64, 128, 256):  # the powers of decay up to the 511th
        noise = noise[shift:] + decay**shift * noise[:-shift]
    ratio_db = jax.random.uniform(ratio_key, minval=lowest_db, maxval=highest_db)
    ratio = _power(audio, samples) / _power(noise, samples)
    return _cut(audio + noise * jnp.sqrt(ratio * 10 ** (-ratio_db / 10)), samples)


def stretch_time(
    key: jax.Array, features: jax.Array, frames: jax.Array, change: float
) -> tuple[jax.Array, jax.Array]:
    """Features at a speed from [1 - change, 1 + change], between frames interpolated linearly.

    Takes features [frames, size]; returns [ceil(frames / (1 - change)), size] and how many are
    valid. As tempo perturbation (Ko et al. 2015), this leaves pitch and formants where they are.
    """
    speed = jax.random.uniform(key, minval=1 - change, maxval=1 + change)
    length = math.ceil(len(features) / (1 - change))
    position = speed * jnp.arange(length)
    before = position.astype(jnp.int32)
    weight = (position - before)[:, None]
    stretched = (1 - weight) * features[before] + weight * features[before + 1]
    frames = jnp.where(frames > 0, 1 + ((frames - 1) / speed).astype(jnp.int32), 0)
    return jnp.where(jnp.arange(length)[:, None] < frames, stretched, 0), frames


def warp_bands(key: jax.Array, features: jax.Array, change: float) -> jax.Array:
    """Features [frames, size] with the frequency axis scaled by 1 - change to 1 + change.

    Linear up to 0.8 of the axis, from there such that its end stays where it is (vocal tract length
    perturbation, Jaitly and Hinton 2013); between bands interpolated linearly.
    """
    size = features.shape[1]
    scale = jax.random.uniform(key, minval=1 - change, maxval=1 + change)
    top = size - 1
    knee = 0.8 * top * jnp.minimum(scale, 1)
    band = jnp.arange(size)
    above = top - (top - knee) / (top - knee / scale) * (top - band)
    source = jnp.where(band <= knee / scale, scale * band, above)
    weights = jnp.maximum(1 - jnp.abs(band[:, None] - source), 0)
    return jnp.matmul(features, weights, precision=jax.lax.Precision.HIGHEST)


def intervals(
    key: jax.Array, count: int, widest: jax.Array | int, size: jax.Array | int, length: int
) -> jax.Array:
    """[length] bool, true inside `count` random intervals of the first `size` places.

    Each is 0 to `widest` places wide, and may overlap with others (Park et al. 2019, section 2).
    """
    width_draw, start_draw = jax.random.uniform(key, (2, count, 1))
    width = jnp.floor(width_draw * (widest + 1))
    start = jnp.floor(start_draw * (size - width + 1))
    place = jnp.arange(length)
    return ((start <= place) & (place < start + width)).any(axis=0)


def _cut(audio: jax.Array, samples: jax.Array) -> jax.Array:
    """Audio [samples] with zeros for what is not valid."""
    return jnp.where(jnp.arange(len(audio)) < samples, audio, 0)


def _power(audio: jax.Array, samples: jax.Array) -> jax.Array:
    """The mean square over the valid samples; never 0, as one divides by it."""
    return (_cut(audio, samples) ** 2).sum() / jnp.maximum(samples, 1) + 1e-20
