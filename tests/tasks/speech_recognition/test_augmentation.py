import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.config import from_config_dict
from research.common.errors import ConfigError
from research.hardware.target import Target
from research.tasks.speech_recognition.augmentation import (
    Augmentation,
    add_noise,
    perturb_speed,
    stretch_time,
    warp_frequencies,
)
from tests.tpu import tpu_operations

RATE = 8000
QUICK = {"xla_backend_optimization_level": 0}  # compilation dominates the time of these tests
KEYS = jax.random.split(jax.random.key(0), 24)
EVERYTHING = Augmentation(
    speed_perturbation=0.1,
    reverberation_probability=0.5,
    noise_snr_db=(5.0, 20.0),
    gain_db=6.0,
    time_stretch=0.1,
    frequency_warp=0.1,
    num_frequency_masks=2,
    frequency_mask_width=5,
    num_time_masks=2,
    time_mask_fraction=0.2,
)


@pytest.fixture(scope="module")
def batch():
    """Six utterances of white noise, padded with zeros, and their lengths."""
    samples = np.array([3000, 2500, 2000, 1500, 200, 0], np.int32)
    audio = np.random.default_rng(0).normal(0, 0.1, (6, 3000)).astype(np.float32)
    return np.where(np.arange(3000) < samples[:, None], audio, 0), samples


@pytest.fixture(scope="module")
def features():
    frames = np.array([60, 50, 40, 30, 2, 0], np.int32)
    values = np.random.default_rng(0).normal(size=(6, 60, 20)).astype(np.float32)
    return np.where((np.arange(60) < frames[:, None])[..., None], values, 0), frames


def augment_audio(audio, samples, key=0, augmentation=EVERYTHING):
    apply = jax.jit(augmentation.audio, static_argnums=3, compiler_options=QUICK)
    return [np.asarray(part) for part in apply(jax.random.key(key), audio, samples, RATE)]


def augment_features(features, frames, key=0, augmentation=EVERYTHING):
    apply = jax.jit(augmentation.features, compiler_options=QUICK)
    return [np.asarray(part) for part in apply(jax.random.key(key), features, frames)]


def with_many_keys(function):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(function), compiler_options=QUICK)(KEYS))


def power(audio):
    return float((np.asarray(audio, np.float64) ** 2).mean())


def test_defaults_change_nothing(batch, features):
    for before, after in (
        (batch, augment_audio(*batch, augmentation=Augmentation())),
        (features, augment_features(*features, augmentation=Augmentation())),
    ):
        assert np.array_equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])


@pytest.mark.slow
def test_result_depends_on_the_key(batch, features):
    for augment, inputs in ((augment_audio, batch), (augment_features, features)):
        first, again, other = (augment(*inputs, key=key)[0] for key in (1, 1, 2))
        assert np.array_equal(first, again)
        assert all(not np.allclose(first[i], other[i]) for i in range(4))


@pytest.mark.slow
def test_equal_utterances_are_augmented_differently(batch, features):
    for augment, (values, lengths) in ((augment_audio, batch), (augment_features, features)):
        results, _ = augment(np.repeat(values[:1], 6, 0), np.repeat(lengths[:1], 6))
        assert len(np.unique(results.round(4).reshape(6, -1), axis=0)) == 6


def test_result_does_not_depend_on_padding_and_other_examples(batch, features):
    for augment, (values, lengths) in ((augment_audio, batch), (augment_features, features)):
        results, new_lengths = augment(values, lengths)
        longer = np.pad(values, [(0, 0), (0, 4000), *[(0, 0)] * (values.ndim - 2)])[:4]
        longer[2:] *= -3
        padded, same_lengths = augment(longer, lengths[:4])
        assert new_lengths[:4].tolist() == same_lengths.tolist()
        for i, length in enumerate(new_lengths):
            assert not results[i, length:].any()
        for i, length in enumerate(new_lengths[:2]):
            np.testing.assert_allclose(results[i, :length], padded[i, :length], atol=1e-5)


def test_values_in_the_padding_are_ignored(batch):
    audio, samples = batch
    dirty = np.where(np.arange(3000) < samples[:, None], audio, 0.5).astype(np.float32)
    np.testing.assert_array_equal(augment_audio(dirty, samples)[0], augment_audio(*batch)[0])


def test_silence_stays_finite():
    silence, samples = np.zeros((6, 3000), np.float32), np.array([3000, 100, 1, 0, 0, 0], np.int32)
    results, samples = augment_audio(silence, samples)
    assert np.abs(results).max() < 1e-6
    assert samples[3:].tolist() == [0, 0, 0]


@pytest.fixture(scope="module")
def speed():
    """Changes [samples] to 24 speeds from 0.8 to 1.2."""
    play = jax.vmap(
        lambda key, audio, count: perturb_speed(key, audio, count, 0.2), (0, None, None)
    )
    jit = jax.jit(play, compiler_options=QUICK)
    return lambda audio, count: jax.tree.map(np.asarray, jit(KEYS, audio, count))


def tone(frequency, count):
    return np.sin(2 * np.pi * frequency * np.arange(count)).astype(np.float32)


def test_speed_changes_pitch_and_length_alike(speed):
    changed, samples = speed(tone(0.05, 4000), 3700)
    assert changed.shape[1] == 5000
    factors = np.round(128 * 3700 / samples) / 128
    assert 0.8 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.2
    for one, factor, length in zip(changed, factors, samples, strict=True):
        assert length == np.ceil(3700 / factor)
        expected = tone(0.05 * factor, length)
        np.testing.assert_allclose(one[25 : length - 25], expected[25:-25], atol=2e-3)
        assert not one[length:].any()


def test_speed_perturbation_removes_frequencies_that_would_alias(speed):
    changed, samples = speed(tone(0.48, 4000), 4000)
    faster = changed[samples < 4000 / 1.15]
    assert len(faster)
    assert power(faster[:, 50:3000]) < 0.01 * power(tone(0.48, 4000))


@pytest.mark.parametrize(
    "length",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(127, marks=pytest.mark.slow), 3000],
)
def test_speed_perturbation_is_the_same_on_every_platform(length, monkeypatch):
    audio = jax.random.normal(jax.random.key(1), (length,))

    def changed(platform):
        module = "research.tasks.speech_recognition.augmentation"
        monkeypatch.setattr(f"{module}.target", lambda: Target(platform, 1))
        change = jax.vmap(lambda key: perturb_speed(key, audio, length, 0.2))
        return jax.jit(change, compiler_options=QUICK)(KEYS)

    for on_tpu, on_cpu in zip(changed("tpu"), changed("cpu"), strict=True):
        np.testing.assert_allclose(on_tpu, on_cpu, atol=1e-6)


@pytest.mark.slow
def test_speed_perturbation_on_a_tpu_neither_loops_nor_gathers_samples():
    def change(seeds, audio):
        one = lambda seed, audio: perturb_speed(jax.random.key(seed), audio, 4000, 0.1)  # noqa: E731
        return jax.vmap(one)(seeds, audio)

    seeds = jax.ShapeDtypeStruct((4,), jnp.uint32)
    operations = tpu_operations(change, seeds, jax.ShapeDtypeStruct((4, 5000), jnp.float32))
    assert operations["gather"] and not operations["element gather"] and not operations["while"]


@pytest.fixture(scope="module")
def noise():
    """Computes the noise added to [samples] with 24 keys."""
    add = jax.vmap(lambda key, *rest: add_noise(key, *rest[:2], RATE, *rest[2:]), (0, *[None] * 4))
    jit = jax.jit(add, compiler_options=QUICK)
    return lambda audio, *rest: np.asarray(jit(KEYS, audio, *rest)) - audio


@pytest.mark.parametrize(("lowest", "highest"), [(15.0, 15.0), (5.0, 20.0)])
def test_noise_has_the_configured_ratio(noise, lowest, highest):
    audio = np.where(np.arange(8000) < 5000, tone(0.01, 8000), 0)
    added = noise(audio, 5000, lowest, highest)
    decibels = [10 * np.log10(power(audio[:5000]) / power(one[:5000])) for one in added]
    assert lowest - 0.01 < min(decibels) < lowest + 3
    assert highest - 3 < max(decibels) < highest + 0.01
    assert not added[:, 5000:].any()


def test_noise_has_colours_from_white_to_brown(noise):
    added = noise(np.ones(8000, np.float32), 8000, 0.0, 0.0)
    neighbours = [np.corrcoef(one[:-1], one[1:])[0, 1] for one in added]
    assert 0 < min(neighbours) < 0.3 < 0.9 < max(neighbours) < 0.97
    distant = [np.corrcoef(one[:-300], one[300:])[0, 1] for one in added]
    assert np.abs(distant).max() < 0.2


def test_reverberation_adds_a_decaying_tail_after_the_direct_sound():
    clicks = np.tile(np.where(np.arange(6000) == 1000, np.float32(0.5), 0), (60, 1))
    rooms = Augmentation(reverberation_probability=0.8)
    results, _ = augment_audio(clicks, np.full(60, 5500), augmentation=rooms)
    assert not results[:, 5500:].any()
    in_room = results.astype(np.float64)[results[:, 1000] < 0.499]
    assert 40 < len(in_room) < 56
    decays, ratios = [], []
    for one in in_room:
        assert np.abs(one[:1000]).max() < 1e-5
        assert np.abs(one).argmax() == 1000
        assert power(one) == pytest.approx(power(clicks[0]), rel=1e-3)
        left = 10 * np.log10(np.cumsum(one[:1000:-1] ** 2)[::-1] + 1e-12)
        ratios.append(10 * np.log10(one[1000] ** 2) - left[0])
        decays.append(3 * np.flatnonzero(left < left[0] - 20)[0] / RATE)  # 20 of the 60 dB
    assert -0.5 < min(ratios) < 2 < 8 < max(ratios) < 10.5
    assert 0.08 < min(decays) < 0.2 < 0.4 < max(decays) < 0.55


def test_gain_lies_within_its_limits(batch):
    audio, samples = (np.repeat(part[:1], 50, 0) for part in batch)
    louder, _ = augment_audio(audio, samples, augmentation=Augmentation(gain_db=6.0))
    gains = louder[:, :1] / audio[:, :1]
    np.testing.assert_allclose(louder, gains * audio, rtol=1e-4)
    gains = 20 * np.log10(gains)
    assert -6 <= gains.min() < -4 < 4 < gains.max() <= 6


def test_time_stretch_interpolates_at_another_speed():
    ramp = jnp.arange(50.0)[:, None] * jnp.array([1.0, 2.0])
    ramp = ramp.at[41:].set(99)
    (stretched, frames), (_, none) = with_many_keys(
        lambda key: (stretch_time(key, ramp, 41, 0.2), stretch_time(key, ramp, 0, 0.2))
    )
    assert not none.any()
    assert stretched.shape == (24, 63, 2)
    speeds = stretched[:, 1, 0]
    assert 0.8 <= speeds.min() < 0.85 < 1.15 < speeds.max() <= 1.2
    for one, speed, length in zip(stretched, speeds, frames, strict=True):
        assert length == 1 + int(40 / speed)
        np.testing.assert_allclose(one[:length, 0], speed * np.arange(length), rtol=1e-4)
        np.testing.assert_allclose(one[:, 1], 2 * one[:, 0], rtol=1e-4)
        assert not np.any(one[length:])


def test_frequency_warp_scales_the_axis_and_preserves_its_ends():
    ramp = np.tile(np.arange(40, dtype=np.float32), (3, 1))
    warped = with_many_keys(lambda key: warp_frequencies(key, ramp, 0.2))
    assert np.array_equal(warped[:, 0], warped[:, 2])
    sources = warped[:, 0]
    scales = sources[:, 1]
    assert 0.8 <= scales.min() < 0.85 < 1.15 < scales.max() <= 1.2
    np.testing.assert_allclose(sources[:, :20], scales[:, None] * np.arange(20), rtol=1e-4)
    np.testing.assert_allclose(sources[:, -1], 39, rtol=1e-5)
    assert (np.diff(sources) > 0).all()


def test_masks_have_the_configured_number_and_width():
    frames = np.random.default_rng(0).integers(20, 51, 400)
    ones = np.where((np.arange(50) < frames[:, None])[..., None], np.ones(30, np.float32), 0)
    masks = Augmentation(
        num_frequency_masks=1, frequency_mask_width=20, num_time_masks=3, time_mask_fraction=0.2
    )
    masked, same = augment_features(ones, frames, augmentation=masks)
    assert np.array_equal(same, frames)
    bands, spans = masked.any(1), masked.any(2)
    assert np.array_equal(masked, bands[:, None] & spans[:, :, None])
    widths, shares = 30 - bands.sum(1), 1 - spans.sum(1) / frames
    assert (widths.min(), widths.max()) == (0, 20)
    assert widths.mean() == pytest.approx(10, abs=1)
    assert 0.4 < shares.max() <= 0.6
    assert shares.mean() == pytest.approx(1 - (1 - 0.1) ** 3, abs=0.04)
    assert abs(np.corrcoef(widths, shares)[0, 1]) < 0.2
    for kept, holes in ((bands, 1), (spans, 3)):
        edges = np.diff(np.pad(kept.astype(int), ((0, 0), (1, 1))))
        assert (edges == 1).sum(1).max() == holes + 1
    assert not spans[:, 0].all()
    assert not spans[np.arange(400), frames - 1].all()


def test_config_accepts_ratios_as_a_list():
    assert from_config_dict(Augmentation, {"noise_snr_db": [5, 20]}).noise_snr_db == (5.0, 20.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("speed_perturbation", 0.9),
        ("speed_perturbation", 0.001),
        ("time_stretch", -0.1),
        ("reverberation_probability", 2.0),
        ("noise_snr_db", (5.0,)),
        ("noise_snr_db", (20.0, 5.0)),
        ("gain_db", -1.0),
        ("time_mask_fraction", 1.5),
        ("num_frequency_masks", -1),
    ],
)
def test_invalid_values_raise(key, value):
    with pytest.raises(ConfigError, match=key):
        Augmentation(**{key: value})
