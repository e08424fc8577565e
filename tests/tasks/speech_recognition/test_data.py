import io
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from research.common.errors import ConfigError, UserError
from research.tasks.speech_recognition.data import (
    DIGITS,
    FreeSpokenDigits,
    LibriSpeech,
    Manifest,
    SpeechTFDS,
    SpokenDigits,
    read_input,
)
from research.tasks.speech_recognition.features import Given, LogMel
from tests.tasks.speech_recognition.conftest import RATE, sing

AUDIO = LogMel(sample_rate=RATE, bands=20)


def test_a_manifest_is_read_with_paths_from_its_own_folder(tones):
    corpus = Manifest(train=str(tones / "train.jsonl")).open("train", AUDIO)
    first = corpus.utterances[0]
    assert first.where == f"{tones}/train.jsonl:1"
    audio = corpus.read(0)
    assert audio.dtype == np.float32
    assert first.seconds == pytest.approx(len(audio) / RATE)
    np.testing.assert_allclose(audio, sing(first.text.split()), atol=1e-4)


def test_validation_has_speakers_of_its_own(tones):
    source = Manifest(train=str(tones / "train.jsonl"), validation_fraction=0.4)
    train, validation = (source.open(split, AUDIO) for split in ("train", "validation"))
    speakers = [{one.speaker for one in part.utterances} for part in (train, validation)]
    assert len(speakers[0]) == 3 and len(speakers[1]) == 2 and not speakers[0] & speakers[1]
    assert len(train.utterances) + len(validation.utterances) == 40
    assert source.open("test", AUDIO).utterances == validation.utterances


def test_a_bad_line_of_a_manifest_is_named_and_does_no_harm_to_the_others(tones):
    lines = [
        '{"audio_filepath": "train0.wav", "text": "lo"}',
        "no JSON",
        "[1]",
        '{"text": "lo"}',
        '{"audio_filepath": "train0.wav"}',
        '{"audio_filepath": "absent.wav", "text": "lo"}',
    ]
    (tones / "bad.jsonl").write_text("\n".join(lines))
    utterances = Manifest(train="-", test=str(tones / "bad.jsonl")).open("test", AUDIO).utterances
    assert [one.where.rpartition(":")[2] for one in utterances] == list("123456")
    assert not utterances[0].fault
    for one, part in zip(
        utterances[1:], ("JSON", "JSON", "filepath", "text", "absent"), strict=True
    ):
        assert part in one.fault


def test_features_in_files(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((30, 13)))
    line = {"features_filepath": "a.npy", "text": "yes"}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    corpus = Manifest(train="-", test=str(tmp_path / "m.jsonl")).open("test", Given(size=13))
    assert corpus.utterances[0].seconds == pytest.approx(0.3)
    assert corpus.read(0).shape == (30, 13) and corpus.read(0).dtype == np.float32
    for array, fault in ((np.ones((30, 12)), "12"), (np.full((3, 13), np.nan), "not a number")):
        np.save(tmp_path / "b.npy", array)
        with pytest.raises(UserError, match=fault):
            read_input(tmp_path / "b.npy", Given(size=13))


def test_free_spoken_digits_are_split_by_take_or_by_speaker(tmp_path):
    for digit in (3, 7):
        for speaker in ("ann", "bob"):
            for take in range(10):
                file = tmp_path / f"{digit}_{speaker}_{take}.wav"
                soundfile.write(file, sing(["lo"]), RATE)
    by_take = FreeSpokenDigits(path=str(tmp_path))
    names = {s: [u.where for u in by_take.open(s, AUDIO).utterances] for s in ("train", "test")}
    assert len(names["test"]) == 20 and all(int(name[-5]) < 5 for name in names["test"])
    assert len(names["train"]) == 8
    assert by_take.open("test", AUDIO).utterances[0].text == DIGITS[3]
    by_speaker = FreeSpokenDigits(path=str(tmp_path), test_speaker="ann")
    assert {u.speaker for u in by_speaker.open("test", AUDIO).utterances} == {"ann"}
    for split in ("train", "validation"):
        assert {u.speaker for u in by_speaker.open(split, AUDIO).utterances} == {"bob"}
    with pytest.raises(ConfigError, match="did you mean 'ann'"):
        FreeSpokenDigits(path=str(tmp_path), test_speaker="anne").open("test", AUDIO)


def test_a_folder_like_librispeech(tmp_path):
    chapter = tmp_path / "dev-clean" / "84" / "121"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "84-121-0000.flac", sing(["lo", "hi"]), RATE)
    (chapter / "84-121.trans.txt").write_text("84-121-0000 LO HI\n")
    source = LibriSpeech(path=str(tmp_path))
    corpus = source.open("validation", AUDIO)
    (one,) = corpus.utterances
    assert (one.text, one.speaker, one.seconds) == ("LO HI", "84", pytest.approx(0.7))
    assert len(corpus.read(0)) == pytest.approx(0.7 * RATE)
    with pytest.raises(ConfigError, match="test-clean"):
        source.open("test", AUDIO)


def prepare(folder, audio, examples, stored=None):
    """A data set as TFDS prepares it, with `audio` as its Audio feature's entry in features.json.

    The feature is a Tensor while the data set is being made, since Audio needs TensorFlow.
    """
    stored = stored or tfds.features.Tensor(shape=(None,), dtype=np.dtype(audio["dtype"]))

    class SpeechCommands(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["lo", "hi"])
            features = {"speech": stored, "text": tfds.features.Text(), "label": label}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for word, speech in examples.items():
                yield word, {"speech": speech, "text": f"say {word}", "label": word}

    SpeechCommands(data_dir=folder, file_format="array_record").download_and_prepare()
    path = folder / "speech_commands" / "1.0.0" / "features.json"
    known = json.loads(path.read_text())
    known["featuresDict"]["features"]["speech"] = {
        "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
        "audio": {"shape": {"dimensions": ["-1"]}, "encoding": "NONE"} | audio,
    }
    path.write_text(json.dumps(known))


def pcm(word):
    return np.round(sing([word]) * 32767)


@pytest.mark.parametrize(("feature", "prefix"), [("label", ""), ("text", "say ")])
def test_tfds_with_texts_or_classes(tmp_path, feature, prefix):
    examples = {word: pcm(word).astype(np.int64) for word in ("hi", "lo")}
    prepare(tmp_path, {"dtype": "int64", "sampleRate": str(RATE)}, examples)
    source = SpeechTFDS(name="speech_commands", text=feature, data_dir=str(tmp_path))
    corpus = source.open("train", AUDIO)
    assert {one.text for one in corpus.utterances} == {prefix + word for word in examples}
    for index, one in enumerate(corpus.utterances):
        assert one.seconds == pytest.approx(0.35)
        audio = corpus.read(index)
        assert audio.dtype == np.float32
        np.testing.assert_allclose(audio, sing(one.text.split()[-1:]), atol=1e-4)
    resampled = source.open("train", LogMel(sample_rate=2 * RATE)).read(0)
    assert resampled.dtype == np.float32 and len(resampled) == pytest.approx(2 * 0.35 * RATE)


def test_tfds_with_two_channels(tmp_path):
    both = np.stack([pcm("lo"), np.zeros_like(pcm("lo"))], axis=1).astype(np.int16)
    stored = tfds.features.Tensor(shape=(None, 2), dtype=np.int16)
    audio = {"dtype": "int16", "shape": {"dimensions": ["-1", "2"]}, "sampleRate": str(RATE)}
    prepare(tmp_path, audio, {"lo": both}, stored)
    corpus = SpeechTFDS(name="speech_commands", data_dir=str(tmp_path)).open("train", AUDIO)
    assert corpus.utterances[0].seconds == pytest.approx(0.35)
    np.testing.assert_allclose(corpus.read(0), sing(["lo"]) / 2, atol=1e-4)


def test_tfds_with_sound_files(tmp_path):
    file = io.BytesIO()
    soundfile.write(file, sing(["lo"]), RATE, format="FLAC")
    examples = {"lo": file.getvalue(), "hi": b"no FLAC"}
    audio = {"dtype": "int16", "fileFormat": "flac", "lazyDecode": True}
    prepare(tmp_path, audio, examples, tfds.features.Tensor(shape=(), dtype=np.object_))
    corpus = SpeechTFDS(name="speech_commands", data_dir=str(tmp_path)).open("train", AUDIO)
    at = {one.text: index for index, one in enumerate(corpus.utterances)}
    lo, hi = (corpus.utterances[at[text]] for text in ("say lo", "say hi"))
    assert lo.seconds == pytest.approx(0.35) and not lo.fault and hi.fault
    np.testing.assert_allclose(corpus.read(at["say lo"]), sing(["lo"]), atol=1e-4)


def test_tfds_says_what_it_lacks(tmp_path):
    prepare(tmp_path, {"dtype": "int16"}, {"lo": pcm("lo").astype(np.int16)})
    source = SpeechTFDS(name="speech_commands", data_dir=str(tmp_path))
    for changes, problem in (
        ({}, "sample_rate: TFDS does not tell that of 'speech_commands'"),
        ({"audio": "speach"}, "did you mean 'speech'"),
        ({"audio": "label"}, "audio: 'label' of 'speech_commands' is no audio"),
        ({"name": "librispeech"}, "make dataset NAME=librispeech` prepares it"),
    ):
        with pytest.raises(UserError) as error:
            replace(source, **changes).open("train", AUDIO)
        assert problem in str(error.value)
    told = replace(source, sample_rate=RATE // 2).open("train", AUDIO)
    assert told.utterances[0].seconds == pytest.approx(0.7)
    assert len(told.read(0)) == pytest.approx(0.7 * RATE)


def test_loud_voices_do_not_wrap_around():
    """A sample beyond full scale would jump to the other end of the scale."""
    pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed")
    corpus = SpokenDigits(train_utterances=40).open("train", AUDIO)
    sounds = [corpus.read(index) for index in range(40)]
    assert max(np.abs(sound).max() for sound in sounds) > 0.99
    assert max(np.abs(np.diff(sound)).max() for sound in sounds) < 1.8


def test_spoken_digits_have_voices_of_their_own_in_each_split():
    pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed")
    from research.tasks.speech_recognition.data import _voices
    from research.tasks.speech_recognition.synthesis import Synthesizer

    names = Synthesizer().voices()
    speakers = [
        {name.partition("+")[2] for name in _voices(names, split)}
        for split in ("train", "validation", "test")
    ]
    assert len(set.union(*speakers)) == sum(map(len, speakers)) >= 50
    source = SpokenDigits(train_utterances=8, test_utterances=3)
    corpus = source.open("train", AUDIO)
    assert len(corpus.utterances) == 8 and len(source.open("test", AUDIO).utterances) == 3
    for index, one in enumerate(corpus.utterances):
        assert 1 <= len(one.text.split()) <= 7 and set(one.text.split()) <= set(DIGITS)
        assert len(corpus.read(index)) == pytest.approx(one.seconds * RATE)
        assert 0.01 < np.abs(corpus.read(index)).max() <= 1
