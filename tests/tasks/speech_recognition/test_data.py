import json

import numpy as np
import pytest
import soundfile

from research.errors import ConfigError, UserError
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


def test_tfds_with_texts_or_classes(tmp_path):
    import tensorflow_datasets as tfds

    class Commands(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"audio": tfds.features.Audio(sample_rate=RATE)}
            features["label"] = tfds.features.ClassLabel(names=["lo", "hi"])
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for key, word in enumerate(("hi", "lo")):
                yield key, {"audio": (sing([word]) * 32768).astype(np.int64), "label": word}

    Commands(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = SpeechTFDS(
        name="commands", sample_rate=RATE, audio="audio", text="label", data_dir=str(tmp_path)
    )
    corpus = source.open("train", LogMel(sample_rate=2 * RATE))
    found = {one.text: corpus.read(i) for i, one in enumerate(corpus.utterances)}
    assert set(found) == {"lo", "hi"}
    assert found["lo"].dtype == np.float32 and len(found["lo"]) == pytest.approx(2 * 0.35 * RATE)
    assert np.abs(found["lo"]).max() == pytest.approx(0.3, abs=0.02)


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
