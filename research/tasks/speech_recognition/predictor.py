"""Transcribes sound files and files of precomputed features."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from research.common.errors import UserError
from research.data.audio import Recording, blocks
from research.data.dataset import Dataset, Example
from research.predictor import Predictor
from research.task import Tree
from research.tasks.speech_recognition.data import read_input
from research.tasks.speech_recognition.features import Given, LogMel
from research.tasks.speech_recognition.streaming import Token, Word, stream, words
from research.tasks.speech_recognition.task import SILENCE, SpeechRecognition

_BLOCK_SECONDS = 1.0  # of audio that a stream processes at once


class SpeechRecognitionPredictor(Predictor):
    """Transcripts with the start and end time of each word."""

    def __init__(self, task: SpeechRecognition):
        self.task = task

    def preprocess(self, item: str) -> Dataset:
        """Loads a sound file of any length as segments, or a `.npy` file of features.

        Raises:
          UserError: the file cannot be read, or is silent.
        """
        path, features = Path(item), self.task.features
        if isinstance(features, Given):
            array = read_input(path, features)
            return _Segments(self.task, [len(array) / features.rate], lambda _: array)
        recording = Recording(path, features.sample_rate, self.task.bucket_seconds[-1])
        if recording.power < SILENCE**2:
            raise UserError(f"{path}: is silent; check the recording")
        seconds = [end - start for start, end in recording.segments]
        return _Segments(self.task, seconds, recording.read)

    def postprocess(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Returns `text`, its length in `seconds`, and `words` with their times in seconds."""
        found, offset = [], 0.0
        for segment in predictions:
            arrays = (segment[name].tolist() for name in ("tokens", "first", "last"))
            tokens = islice(map(Token, *arrays), int(segment["count"]))
            for word in words(tokens, self.task.tokenizer, self._frame_seconds):
                found.append(Word(word.text, offset + word.start, offset + word.end))
            offset += float(segment["seconds"])
        text = " ".join(word.text for word in found)
        return {"text": text, "seconds": offset, "words": [_row(word) for word in found]}

    def stream(self, params: Tree, variables: Tree, path: Path) -> Iterator[dict[str, Any]]:
        """Yields the words of a sound file with their times in seconds, each once it is complete.

        Raises:
          UserError: the file cannot be read, or the run's model, features or decoding need the
            whole utterance.
        """
        features = self._streamable_features()
        audio = blocks(path, features.sample_rate, _BLOCK_SECONDS)
        chunk = max(1, round(_BLOCK_SECONDS / self._frame_seconds))
        tokens = stream(audio, features, self.task.network, params, chunk)
        return map(_row, words(tokens, self.task.tokenizer, self._frame_seconds))

    def _streamable_features(self) -> LogMel:
        """The features; raises UserError if a part of the task needs the whole utterance."""
        task = self.task
        if task.model.bidirectional:
            raise UserError("this run's LSTMs are bidirectional; leave --stream out")
        if isinstance(task.features, Given) or task.features.normalize != "fixed":
            raise UserError("this run's features need the whole utterance; leave --stream out")
        if task.decoding.beam > 1 or task.decoding.language_model:
            raise UserError(
                "a stream is decoded greedily; add --change=task.decoding.beam=1"
                " --change=task.decoding.language_model="
            )
        return task.features

    @property
    def _frame_seconds(self) -> float:
        """Time from one output frame to the next."""
        return self.task.model.stride * self.task.features.frame_ms / 1000


class _Segments(Dataset):
    """Consecutive segments of one input, without transcripts."""

    lengths: np.ndarray

    def __init__(
        self, task: SpeechRecognition, seconds: Sequence[float], read: Callable[[int], np.ndarray]
    ):
        super().__init__()
        self.lengths = np.array(task.input_lengths(seconds))
        self.buckets = task.buckets_for(self.lengths)
        self._read = read

    def __len__(self) -> int:
        return len(self.lengths)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        array = self._read(index)[: self.lengths[index]]
        return {"input": array, "length": np.array(len(array), np.int32)}


def _row(word: Word) -> dict[str, Any]:
    """The JSON form of a word; times are rounded to milliseconds."""
    return {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
