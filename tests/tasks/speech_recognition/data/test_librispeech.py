import pytest
import soundfile

from research.common.errors import ConfigError
from research.tasks.speech_recognition.data import LibriSpeech
from research.tasks.speech_recognition.features import LogMel
from tests.tasks.speech_recognition.conftest import RATE, synthesize

AUDIO = LogMel(sample_rate=RATE, num_mel_bins=20)


@pytest.fixture
def chapter(tmp_path):
    """The folder of a chapter of the validation split."""
    folder = tmp_path / "dev-clean" / "84" / "121"
    folder.mkdir(parents=True)
    return folder


def test_utterances_of_a_folder(tmp_path, chapter):
    soundfile.write(chapter / "84-121-0000.flac", synthesize(["lo", "hi"]), RATE)
    (chapter / "84-121.trans.txt").write_text("84-121-0000 LO HI\n")
    source = LibriSpeech(path=str(tmp_path))
    corpus = source.open("validation", AUDIO)
    (one,) = corpus.utterances
    assert (one.text, one.speaker, one.seconds) == ("LO HI", "84", pytest.approx(0.7))
    assert len(corpus.read(0)) == pytest.approx(0.7 * RATE)
    with pytest.raises(ConfigError, match="test-clean"):
        source.open("test", AUDIO)


def test_the_line_of_a_transcript_ends_at_a_newline_only(tmp_path, chapter):
    soundfile.write(chapter / "84-121-0000.flac", synthesize(["lo"]), RATE)
    content = "\ufeff84-121-0000 LO\u2028HI\r\n\r\n"
    (chapter / "84-121.trans.txt").write_text(content, "utf-8", newline="")
    (one,) = LibriSpeech(path=str(tmp_path)).open("validation", AUDIO).utterances
    assert (one.text, one.problem) == ("LO\u2028HI", "")


def test_a_transcript_that_is_not_utf_8_is_named(tmp_path, chapter):
    (chapter / "84-121.trans.txt").write_bytes(b"84-121-0000 LO\n84-121-0001 \xff\n")
    with pytest.raises(ConfigError, match=r"config\.path: .*84-121\.trans\.txt:2 is not UTF-8"):
        LibriSpeech(path=str(tmp_path)).open("validation", AUDIO)
