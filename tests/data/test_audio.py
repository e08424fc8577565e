import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from research.common.errors import UserError
from research.data.audio import Recording, blocks, read_audio


def tone(seconds, rate, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def correlation(a, b):
    length = min(len(a), len(b))
    return np.corrcoef(a[:length], b[:length])[0, 1]


@pytest.fixture
def write(tmp_path):
    """Writes a sound file and returns its path."""

    def file(samples, rate=16_000, name="sound.wav", **options):
        path = tmp_path / name
        soundfile.write(path, samples, rate, **options)
        return path

    return file


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_formats_and_rates_give_the_same_audio(write, suffix, rate):
    path = write(tone(1.0, rate), rate, f"sound.{suffix}")
    audio = read_audio(path, 16_000)
    assert audio.dtype == np.float32
    assert len(audio) == 16_000
    assert correlation(audio, tone(1.0, 16_000)) > 0.99


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_read_audio_returns_the_whole_file(write, suffix):
    chirp = np.sin(np.cumsum(np.linspace(0.02, 0.6, 5 * 16_000))) / 2
    path = write(chirp, name=f"sound.{suffix}")
    at_once, _ = soundfile.read(path)
    np.testing.assert_allclose(read_audio(path, 16_000), at_once, atol=1e-6)


def test_channels_are_averaged(write):
    left, right = tone(0.1, 16_000), tone(0.1, 16_000, 1_000.0)
    path = write(np.stack([left, right], -1), subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path, 16_000), (left + right) / 2, atol=1e-6)


def test_bytes_give_the_audio_of_their_file(write):
    path = write(tone(0.2, 44_100), 44_100, "sound.flac")
    assert np.array_equal(read_audio(path.read_bytes(), 16_000), read_audio(path, 16_000))


def test_silent_file_is_valid(write):
    assert not read_audio(write(np.zeros(1_600)), 16_000).any()


def invalid_files(tmp_path):
    """Writes invalid files, and returns the error of each by name."""
    (tmp_path / "text.wav").write_text("text")
    (tmp_path / "nameless.raw").write_bytes(bytes(100))
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "empty.wav", np.empty(0), 16_000)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        samples = np.where(np.arange(40_000) == 39_000, value, 0.1)
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "damaged.flac", tone(9, 16_000), 16_000)
    whole = (tmp_path / "damaged.flac").read_bytes()
    (tmp_path / "damaged.flac").write_bytes(whole[: len(whole) // 2])
    return {
        "missing.wav": "missing file {}; check the path",
        "text.wav": "cannot read audio from {} .Format not recognised",
        "nameless.raw": "cannot read audio from {} .*samplerate must be specified",
        "folder.wav": "invalid audio {}: it is a folder; expected a file",
        "empty.wav": "cannot read audio from {} .it contains no samples",
        "nan.wav": "cannot read audio from {} .it contains infinite or NaN samples",
        "infinite.wav": "cannot read audio from {} .it contains infinite or NaN samples",
        "damaged.flac": "cannot read audio from {} .*lost sync",
    }


def test_errors_name_file_and_reason(tmp_path):
    for name, message in invalid_files(tmp_path).items():
        expected = message.format(re.escape(str(tmp_path / name)))
        for use in (
            lambda path: read_audio(path, 8_000),
            lambda path: list(blocks(path, 8_000, 0.5)),
            lambda path: Recording(path, 8_000, 30.0).read(0),
        ):
            with pytest.raises(UserError, match=expected) as raised:
                use(tmp_path / name)
            assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"^cannot read audio from 4 bytes"):
        read_audio(b"RIFF", 16_000)


@pytest.mark.parametrize("rate", [16_000, 44_100, 11_025])
@pytest.mark.parametrize("seconds", [0.1, 0.7, 30.0])
def test_blocks_are_consecutive_parts_of_the_file(write, rate, seconds):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(3.21 * rate))
    path = write(noise, rate)
    parts = list(blocks(path, 16_000, seconds))
    assert {len(part) for part in parts[:-1]} <= {round(seconds * 16_000)}
    assert 0 < len(parts[-1]) <= round(seconds * 16_000)
    assert np.array_equal(np.concatenate(parts), read_audio(path, 16_000))


def speech_with_pauses(rate, pauses, seconds):
    """Returns noise with a quieter 200 ms around each of `pauses` (in seconds)."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate))
    time = np.arange(len(noise)) / rate
    for pause in pauses:
        noise[np.abs(time - pause) < 0.1] *= 0.05
    return noise


@pytest.mark.parametrize("rate", [16_000, 11_025])
def test_segments_end_in_pauses(write, rate):
    path = write(speech_with_pauses(rate, [1.0, 2.5, 5.2, 6.5], 8.0), rate)
    recording = Recording(path, 16_000, max_seconds=3.0)
    ends = [end for _, end in recording.segments]
    # The pause at 1 s is before the last third; after 2.5 s the pause at 5.2 s comes first.
    assert ends == pytest.approx([2.5, 5.2, 8.0], abs=0.06)


def test_segments_cover_the_file_within_the_maximum_length(write):
    path = write(np.random.default_rng(1).uniform(-0.5, 0.5, 100_003))
    recording = Recording(path, 16_000, max_seconds=0.5)
    assert all(0 < end - start <= 0.5 for start, end in recording.segments)
    audio = np.concatenate([recording.read(i) for i in range(len(recording.segments))])
    assert np.array_equal(audio, read_audio(path, 16_000))


@pytest.mark.parametrize("rate", [16_000, 11_025])
@pytest.mark.parametrize("seconds", [0.001, 0.05, 1.0])
def test_short_file_is_one_segment(write, rate, seconds):
    path = write(tone(seconds, rate), rate)
    recording = Recording(path, 16_000, max_seconds=1.0)
    assert recording.segments == [(0.0, round(seconds * rate) / rate)]
    assert np.array_equal(recording.read(0), read_audio(path, 16_000))


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_segments_are_parts_of_the_resampled_file(write, suffix):
    chirp = np.sin(np.cumsum(np.linspace(0.02, 0.6, 5 * 44_100))) / 2
    path = write(np.stack([chirp, chirp], -1), 44_100, f"sound.{suffix}")
    recording, whole = Recording(path, 16_000, max_seconds=2.0), read_audio(path, 16_000)
    assert len(recording.segments) > 2
    for i, (start, end) in enumerate(recording.segments):
        part = whole[round(start * 16_000) :][: round((end - start) * 16_000)]
        # Except at the ends of a segment, which the resampler pads with silence.
        assert correlation(recording.read(i)[100:-100], part[100:-100]) > 0.999


def test_threads_can_read_at_the_same_time(write):
    path = write(np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), name="sound.flac")
    recording = Recording(path, 8_000, max_seconds=0.5)
    indices = range(len(recording.segments))
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(recording.read, indices))
    assert all(np.array_equal(recording.read(i), parallel[i]) for i in indices)


def test_format_without_seeking_cannot_be_split(write):
    path = write(tone(2.0, 16_000), name="phone.wav", subtype="GSM610")
    recording = Recording(path, 16_000, max_seconds=3.0)
    assert np.array_equal(recording.read(0), read_audio(path, 16_000))
    with pytest.raises(UserError, match=r"phone\.wav .*convert it to WAV or FLAC"):
        Recording(path, 16_000, max_seconds=1.0)


def test_long_recording_needs_little_memory(write):
    samples = np.random.default_rng(0).integers(-9_000, 9_000, 8_000 * 600, np.int16)
    path = write(samples, 8_000)
    tracemalloc.start()
    recording = Recording(path, 16_000, max_seconds=10.0)
    for i in range(3):
        recording.read(i)
    for _ in blocks(path, 16_000, 10.0):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(recording.segments) >= 60
    assert peak < 3e6  # the file is 19 MB as float32, ten seconds at 16 kHz are 0.64 MB


def test_power_is_that_of_the_loudest_10_ms(write):
    samples = np.zeros(16_000)
    samples[8_000:8_160] = 0.5
    recording = Recording(write(samples, subtype="FLOAT"), 16_000, max_seconds=2.0)
    assert recording.power == pytest.approx(0.25)
