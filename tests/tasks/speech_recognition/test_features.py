import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from research.common.errors import ConfigError
from research.hardware.mesh import MeshConfig, batch_sharding
from research.tasks.speech_recognition.features import (
    LogMel,
    PrecomputedFeatures,
    mel_filters,
    normalize_utterance,
)
from tests.tpu import tpu_operations


@pytest.fixture(scope="module")
def audio():
    """Four utterances of one second at 16 kHz: chirps of different loudness in noise."""
    seconds = np.arange(16000) / 16000
    start, rise = np.array([[50], [200], [4000], [1000]]), np.array([[7800], [600], [-3700], [0]])
    tones = np.sin(2 * np.pi * (start * seconds + rise * seconds**2 / 2))
    noise = np.random.default_rng(0).normal(size=(4, 16000))
    loudness, level = (
        np.array([[0.5], [0.01], [0.2], [0]]),
        np.array([[0.1], [1e-3], [3e-2], [0.1]]),
    )
    return (loudness * tones + level * noise).astype(np.float32)


def features_of(config, audio, samples):
    return [np.asarray(part) for part in jax.jit(config)(audio, np.asarray(samples, np.int32))]


@pytest.mark.parametrize(
    ("rate", "window", "bands", "low", "high"),
    [(16000, 400, 80, 20, 8000), (8000, 200, 40, 0, 4000), (44100, 1102, 64, 1500, 10000)],
)
def test_mel_filters_equal_librosa(rate, window, bands, low, high):
    expected = librosa.filters.mel(sr=rate, n_fft=window, n_mels=bands, fmin=low, fmax=high)
    np.testing.assert_allclose(mel_filters(rate, window, bands, low, high), expected.T, atol=1e-7)


@pytest.mark.parametrize(
    ("samples", "window_ms", "hop_ms"),
    [(16000, 25, 10), (16007, 20, 20), (4010, 25, 7), (401, 25, 10), (399, 25, 10)],
)
def test_each_frame_is_that_of_its_window_alone(samples, window_ms, hop_ms):
    mel = LogMel(window_ms=window_ms, hop_ms=hop_ms, num_mel_bins=40)
    audio = np.random.default_rng(0).normal(size=(1, samples)).astype(np.float32)
    features, _ = features_of(mel.log_mel, audio, [samples])
    assert features.shape[1] == mel.num_frames(samples)
    for frame in {0, features.shape[1] // 2, features.shape[1] - 1}:
        window = audio[:, frame * mel.hop_length :][:, : mel.window_length]
        alone, _ = features_of(mel.log_mel, window, [window.shape[1]])
        np.testing.assert_allclose(features[:, frame], alone[:, 0], atol=1e-4)


@pytest.mark.slow
def test_features_on_a_tpu_are_computed_without_a_gather():
    shapes = jax.ShapeDtypeStruct((4, 16000), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    operations = tpu_operations(LogMel(), *shapes)
    assert operations["convolution"] and not operations["gather"] and not operations["while"]


@pytest.mark.slow  # librosa compiles code for seconds
def test_log_mel_equals_librosa(audio):
    features, frames = features_of(LogMel().log_mel, audio, [16000] * 4)
    expected = librosa.feature.melspectrogram(
        y=audio, sr=16000, n_fft=400, hop_length=160, center=False, power=2, n_mels=80, fmin=20
    )
    assert frames.tolist() == [expected.shape[2]] * 4
    np.testing.assert_allclose(
        features, np.log(np.maximum(expected, 1e-10)).transpose(0, 2, 1), atol=1e-4
    )


def test_chunks_give_the_frames_of_the_whole(audio):
    mel = LogMel(normalize="fixed")
    whole, _ = features_of(mel, audio, [16000] * 4)
    step = 20 * mel.hop_length
    for start in range(0, 16000 - step - mel.window_length, step):
        chunk = audio[:, start : start + step + mel.window_length - mel.hop_length]
        part, frames = features_of(mel, chunk, [chunk.shape[1]] * 4)
        assert frames.tolist() == [20] * 4
        first = start // mel.hop_length
        np.testing.assert_allclose(part, whole[:, first : first + 20], atol=1e-4)


@pytest.mark.parametrize("normalize", ["utterance", "fixed"])
def test_result_does_not_depend_on_padding_and_other_examples(audio, normalize):
    mel = LogMel(normalize=normalize)
    samples = [16000, 9000, 560, 250]
    padded = np.where(np.arange(17000) < np.c_[samples], np.pad(audio, ((0, 0), (0, 1000))), 0.7)
    features, frames = features_of(mel, padded.astype(np.float32), samples)
    assert frames.tolist() == [98, 54, 2, 1]
    for i in (1, 3):
        alone, length = features_of(mel, audio[i : i + 1, : samples[i]], samples[i : i + 1])
        assert length == frames[i]
        np.testing.assert_allclose(features[i, : frames[i]], alone[0], atol=2e-4)
    assert not any(one[length:].any() for one, length in zip(features, frames, strict=True))


def test_utterance_normalization_gives_mean_0_and_variance_1(audio):
    features, frames = features_of(LogMel(), audio, [16000, 9000, 12000, 5000])
    for one, length in zip(features, frames, strict=True):
        np.testing.assert_allclose(one[:length].mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(one[:length].std(0), 1, atol=1e-3)


def test_fixed_normalization_preserves_loudness(audio):
    normalized, _ = features_of(LogMel(normalize="fixed"), audio, [16000] * 4)
    assert abs(normalized.mean()) < 1.5
    assert 0.5 < normalized.std() < 2
    louder, _ = features_of(LogMel(normalize="fixed"), 2 * audio, [16000] * 4)
    assert (louder > normalized).all()


def test_features_are_computed_on_the_devices_of_their_audio():
    mesh = MeshConfig().build(jax.devices())
    sharding = batch_sharding(mesh)
    audio = jax.ShapeDtypeStruct((16, 4000), np.float32, sharding=sharding)
    samples = jax.ShapeDtypeStruct((16,), np.int32, sharding=sharding)
    program = jax.jit(LogMel(), out_shardings=sharding).lower(audio, samples).compile().as_text()
    assert mesh.size == 8
    assert "f32[2,4000]" in program
    assert not any(word in program for word in ("all-gather", "all-to-all", "all-reduce"))


def test_num_frames_equals_the_computed_frames():
    mel = LogMel(sample_rate=8000)
    counts = [mel.num_frames(samples) for samples in range(0, 500)]
    assert counts[0] == counts[200] == counts[279] == 1
    assert counts[280] == 2
    assert np.array_equal(mel.num_frames(np.arange(500)), counts)
    for samples in (0, 100, 200, 280, 499):
        audio = jax.ShapeDtypeStruct((1, samples), np.float32)
        features, _ = jax.eval_shape(mel, audio, jax.ShapeDtypeStruct((1,), np.int32))
        assert features.shape == (1, counts[samples], 80)


def test_digital_silence_gives_finite_features(audio):
    for normalize in ("utterance", "fixed"):
        features, _ = features_of(LogMel(normalize=normalize), 0 * audio, [16000, 9000, 1, 0])
        assert np.isfinite(features).all()


def test_precomputed_features_are_normalized_over_valid_frames():
    array = np.random.default_rng(0).normal(5, 3, (2, 30, 13)).astype(np.float32)
    array[1, :, 4] = 30
    features, frames = features_of(PrecomputedFeatures(), array, [30, 12])
    assert frames.tolist() == [30, 12]
    expected = (array[1, :12] - array[1, :12].mean(0)) / np.maximum(array[1, :12].std(0), 1)
    np.testing.assert_allclose(features[1, :12], expected, atol=1e-3)
    assert not features[1, 12:].any()


def test_constant_features_become_zero():
    features = jax.jit(normalize_utterance)(np.full((2, 5, 3), 7, np.float32), np.array([1, 0]))
    assert not np.any(features)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hop_ms": 30.0}, "hop_ms"),
        ({"hop_ms": 0.0}, "hop_ms"),
        ({"window_ms": 0.0}, "window_ms"),
        ({"high_hz": 9000.0}, "high_hz: invalid frequency 9000: expected at most half"),
        ({"low_hz": 8000.0}, "low_hz"),
        ({"num_mel_bins": 0}, "num_mel_bins"),
        ({"num_mel_bins": 200}, "some bands are empty"),
    ],
)
def test_invalid_values_raise(config, message):
    with pytest.raises(ConfigError, match=message):
        LogMel(**config)


def test_precomputed_features_need_a_size():
    with pytest.raises(ConfigError, match="size"):
        PrecomputedFeatures(size=0)
