"""The score of a recogniser over a split, and pictures of what it hears and where it errs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jiwer
import numpy as np

from research.data.dataset import Dataset, Example
from research.data.tokenizers import Tokenizer
from research.task import Scorer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FeatureExtractor = Callable[[np.ndarray], tuple[np.ndarray, float]]
_WORST = 10  # utterances in the picture of the worst


class TranscriptScorer(Scorer):
    """Keeps the reference and the hypothesis of each example as text.

    `extract_features(input)` returns the features [frames, size] of an example's input, and
    its length in seconds.
    """

    targets = ("tokens", "token_count")

    def __init__(self, tokenizer: Tokenizer, extract_features: FeatureExtractor):
        self.tokenizer, self.extract_features = tokenizer, extract_features
        self._indices: list[int] = []
        self._references: list[str] = []
        self._hypotheses: list[str] = []
        self._posteriors: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, targets: Example, predictions: Example) -> None:
        """Takes ids int [examples, capacity] and their counts int [examples] of both.

        Of the predictions also the likeliest `classes` int [examples, frames, likeliest] and their
        `probabilities`, of which `frames` [examples] are valid.
        """
        self._indices += targets["index"].tolist()
        self._references += self._decode(targets["tokens"], targets["token_count"])
        self._hypotheses += self._decode(predictions["tokens"], predictions["count"])
        for row, frames in enumerate(predictions["frames"]):
            classes, p = (predictions[name][row, :frames] for name in ("classes", "probabilities"))
            self._posteriors.append((classes.astype(np.int32), p.astype(np.float32)))

    def result(self, dataset: Dataset) -> dict[str, float]:
        """`wer` and `cer`, errors over the length of all references, and `accuracy`, as fractions.

        Insertions count as errors, so that the first two may exceed 1. Where all references are
        empty, there is no length to divide by, and they are the number of insertions.
        """
        pairs = zip(self._references, self._hypotheses, strict=True)
        return {
            "wer": float(jiwer.wer(self._references, self._hypotheses)),
            "cer": float(jiwer.cer(self._references, self._hypotheses)),
            "accuracy": float(np.mean([said == heard for said, heard in pairs])),
        }

    def figures(self, dataset: Dataset) -> "dict[str, Figure]":
        """Some utterances with their posterior, the worst transcripts, the most frequent errors."""
        from research.reporting.alignments import align, confusions, count_edits, transcripts
        from research.tasks.speech_recognition.figures import Utterance, spectrogram_and_posterior

        alignments = align(self._references, self._hypotheses)
        errors = list(map(count_edits, alignments))
        order = sorted(range(len(errors)), key=lambda row: (-errors[row], len(alignments[row])))
        spoken = [len(reference.split()) for reference in self._references]
        headings = [
            f"utterance {index}: WER {wrong}/{words}"
            for index, wrong, words in zip(self._indices, errors, spoken, strict=True)
        ]
        total = f"{len(order):,} utterances"
        rows = dict.fromkeys(order[place] for place in (0, len(order) // 2, -1))
        utterances = [
            Utterance(headings[row], alignments[row], *self._pictured(dataset, row)) for row in rows
        ]
        title = f"Spectrogram and posterior, from the worst to the best of {total}"
        figures = {title: spectrogram_and_posterior(utterances, self.tokenizer.tokens)}
        if worst := [row for row in order if errors[row]][:_WORST]:
            title = f"The {len(worst)} worst of {total}, {np.count_nonzero(errors):,} with errors"
            shown = [headings[row] for row in worst], [alignments[row] for row in worst]
        else:
            title, shown = f"No errors in {total}", ([f"All {total} are right."], [[]])
        figures[title] = transcripts(*shown)
        figures[f"The most frequent of {sum(errors):,} word errors"] = confusions(alignments)
        return figures

    def _pictured(self, dataset: Dataset, row: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Features [frames, bands], log-probabilities [frames, classes], and the seconds."""
        example = dataset.example(self._indices[row], np.random.default_rng(0))
        assert example is not None  # it was scored
        features, seconds = self.extract_features(example["input"])
        classes, probabilities = self._posteriors[row]
        posterior = np.zeros((len(classes), 1 + self.tokenizer.size), np.float32)
        np.put_along_axis(posterior, classes, probabilities, axis=1)
        return features, np.log(np.maximum(posterior, 1e-10)), seconds

    def _decode(self, tokens: np.ndarray, count: np.ndarray) -> list[str]:
        rows = zip(tokens.tolist(), count.tolist(), strict=True)
        return [self.tokenizer.decode(ids[:length]) for ids, length in rows]
