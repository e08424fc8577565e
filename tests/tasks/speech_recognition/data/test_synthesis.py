import hashlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest

from research.common.errors import UserError
from research.tasks.speech_recognition.data.synthesis import ACCENTS, Synthesizer

DIGITS = "three one four one five"
installed = pytest.mark.skipif(
    find_spec("espeakng_loader") is None, reason="needs eSpeak NG (pip install espeakng-loader)"
)


@pytest.fixture(scope="module")
def synthesizer():
    return Synthesizer()


@installed
def test_speech_is_audible_and_within_range(synthesizer):
    audio, sample_rate = synthesizer.speak(DIGITS, "en-us")
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert 1.0 < len(audio) / sample_rate < 2.5
    assert 0.1 < np.abs(audio).max() <= 1


# Their states differ: phase of the flutter, filters of two Klatt synthesizers, breath noise.
@installed
@pytest.mark.parametrize("voice", ["en-us", "en-us+klatt4", "en+adam", "en-us+f2"])
def test_samples_do_not_depend_on_previous_utterances(synthesizer, voice):
    first, _ = synthesizer.speak(DIGITS, voice)
    synthesizer.speak("hello world", "en-gb-scotland+m3", rate_wpm=300, pitch=90, word_gap=9)
    again, _ = synthesizer.speak(DIGITS, voice)
    assert np.array_equal(first, again)


@installed
@pytest.mark.slow
def test_another_process_gives_the_same_samples(synthesizer):
    audio, _ = synthesizer.speak(DIGITS, "en-us+f2")
    program = (
        "import hashlib; from research.tasks.speech_recognition.data.synthesis import Synthesizer;"
        f"audio, _ = Synthesizer().speak('{DIGITS}', 'en-us+f2');"
        "print(hashlib.sha256(audio.tobytes()).hexdigest())"
    )
    time.sleep(1.0)  # eSpeak's default random seed is the time in seconds
    command = [sys.executable, "-c", program]
    digest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert digest == hashlib.sha256(audio.tobytes()).hexdigest()


@installed
def test_threads_give_the_same_samples(synthesizer):
    voices = synthesizer.voices()[::40]
    expected = [synthesizer.speak(DIGITS, voice)[0] for voice in voices]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda voice: synthesizer.speak(DIGITS, voice)[0], voices))
    assert all(map(np.array_equal, expected, results))


@installed
def test_voices_are_reproducible_and_distinct(synthesizer):
    voices = [voice for voice in synthesizer.voices() if voice.partition("+")[0] == "en-us"]
    assert len(voices) > 60
    sounds = [synthesizer.speak("five", voice)[0] for voice in voices]
    assert all(sound.std() > 0.01 for sound in sounds)
    assert len({sound.tobytes() for sound in sounds}) == len(voices)
    again = [synthesizer.speak("five", voice)[0] for voice in voices]
    assert all(map(np.array_equal, sounds, again))


@installed
def test_accents_differ(synthesizer):
    assert set(ACCENTS) < set(synthesizer.voices())
    sounds = {synthesizer.speak(DIGITS, accent)[0].tobytes() for accent in ACCENTS}
    assert len(sounds) == len(ACCENTS)


@installed
def test_rate_and_gap_change_the_duration(synthesizer):
    def seconds(**options):
        audio, sample_rate = synthesizer.speak(DIGITS, "en-us", **options)
        return len(audio) / sample_rate

    assert seconds(rate_wpm=120) > 1.3 * seconds(rate_wpm=240)
    assert seconds(word_gap=20) > 1.3 * seconds()


@installed
def test_pitch_changes_the_fundamental_frequency(synthesizer):
    def fundamental(pitch):
        audio, sample_rate = synthesizer.speak("nine", "en-us+m3", pitch=pitch, pitch_range=0)
        middle = audio[len(audio) // 4 : len(audio) // 2]
        correlation = np.correlate(middle, middle, "full")[len(middle) - 1 :]
        low, high = sample_rate // 400, sample_rate // 60
        return sample_rate / (low + correlation[low:high].argmax())

    assert fundamental(80) > 1.3 * fundamental(20)


@installed
def test_empty_text_gives_a_short_silence(synthesizer):
    audio, sample_rate = synthesizer.speak("", "en-us")
    assert len(audio) < 0.05 * sample_rate
    assert not audio.any()


@installed
@pytest.mark.parametrize("voice", ["en-us+f9", "klingon", "en-us+whisper"])
def test_unknown_voice_raises(synthesizer, voice):
    with pytest.raises(UserError, match=rf"unknown voice '{voice.replace('+', '.')}'"):
        synthesizer.speak(DIGITS, voice)


def test_missing_library_raises_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"missing package: eSpeak NG .*pip install"):
        Synthesizer()
