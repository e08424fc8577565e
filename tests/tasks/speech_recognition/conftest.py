"""A corpus whose words are tones, and a small task for it."""

import json

import numpy as np
import pytest
import soundfile

from research.data.tokenizers import Characters
from research.tasks.speech_recognition.data import Manifest
from research.tasks.speech_recognition.features import LogMel
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.task import SpeechRecognition

RATE = 8000
TONES = {"lo": 300.0, "mid": 800.0, "hi": 2000.0}


def synthesize(words, rate=RATE, seconds=0.25):
    """Returns one tone per word, each followed by a pause."""
    time = np.arange(int(seconds * rate)) / rate
    tones = [0.3 * np.sin(2 * np.pi * TONES[word] * time) for word in words]
    pause = np.zeros(int(0.1 * rate))
    return np.concatenate([part for tone in tones for part in (tone, pause)]).astype(np.float32)


def write_manifest(folder, name, count, seed):
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        words = rng.choice(list(TONES), rng.integers(1, 5)).tolist()
        soundfile.write(folder / f"{name}{number}.wav", synthesize(words), RATE)
        line = {"audio_filepath": f"{name}{number}.wav", "text": " ".join(words)}
        lines.append(line | {"speaker": f"speaker {number % 5}"})
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    """A folder with train.jsonl, test.jsonl and their sound files."""
    folder = tmp_path_factory.mktemp("tones")
    write_manifest(folder, "train", 40, 0)
    write_manifest(folder, "test", 10, 1)
    return folder


@pytest.fixture
def task(tones):
    """A task that is not resolved."""
    return SpeechRecognition(
        source=Manifest(train=str(tones / "train.jsonl"), test=str(tones / "test.jsonl")),
        features=LogMel(sample_rate=RATE, num_mel_bins=20, normalize="fixed"),
        tokenizer=Characters(),
        model=LSTMEncoder(
            channels=(16, 16), strides=(2, 2), num_layers=1, features=12, bidirectional=False
        ),
        num_buckets=2,
    )
