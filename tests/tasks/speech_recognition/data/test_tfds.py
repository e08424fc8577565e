import io
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from research.common.errors import UserError
from research.tasks.speech_recognition.data import SpeechTFDS
from research.tasks.speech_recognition.features import LogMel
from tests.tasks.speech_recognition.conftest import RATE, synthesize

AUDIO = LogMel(sample_rate=RATE, num_mel_bins=20)


def prepare(folder, audio, examples, stored=None):
    """Prepares a TFDS data set whose features.json declares `audio` for its Audio feature.

    The feature is a Tensor during preparation, because Audio needs TensorFlow.
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
    return np.round(synthesize([word]) * 32767)


@pytest.mark.parametrize(("feature", "prefix"), [("label", ""), ("text", "say ")])
def test_texts_or_classes_are_transcripts(tmp_path, feature, prefix):
    examples = {word: pcm(word).astype(np.int64) for word in ("hi", "lo")}
    prepare(tmp_path, {"dtype": "int64", "sampleRate": str(RATE)}, examples)
    source = SpeechTFDS(name="speech_commands", text=feature, data_dir=str(tmp_path))
    corpus = source.open("train", AUDIO)
    assert {one.text for one in corpus.utterances} == {prefix + word for word in examples}
    for index, one in enumerate(corpus.utterances):
        assert one.seconds == pytest.approx(0.35)
        audio = corpus.read(index)
        assert audio.dtype == np.float32
        np.testing.assert_allclose(audio, synthesize(one.text.split()[-1:]), atol=1e-4)
    resampled = source.open("train", LogMel(sample_rate=2 * RATE)).read(0)
    assert resampled.dtype == np.float32 and len(resampled) == pytest.approx(2 * 0.35 * RATE)


def test_channels_are_averaged(tmp_path):
    both = np.stack([pcm("lo"), np.zeros_like(pcm("lo"))], axis=1).astype(np.int16)
    stored = tfds.features.Tensor(shape=(None, 2), dtype=np.int16)
    audio = {"dtype": "int16", "shape": {"dimensions": ["-1", "2"]}, "sampleRate": str(RATE)}
    prepare(tmp_path, audio, {"lo": both}, stored)
    corpus = SpeechTFDS(name="speech_commands", data_dir=str(tmp_path)).open("train", AUDIO)
    assert corpus.utterances[0].seconds == pytest.approx(0.35)
    np.testing.assert_allclose(corpus.read(0), synthesize(["lo"]) / 2, atol=1e-4)


def test_sound_files_are_decoded(tmp_path):
    file = io.BytesIO()
    soundfile.write(file, synthesize(["lo"]), RATE, format="FLAC")
    examples = {"lo": file.getvalue(), "hi": b"not FLAC"}
    audio = {"dtype": "int16", "fileFormat": "flac", "lazyDecode": True}
    prepare(tmp_path, audio, examples, tfds.features.Tensor(shape=(), dtype=np.object_))
    corpus = SpeechTFDS(name="speech_commands", data_dir=str(tmp_path)).open("train", AUDIO)
    at = {one.text: index for index, one in enumerate(corpus.utterances)}
    lo, hi = (corpus.utterances[at[text]] for text in ("say lo", "say hi"))
    assert lo.seconds == pytest.approx(0.35) and not lo.problem and hi.problem
    np.testing.assert_allclose(corpus.read(at["say lo"]), synthesize(["lo"]), atol=1e-4)


def test_errors_name_what_is_missing(tmp_path):
    prepare(tmp_path, {"dtype": "int16"}, {"lo": pcm("lo").astype(np.int16)})
    source = SpeechTFDS(name="speech_commands", data_dir=str(tmp_path))
    for changes, problem in (
        ({}, "sample_rate: missing: TFDS does not declare the rate of 'speech_commands'"),
        ({"audio": "speach"}, "did you mean 'speech'"),
        ({"audio": "label"}, "audio: invalid feature 'label' of 'speech_commands': expected audio"),
        ({"name": "librispeech"}, "make dataset NAME=librispeech` prepares it"),
    ):
        with pytest.raises(UserError) as error:
            replace(source, **changes).open("train", AUDIO)
        assert problem in str(error.value)
    corpus = replace(source, sample_rate=RATE // 2).open("train", AUDIO)
    assert corpus.utterances[0].seconds == pytest.approx(0.7)
    assert len(corpus.read(0)) == pytest.approx(0.7 * RATE)
