"""Scorers of pronunciations (word and phoneme error rates) and of translations (BLEU, chrF)."""

from collections.abc import Callable, Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.bleu import BLEUScore

from research.data.dataset import Dataset, Example
from research.reporting.alignments import Alignment, align, count_edits
from research.task import Metric, Scorer, percentage
from research.tasks.sequence_to_sequence.data import EncodedPairs, Pair
from research.tasks.sequence_to_sequence.outputs import (
    EOS_SYMBOL,
    MAX_TOKENS,
    Attention,
    Translation,
)

if TYPE_CHECKING:
    from research.reporting.figures import Figure

METRICS = {
    "bleu": Metric("BLEU", scale=100, better="higher"),
    "bleu_lowercased": Metric("BLEU, lowercased", scale=100, better="higher"),
    "chrf": Metric("chrF", scale=100, better="higher"),
    "wer": percentage("word error rate", "lower"),
    "per": percentage("phoneme error rate", "lower"),
    "wer_first": percentage("word error rate, first reference", "lower"),
    "loss": Metric("loss", "nats per token", better="lower"),
    "accuracy": percentage("token accuracy"),
}
_MATRICES = 6  # in the attention figure
_NGRAM = 4  # tokens in a row whose precision BLEU measures
_WRONG = 12  # words in the figure of wrong words
_WORST, _TYPICAL = 8, 4  # translations in their figures


class _Output(NamedTuple):
    """The best hypothesis of an example."""

    text: str
    tokens: list[int]
    source_count: int  # source tokens, EOS included
    attention: np.ndarray  # float16 [tokens, source tokens], each at most `MAX_TOKENS`

    @property
    def is_short(self) -> bool:
        """Whether the figure has room for the whole attention matrix."""
        return max(self.source_count, 1 + len(self.tokens)) <= MAX_TOKENS


class _Word(NamedTuple):
    """A word and its output, aligned to the nearest reference."""

    pair: Pair
    output: _Output
    nearest: Alignment

    @property
    def edits(self) -> int:
        """Number of phoneme errors."""
        return count_edits(self.nearest)

    @property
    def phonemes(self) -> int:
        """Number of phonemes of the nearest reference."""
        return sum(bool(reference) for reference, _ in self.nearest)

    @property
    def is_first(self) -> bool:
        """Whether the output is the first reference."""
        return self.output.text.split() == self.pair.references[0].split()


class _Sentence(NamedTuple):
    """A sentence and its output."""

    pair: Pair
    output: _Output
    chrf: float

    @property
    def is_reference(self) -> bool:
        """Whether the output is one of the references."""
        references = (text.split() for text in self.pair.references)
        return self.output.text.split() in references


Scored = TypeVar("Scored", _Word, _Sentence)


class _OutputScorer(Scorer):
    """Keeps the best hypothesis of each example with its attention weights.

    Args:
      decode: returns the text of output tokens.
      source_tokens: returns the displayed tokens of a source, without EOS.
      target_tokens: returns the displayed form of output tokens.
    """

    targets = ()

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        source_tokens: Callable[[str], list[str]],
        target_tokens: Callable[[Sequence[int]], list[str]],
    ):
        self._decode = decode
        self._source_tokens, self._target_tokens = source_tokens, target_tokens
        self._outputs: dict[int, _Output] = {}  # by index in the dataset

    def update(self, targets: Example, predictions: Example) -> None:
        """Adds the best hypothesis of each example.

        Args:
          targets: `index`, int [examples].
          predictions: `tokens` int [examples, n_best, max_length] and their `count` [examples,
            n_best], the best first; `attention` [examples, max_length, source_length] and the
            number of its valid columns, `source_count` [examples].
        """
        tokens, counts = (predictions[name][:, 0].tolist() for name in ("tokens", "count"))
        sources, attention = predictions["source_count"].tolist(), predictions["attention"]
        rows = zip(targets["index"].tolist(), tokens, counts, sources, attention, strict=True)
        for index, row, count, columns, weights in rows:
            # One row more than tokens: that of EOS, unless the output has the maximum length.
            shown = weights[: min(count + 1, MAX_TOKENS), : min(columns, MAX_TOKENS)]
            # A copy: a view would keep the whole array in memory.
            output = _Output(self._decode(row[:count]), row[:count], columns, shown.copy())
            self._outputs[index] = output

    def _scored(self, dataset: Dataset) -> list[tuple[Pair, _Output]]:
        """Returns pairs and outputs in the order of the dataset."""
        assert isinstance(dataset, EncodedPairs)
        return [(dataset.pairs[index], output) for index, output in sorted(self._outputs.items())]

    def _attention(self, pair: Pair, output: _Output, verdict: str, correct: bool) -> Attention:
        heading = pair.source
        if not output.is_short:
            heading = f"The first {MAX_TOKENS} tokens of: {heading}"
        columns = [*self._source_tokens(pair.source)[: output.source_count - 1], EOS_SYMBOL]
        rows = [*self._target_tokens(output.tokens), EOS_SYMBOL]
        height, width = output.attention.shape
        return Attention(
            *(heading, output.text, verdict, correct),
            *(columns[:width], rows[:height], output.attention),
        )


class PronunciationScorer(_OutputScorer):
    """Word and phoneme error rates; every reference is correct."""

    def result(self, dataset: Dataset) -> dict[str, float]:
        """Returns `wer`, `per` and `wer_first` as fractions.

        `wer` is the fraction of words that match no reference, `wer_first` of those that differ
        from the first reference, as in most published results. `per` is the number of edits to the
        nearest references, divided by their phonemes; insertions may raise it above 1.
        """
        words = self._words(dataset)
        return {
            "wer": float(np.mean([word.edits > 0 for word in words])),
            "per": sum(word.edits for word in words) / sum(word.phonemes for word in words),
            "wer_first": float(np.mean([not word.is_first for word in words])),
        }

    def figures(self, dataset: Dataset) -> "list[Figure]":
        """Returns some wrong words, the most frequent phoneme errors, and attention matrices."""
        from research.reporting.figures import Figure
        from research.reporting.transcripts import confusions, transcripts

        words = self._words(dataset)
        right = [word for word in words if not word.edits]
        wrong = [word for word in words if word.edits]
        chosen = _spread(wrong, _WRONG)
        listed = transcripts(list(map(_heading, chosen)), [word.nearest for word in chosen])
        caption = f"{len(chosen)} of {len(wrong):,} among {len(words):,}."
        if not wrong:
            caption = f"All {len(words):,} words are correct."
        frequent = confusions([word.nearest for word in words])
        edits = f"{sum(word.edits for word in words):,} in {len(words):,} words."
        return [
            Figure("Wrong words", listed, caption),
            Figure("Phoneme errors", frequent, edits),
            self._matrices(right, wrong),
        ]

    def _words(self, dataset: Dataset) -> list[_Word]:
        scored = self._scored(dataset)
        references = [reference for pair, _ in scored for reference in pair.references]
        hypotheses = [output.text for pair, output in scored for _ in pair.references]
        alignments = iter(align(references, hypotheses))
        return [
            _Word(pair, output, min(islice(alignments, len(pair.references)), key=count_edits))
            for pair, output in scored
        ]

    def _matrices(self, right: Sequence[_Word], wrong: Sequence[_Word]) -> "Figure":
        """Returns attention matrices, half of them of wrong words if there are any."""
        from research.reporting.figures import Figure
        from research.tasks.sequence_to_sequence.figures import attention_matrices

        some_right = _spread(_short(right), max(_MATRICES // 2, _MATRICES - len(wrong)))
        some_wrong = _spread(_short(wrong), _MATRICES - len(some_right))
        shown = [self._attention(word.pair, word.output, "correct", True) for word in some_right]
        for word in some_wrong:
            nearest = " ".join(reference for reference, _ in word.nearest if reference)
            verdict = f"wrong, reference: {nearest}"
            shown.append(self._attention(word.pair, word.output, verdict, False))
        caption = (
            f"{len(some_right)} of {len(right):,} correct words"
            f" and {len(some_wrong)} of {len(wrong):,} wrong ones."
        )
        return Figure("Attention", attention_matrices(shown), caption)


class TranslationScorer(_OutputScorer):
    """BLEU and chrF, computed by sacrebleu."""

    _signatures: tuple[str, ...] = ()  # of the last result
    _has_ngrams = True  # whether an output has as many tokens as the longest n-grams of BLEU

    def result(self, dataset: Dataset) -> dict[str, float]:
        """Returns `bleu`, `bleu_lowercased` and `chrf` as fractions.

        BLEU is of detokenised text, tokenised like mteval-v13a (Post 2018,
        https://aclanthology.org/W18-6319), and 0 if no translation has four tokens.
        `bleu_lowercased` compares with results that were published for lowercased, tokenised text.
        chrF is that of Popović 2015.
        """
        pairs, outputs = zip(*self._scored(dataset), strict=True)
        hypotheses = [output.text for output in outputs]
        # All first references, all second ones, and so on; None where a sentence has fewer.
        references = list(zip_longest(*(pair.references for pair in pairs)))
        scores, signatures = {}, []
        metrics = {
            "bleu": BLEU(tokenize="13a"),
            "bleu_lowercased": BLEU(tokenize="13a", lowercase=True),
            "chrf": CHRF(),
        }
        for name, metric in metrics.items():
            score = metric.corpus_score(hypotheses, references)
            signatures.append(score.format(signature=str(metric.get_signature())))
            scores[name] = score.score / 100
            if isinstance(score, BLEUScore):
                self._has_ngrams = score.totals[-1] > 0
        self._signatures = tuple(signatures)
        return scores

    def notes(self) -> list[str]:
        """Explains a BLEU of 0 for texts that are too short for it; after `result`."""
        if self._has_ngrams:
            return []
        return [
            f"BLEU is 0 because no output has {_NGRAM} tokens: it is the geometric mean of the "
            f"precision of 1 to {_NGRAM} consecutive tokens. chrF measures such short texts."
        ]

    def signatures(self) -> list[str]:
        """Returns each score as sacrebleu prints it, with its signature; after `result`."""
        return list(self._signatures)

    def figures(self, dataset: Dataset) -> "list[Figure]":
        """Returns the worst translations, some typical ones, and attention matrices."""
        from research.reporting.figures import Figure
        from research.tasks.sequence_to_sequence.figures import attention_matrices, translations

        sentences = self._sentences(dataset)
        total = f"{len(sentences):,}"
        order = sorted(sentences, key=lambda sentence: sentence.chrf)
        worst = [one for one in order if not one.is_reference][:_WORST]
        caption = (
            f"{len(worst)} of {total} by chrF; differences from the nearest reference are marked."
        )
        if not worst:
            caption = f"All {total} translations equal a reference."
        figures = [Figure("Worst translations", translations(map(_translation, worst)), caption)]
        middle = len(order) // 2 - _TYPICAL // 2
        if typical := order[max(middle, len(worst)) : middle + _TYPICAL]:
            median = np.median([one.chrf for one in sentences])
            listed = translations(map(_translation, typical))
            caption = f"{len(typical)} of {total}, around the median chrF of {100 * median:.1f}."
            figures.append(Figure("Typical translations", listed, caption))
        first = _short(sentences)[:_MATRICES]
        matrices = [self._attention(one.pair, one.output, "", True) for one in first]
        caption = f"{len(first)} of {total} sentences."
        return [*figures, Figure("Attention", attention_matrices(matrices), caption)]

    def _sentences(self, dataset: Dataset) -> list[_Sentence]:
        metric = CHRF()
        return [
            _Sentence(pair, out, metric.sentence_score(out.text, pair.references).score / 100)
            for pair, out in self._scored(dataset)
        ]


def _short(scored: Sequence[Scored]) -> list[Scored]:
    """Returns those whose whole attention matrix fits the figure; all if there are none."""
    return [one for one in scored if one.output.is_short] or list(scored)


def _spread(scored: Sequence[Scored], count: int) -> list[Scored]:
    """Returns at most `count`, evenly spaced: neighbours in a dictionary resemble each other."""
    positions = np.linspace(0, len(scored) - 1, min(count, len(scored)))
    return [scored[position] for position in positions.round().astype(int)]


def _heading(word: _Word) -> str:
    heading = f"{word.pair.source}: PER {word.edits}/{word.phonemes}"
    if (count := len(word.pair.references)) > 1:
        heading += f", to the nearest of {count} pronunciations"
    return heading


def _translation(sentence: _Sentence) -> Translation:
    pair, output, chrf = sentence
    return Translation(
        f"{pair.origin}: chrF {100 * chrf:.1f}", pair.source, pair.references, output.text
    )
