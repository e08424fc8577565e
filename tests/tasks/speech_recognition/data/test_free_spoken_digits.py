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
