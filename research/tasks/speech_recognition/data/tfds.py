"""Speech corpora of TensorFlow Datasets."""

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soxr

from research.common.errors import ConfigError
from research.data.audio import read_audio
from research.data.tfds import StoredAudio, TFDSSource
from research.tasks.speech_recognition.data.corpus import Corpus, Features, Utterance, with_duration
from research.tasks.speech_recognition.features import PrecomputedFeatures


@dataclass(frozen=True, kw_only=True)
class SpeechTFDS(TFDSSource):
    """A data set of TensorFlow Datasets with audio and transcripts, prepared as ArrayRecord."""

    sample_rate: int = 0
    """Sample rate of the audio in Hz; 0: the one that TFDS declares, as for most data sets."""

    audio: str = "speech"
    """Feature with the audio: 16-bit samples, or sound files."""

    text: str = "text"
    """Feature with the transcript: a text, or a class whose name is the transcript."""

    def __post_init__(self):
        if self.sample_rate < 0:
            problem = f"invalid rate {self.sample_rate}: expected a rate in Hz, or 0"
            raise ConfigError("sample_rate", problem)

    def open(self, split: str, features: Features) -> Corpus:
        """Opens the utterances of a split, and reads all of them for their durations."""
        if isinstance(features, PrecomputedFeatures):
            raise ConfigError("type", "invalid features: SpeechTFDS contains audio; use LogMel")
        audio, text = self._checked_features()
        rate = self.sample_rate or audio.sample_rate
        if not rate and not audio.encoded:
            problem = f"missing: TFDS does not declare the rate of '{self.name}'"
            raise ConfigError("sample_rate", problem)
        transcript_of = text.int2str if hasattr(text, "num_classes") else _as_text
        records = self.records(split)

        def utterance(index: int) -> Utterance:
            record = records[index]
            stored = record[self.audio]
            found = Utterance(f"{self.name} {split}:{index}", transcript_of(record[self.text]))
            if audio.encoded:
                return with_duration(found, io.BytesIO(stored), features)
            return replace(found, seconds=len(stored) / rate)

        def read(index: int) -> np.ndarray:
            stored = records[index][self.audio]
            if audio.encoded:
                return read_audio(stored, features.sample_rate)
            samples = np.atleast_2d(stored.T).mean(axis=0, dtype=np.float32) / 32768
            return soxr.resample(samples, rate, features.sample_rate)

        return Corpus([utterance(index) for index in range(len(records))], read)

    def _checked_features(self) -> tuple[StoredAudio, Any]:
        """Returns the TFDS features of the audio and of the text."""
        self.check_features("audio", "text")
        known = self.features()
        if not isinstance(known[self.audio], StoredAudio):
            problem = f"invalid feature '{self.audio}' of '{self.name}': expected audio"
            raise ConfigError("audio", problem)
        return known[self.audio], known[self.text]


def _as_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
