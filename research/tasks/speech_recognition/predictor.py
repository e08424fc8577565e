"""Transcribes sound files and files of precomputed features."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from research.common.errors import UserError
from research.data.audio import Recording, blocks
from research.data.dataset import Dataset
from research.predictor import Predictor
from research.task import Tree
from research.tasks.speech_recognition.data import Segments, read_input
from research.tasks.speech_recognition.data.examples import SILENCE
from research.tasks.speech_recognition.features import LogMel, PrecomputedFeatures
from research.tasks.speech_recognition.streaming import Token, Word, group_words, stream_tokens
from research.tasks.speech_recognition.task import SpeechRecognition

_BLOCK_SECONDS = 1.0  # of audio that a stream processes at once


class SpeechRecognitionPredictor(Predictor):
    """Predicts the transcript of a recording, with the start and end time of each word."""

    def __init__(self, task: SpeechRecognition):
        self.task = task

    def preprocess(self, item: str) -> Dataset:
        """Loads a sound file of any length as segments, or a `.npy` file of features.

        Raises:
          UserError: the file cannot be read, or is silent.
        """
        path, features = Path(item), self.task.features
        if isinstance(features, PrecomputedFeatures):
            array = read_input(path, features)
            return Segments(self.task, [len(array) / features.rate], lambda _: array)
        recording = Recording(path, features.sample_rate, self.task.bucket_seconds[-1])
        if recording.power < SILENCE**2:
            raise UserError(f"silent recording {path}; check the file")
        seconds = [end - start for start, end in recording.segments]
        return Segments(self.task, seconds, recording.read)

    def postprocess(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Returns `text`, its length in `seconds`, and `words` with their times in seconds."""
        words, offset = [], 0.0
        for segment in predictions:
            arrays = (segment[name].tolist() for name in ("tokens", "first_frame", "last_frame"))
            tokens = islice(map(Token, *arrays), int(segment["token_count"]))
            for word in group_words(tokens, self.task.tokenizer, self._frame_seconds):
                words.append(Word(word.text, offset + word.start, offset + word.end))
            offset += float(segment["seconds"])
        text = " ".join(word.text for word in words)
        return {"text": text, "seconds": offset, "words": [_row(word) for word in words]}

    def stream(self, params: Tree, variables: Tree, path: Path) -> Iterator[dict[str, Any]]:
        """Yields the words of a sound file with their times in seconds, each once it is complete.

        Raises:
          UserError: the file cannot be read, or the run's model, features or decoding need the
            whole utterance.
        """
        features = self._streamable_features()
        audio = blocks(path, features.sample_rate, _BLOCK_SECONDS)
        chunk = max(1, round(_BLOCK_SECONDS / self._frame_seconds))
        tokens = stream_tokens(audio, features, self.task.network, params, chunk)
        return map(_row, group_words(tokens, self.task.tokenizer, self._frame_seconds))

    def _streamable_features(self) -> LogMel:
        """The features; raises UserError if a part of the task needs the whole utterance."""
        task = self.task
        if task.model.bidirectional:
            raise UserError(
                "cannot stream: the model's LSTMs are bidirectional; leave --stream out"
            )
        if isinstance(task.features, PrecomputedFeatures) or task.features.normalize != "fixed":
            raise UserError(
                "cannot stream: the features depend on the whole utterance; leave --stream out"
            )
        if task.decoding.beam_size > 1 or task.decoding.language_model:
            raise UserError(
                "cannot stream with beam search; add --change=task.decoding.beam_size=1"
                " --change=task.decoding.language_model="
            )
        return task.features

    @property
    def _frame_seconds(self) -> float:
        """Time from one output frame to the next."""
        return self.task.model.stride * self.task.features.frame_ms / 1000


def _row(word: Word) -> dict[str, Any]:
    """The JSON form of a word; times are rounded to milliseconds."""
    return {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
