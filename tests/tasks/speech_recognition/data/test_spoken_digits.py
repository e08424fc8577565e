import numpy as np
import pytest

from research.tasks.speech_recognition.data.corpus import DIGITS
from research.tasks.speech_recognition.data.spoken_digits import SpokenDigits, voices_of
from research.tasks.speech_recognition.data.synthesis import Synthesizer
from research.tasks.speech_recognition.features import LogMel
from tests.tasks.speech_recognition.conftest import RATE

AUDIO = LogMel(sample_rate=RATE, num_mel_bins=20)


def test_loud_voices_are_clipped():
    """Without clipping, samples beyond full scale would change their sign."""
    pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed")
    corpus = SpokenDigits(num_train_utterances=40).open("train", AUDIO)
    sounds = [corpus.read(index) for index in range(40)]
    assert max(np.abs(sound).max() for sound in sounds) > 0.99
    assert max(np.abs(np.diff(sound)).max() for sound in sounds) < 1.8


def test_splits_have_disjoint_voices():
    pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed")
    names = Synthesizer().voices()
    speakers = [
        {name.partition("+")[2] for name in voices_of(names, split)}
        for split in ("train", "validation", "test")
    ]
    assert len(set.union(*speakers)) == sum(map(len, speakers)) >= 50
    source = SpokenDigits(num_train_utterances=8, num_test_utterances=3)
    corpus = source.open("train", AUDIO)
    assert len(corpus.utterances) == 8 and len(source.open("test", AUDIO).utterances) == 3
    for index, one in enumerate(corpus.utterances):
        assert 1 <= len(one.text.split()) <= 7 and set(one.text.split()) <= set(DIGITS)
        assert len(corpus.read(index)) == pytest.approx(one.seconds * RATE)
        assert 0.01 < np.abs(corpus.read(index)).max() <= 1
