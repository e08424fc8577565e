"""Datasets of speech examples, as the input pipeline reads them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from research.common.errors import UserError
from research.data.dataset import Dataset, Example
from research.tasks.speech_recognition.data.corpus import Corpus

if TYPE_CHECKING:
    from research.tasks.speech_recognition.task import SpeechRecognition

SILENCE = 1e-4  # peak amplitude of audio without speech, 3 quantisation steps of 16 bits


class TranscribedUtterances(Dataset):
    """The utterances of a corpus with their tokens; unusable ones are skipped and logged."""

    lengths: np.ndarray

    def __init__(self, task: "SpeechRecognition", corpus: Corpus):
        super().__init__()
        self.task, self.corpus = task, corpus
        self.lengths = task.input_lengths([one.seconds for one in corpus.utterances])
        self.buckets = task.buckets_for(self.lengths)

    def __len__(self) -> int:
        return len(self.corpus.utterances)

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        utterance = self.corpus.utterances[index]
        try:
            if utterance.problem:
                raise UserError(utterance.problem)
            array = self.corpus.read(index)
            tokens = self.task.tokenizer.encode(self.task.normalize_text(utterance.text))
            self._check(index, array, tokens)
        except UserError as error:
            self.skip(index, f"{utterance.origin}: {error}")
            return None
        return {
            "input": array,
            "length": np.array(len(array), np.int32),
            "tokens": np.array(tokens, np.int32),
            "token_count": np.array(len(tokens), np.int32),
        }

    def _check(self, index: int, array: np.ndarray, tokens: list[int]) -> None:
        """Raises UserError if an utterance is silent, or its length, frames and tokens conflict."""
        bucket = self.buckets[np.searchsorted(self.buckets, self.lengths[index])]
        rate = self.task.features.rate
        if len(array) > bucket:
            declared, actual = self.lengths[index] / rate, len(array) / rate
            problem = f"invalid header: {declared:.2f} s, but the file contains {actual:.2f} s"
            raise UserError(f"{problem}; convert the file")
        if array.ndim == 1 and tokens and np.abs(array).max() < SILENCE:
            raise UserError(f"silent audio, but its transcript has {len(tokens)} tokens")
        frames = self.task.model.num_frames(self.task.features.num_frames(len(array)))
        repeats = sum(a == b for a, b in pairwise(tokens))
        if len(tokens) + repeats > frames:
            raise UserError(f"too few frames, {frames}, for {len(tokens)} tokens")
        if len(tokens) > self.task.token_capacity(int(bucket)):
            raise UserError(f"too many tokens, {len(tokens)}; raise config.task.tokens_per_second")


class Segments(Dataset):
    """Consecutive segments of one recording, without transcripts.

    Args:
      task: defines the lengths that examples are padded to.
      seconds: duration of each segment.
      read: returns a segment by index, as audio [samples] or features [frames, size].
    """

    lengths: np.ndarray

    def __init__(
        self, task: "SpeechRecognition", seconds: Sequence[float], read: Callable[[int], np.ndarray]
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
