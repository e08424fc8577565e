import pytest
import soundfile

from research.common.errors import ConfigError
from research.tasks.speech_recognition.data import LibriSpeech
from research.tasks.speech_recognition.features import LogMel
from tests.tasks.speech_recognition.conftest import RATE, synthesize

AUDIO = LogMel(sample_rate=RATE, num_mel_bins=20)


def test_utterances_of_a_folder(tmp_path):
    chapter = tmp_path / "dev-clean" / "84" / "121"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "84-121-0000.flac", synthesize(["lo", "hi"]), RATE)
    (chapter / "84-121.trans.txt").write_text("84-121-0000 LO HI\n")
    source = LibriSpeech(path=str(tmp_path))
    corpus = source.open("validation", AUDIO)
    (one,) = corpus.utterances
    assert (one.text, one.speaker, one.seconds) == ("LO HI", "84", pytest.approx(0.7))
    assert len(corpus.read(0)) == pytest.approx(0.7 * RATE)
    with pytest.raises(ConfigError, match="test-clean"):
        source.open("test", AUDIO)
