import numpy as np
import pytest
import soundfile

from research.common.errors import ConfigError
from research.tasks.speech_recognition.data import FreeSpokenDigits
from research.tasks.speech_recognition.data.corpus import DIGITS
from research.tasks.speech_recognition.features import LogMel
from tests.tasks.speech_recognition.conftest import RATE, synthesize

AUDIO = LogMel(sample_rate=RATE, num_mel_bins=20)


def test_splits_are_by_take_or_by_speaker(tmp_path):
    for digit in (3, 7):
        for speaker in ("ann", "bob"):
            for take in range(10):
                file = tmp_path / f"{digit}_{speaker}_{take}.wav"
                soundfile.write(file, synthesize(["lo"]), RATE)
    by_take = FreeSpokenDigits(path=str(tmp_path))
    names = {s: [u.origin for u in by_take.open(s, AUDIO).utterances] for s in ("train", "test")}
    assert len(names["test"]) == 20 and all(int(name[-5]) < 5 for name in names["test"])
    assert len(names["train"]) == 8
    assert by_take.open("test", AUDIO).utterances[0].text == DIGITS[3]
    by_speaker = FreeSpokenDigits(path=str(tmp_path), test_speaker="ann")
    assert {u.speaker for u in by_speaker.open("test", AUDIO).utterances} == {"ann"}
    for split in ("train", "validation"):
        assert {u.speaker for u in by_speaker.open(split, AUDIO).utterances} == {"bob"}
    with pytest.raises(ConfigError, match="did you mean 'ann'"):
        FreeSpokenDigits(path=str(tmp_path), test_speaker="anne").open("test", AUDIO)


def test_strings_join_recordings_of_one_speaker_in_training_alone(tmp_path):
    seconds = {"ann": 0.1, "bob": 0.2}
    for digit in (3, 7):
        for speaker, length in seconds.items():
            for take in range(10):
                audio = np.full(int(length * RATE), digit / 10, np.float32)
                soundfile.write(tmp_path / f"{digit}_{speaker}_{take}.wav", audio, RATE)
    source = FreeSpokenDigits(path=str(tmp_path), num_strings=50)
    assert len(source.open("test", AUDIO).utterances) == 20
    assert len(source.open("validation", AUDIO).utterances) == 12
    corpus = source.open("train", AUDIO)
    assert len(corpus.utterances) == 8 + 50
    for index in range(8, 58):
        one, words = corpus.utterances[index], corpus.utterances[index].text.split()
        assert 2 <= len(words) <= 5
        assert one.seconds == pytest.approx(len(words) * seconds[one.speaker])
        read = corpus.read(index).reshape(len(words), -1).mean(axis=1)
        expected = [DIGITS.index(word) / 10 for word in words]
        np.testing.assert_allclose(read, expected, atol=1e-3)
    assert len({one.text for one in corpus.utterances[8:]}) > 10
    again = source.open("train", AUDIO)
    assert again.utterances == corpus.utterances


def test_a_negative_number_of_strings_is_refused():
    with pytest.raises(ConfigError, match=r"config\.num_strings: invalid number -1"):
        FreeSpokenDigits(path="recordings", num_strings=-1)
