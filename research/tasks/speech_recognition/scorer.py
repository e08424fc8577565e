"""Word and character error rates of a split, and figures of its errors."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jiwer
import numpy as np

from research.data.dataset import Dataset, Example
from research.data.tokenizers import Tokenizer
from research.task import Metric, Scorer, percentage

if TYPE_CHECKING:
    from research.reporting.figures import Figure

FeatureExtractor = Callable[[np.ndarray], tuple[np.ndarray, float]]
METRICS = {
    "wer": percentage("word error rate", "lower"),
    "cer": percentage("character error rate", "lower"),
    "accuracy": percentage("sentence accuracy"),
    "loss": Metric("loss", "nats per utterance", better="lower"),
    "unalignable": percentage("too short for their text", "lower"),
}
_MAX_WORST = 10  # utterances in the figure of the worst transcripts


class TranscriptScorer(Scorer):
    """Collects the reference and the hypothesis of each example as text.

    Args:
      tokenizer: decodes token ids.
      extract_features: returns the features [frames, size] of an example's input and the length of
        the input in seconds.
      band_hz: the centre of each feature's frequency band in Hz [size]; None for other features.
    """

    targets = ("tokens", "token_count")

    def __init__(
        self,
        tokenizer: Tokenizer,
        extract_features: FeatureExtractor,
        band_hz: np.ndarray | None = None,
    ):
        self.tokenizer, self.extract_features = tokenizer, extract_features
        self.band_hz = band_hz
        self._indices: list[int] = []
        self._references: list[str] = []
        self._hypotheses: list[str] = []
        self._posteriors: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, targets: Example, predictions: Example) -> None:
        """Adds examples.

        Args:
          targets: `tokens` int [examples, capacity], of which `token_count` [examples] are valid.
          predictions: the same, and the most probable `classes` [examples, frames, k] with their
            `probabilities`, of which `frames` [examples] are valid.
        """
        self._indices += targets["index"].tolist()
        self._references += self._decode(targets["tokens"], targets["token_count"])
        self._hypotheses += self._decode(predictions["tokens"], predictions["token_count"])
        for row, frames in enumerate(predictions["frames"]):
            classes, p = (predictions[name][row, :frames] for name in ("classes", "probabilities"))
            self._posteriors.append((classes.astype(np.int32), p.astype(np.float32)))

    def result(self, dataset: Dataset) -> dict[str, float]:
        """Returns the error rates `wer` and `cer`, and the sentence `accuracy`, as fractions.

        The error rates are errors divided by the length of all references. Insertions count, so
        that rates may exceed 1. If all references are empty, they are the number of insertions.
        """
        pairs = zip(self._references, self._hypotheses, strict=True)
        return {
            "wer": float(jiwer.wer(self._references, self._hypotheses)),
            "cer": float(jiwer.cer(self._references, self._hypotheses)),
            "accuracy": float(
                np.mean([reference == hypothesis for reference, hypothesis in pairs])
            ),
        }

    def figures(self, dataset: Dataset) -> "list[Figure]":
        """Returns figures of the worst transcripts, of frequent errors and of posteriors."""
        from research.reporting.alignments import align, count_edits
        from research.reporting.figures import Figure
        from research.reporting.transcripts import confusions, transcripts
        from research.tasks.speech_recognition.figures import Utterance, spectrogram_and_posterior

        alignments = align(self._references, self._hypotheses)
        errors = list(map(count_edits, alignments))
        order = sorted(range(len(errors)), key=lambda row: (-errors[row], len(alignments[row])))
        lengths = [len(reference.split()) for reference in self._references]
        headings = [
            f"utterance {index}: WER {wrong}/{words}"
            for index, wrong, words in zip(self._indices, errors, lengths, strict=True)
        ]
        total = f"{len(order):,} utterances"
        rows = dict.fromkeys(order[rank] for rank in (0, len(order) // 2, -1))
        utterances = [
            Utterance(headings[row], alignments[row], *self._shown(dataset, row)) for row in rows
        ]
        drawn = spectrogram_and_posterior(utterances, self.tokenizer.tokens, self.band_hz)
        worst = [row for row in order if errors[row]][:_MAX_WORST]
        listed = transcripts([headings[row] for row in worst], [alignments[row] for row in worst])
        wrong = f"{len(worst)} of {np.count_nonzero(errors):,} with errors, of {total}."
        return [
            Figure("Worst transcripts", listed, wrong if worst else f"All {total} are correct."),
            Figure("Word errors", confusions(alignments), f"{sum(errors):,} in {total}."),
            Figure(
                "Spectrogram and posterior",
                drawn,
                f"The worst, the median and the best of {total}. Brighter is louder; the labels "
                "are the tokens of the best path.",
            ),
        ]

    def _shown(
        self, dataset: Dataset, row: int
    ) -> tuple[np.ndarray, np.ndarray, float, np.ndarray | None]:
        """Returns features, log-probabilities [frames, classes], seconds, and the sound if any."""
        example = dataset.example(self._indices[row], np.random.default_rng(0))
        assert example is not None  # it was scored
        features, seconds = self.extract_features(example["input"])
        classes, probabilities = self._posteriors[row]
        posterior = np.zeros((len(classes), 1 + self.tokenizer.size), np.float32)
        np.put_along_axis(posterior, classes, probabilities, axis=1)
        sound = example["input"] if example["input"].ndim == 1 else None
        return features, np.log(np.maximum(posterior, 1e-10)), seconds, sound

    def _decode(self, tokens: np.ndarray, count: np.ndarray) -> list[str]:
        rows = zip(tokens.tolist(), count.tolist(), strict=True)
        return [self.tokenizer.decode(ids[:length]) for ids, length in rows]
