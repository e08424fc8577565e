"""Speech corpora of TensorFlow Datasets."""

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soxr

from research.common.errors import ConfigError
from research.data.audio import read_audio
from research.data.tfds import StoredAudio, TFDSSource
from research.tasks.speech_recognition.data.corpus import Corpus, Features, Utterance, with_length
from research.tasks.speech_recognition.features import Given


@dataclass(frozen=True, kw_only=True)
class SpeechTFDS(TFDSSource):
    """A data set of TensorFlow Datasets with audio and a text or a class, as ArrayRecord."""

    sample_rate: int = 0
    """Of its audio, in Hz; 0: what TFDS tells, which it does of most data sets."""

    audio: str = "speech"
    """The feature that holds the sound: samples of 16 bits, or sound files."""

    text: str = "text"
    """The feature that holds what is said: a text, or a class whose name is taken."""

    def __post_init__(self):
        if self.sample_rate < 0:
            raise ConfigError("sample_rate", f"must not be negative, is {self.sample_rate}")

    def open(self, split: str, features: Features) -> Corpus:
        """The utterances of a split; opening it reads all of them once, for their lengths."""
        if isinstance(features, Given):
            raise ConfigError("type", "SpeechTFDS gives audio; set features to LogMel")
        sound, text = self._checked_features()
        rate = self.sample_rate or sound.sample_rate
        if not rate and not sound.encoded:
            raise ConfigError("sample_rate", f"TFDS does not tell that of '{self.name}'; set it")
        named = text.int2str if hasattr(text, "num_classes") else _as_text
        records = self.records(split)

        def listed(index: int) -> Utterance:
            record = records[index]
            stored = record[self.audio]
            utterance = Utterance(f"{self.name} {split}:{index}", named(record[self.text]))
            if sound.encoded:
                return with_length(utterance, io.BytesIO(stored), features)
            return replace(utterance, seconds=len(stored) / rate)

        def read(index: int) -> np.ndarray:
            stored = records[index][self.audio]
            if sound.encoded:
                return read_audio(stored, features.sample_rate)
            samples = np.atleast_2d(stored.T).mean(axis=0, dtype=np.float32) / 32768
            return soxr.resample(samples, rate, features.sample_rate)

        return Corpus([listed(index) for index in range(len(records))], read)

    def _checked_features(self) -> tuple[StoredAudio, Any]:
        """Returns the TFDS features of the audio and of the text."""
        self.check_features("audio", "text")
        known = self.features()
        if not isinstance(known[self.audio], StoredAudio):
            raise ConfigError("audio", f"'{self.audio}' of '{self.name}' is no audio")
        return known[self.audio], known[self.text]


def _as_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
