"""The scores of outputs over a split, and pictures of how they were written and where they err."""

import logging
from collections.abc import Callable, Sequence
from itertools import islice, zip_longest
from typing import NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure
from sacrebleu.metrics import BLEU, CHRF

from research.data.dataset import Dataset, Example
from research.reporting.alignments import Alignment, align, confusions, count_edits, transcripts
from research.task import Scorer
from research.tasks.sequence_to_sequence.data import Pair
from research.tasks.sequence_to_sequence.figures import (
    END_SIGN,
    LONGEST,
    Attention,
    Translation,
    attention_matrices,
    translations,
)
from research.tasks.sequence_to_sequence.pairs import EncodedPairs

log = logging.getLogger(__name__)
_MATRICES = 6  # in the picture of attention
_WRONG = 12  # words in the picture of the wrong ones
_WORST, _TYPICAL = 8, 4  # translations in their pictures


class _Output(NamedTuple):
    """The best hypothesis of an example."""

    text: str
    tokens: list[int]
    source_count: int  # tokens that were read, their end counted
    attention: np.ndarray  # float16 [written, read], of each `LONGEST` at most

    @property
    def is_short(self) -> bool:
        """Whether all of its attention can be shown."""
        return max(self.source_count, 1 + len(self.tokens)) <= LONGEST


class _Word(NamedTuple):
    """A word with what it became, aligned to the reference that is nearest to it."""

    pair: Pair
    output: _Output
    nearest: Alignment

    @property
    def edits(self) -> int:
        """The phonemes that are wrong."""
        return count_edits(self.nearest)

    @property
    def phonemes(self) -> int:
        """The phonemes of the reference."""
        return sum(bool(reference) for reference, _ in self.nearest)

    @property
    def is_first(self) -> bool:
        """Whether it is the first reference."""
        return self.output.text.split() == self.pair.references[0].split()


class _Sentence(NamedTuple):
    """A sentence with what it became."""

    pair: Pair
    output: _Output
    chrf: float

    @property
    def is_reference(self) -> bool:
        """Whether it is one of the references."""
        written = (text.split() for text in self.pair.references)
        return self.output.text.split() in written


Scored = TypeVar("Scored", _Word, _Sentence)


class _OutputScorer(Scorer):
    """Keeps the best hypothesis of each example, and what was looked at while it was written.

    Args:
      decode: the text of an output's tokens.
      source_tokens: the tokens of a source as people read them, without its end.
      target_tokens: an output's tokens as people read them.
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
        self._outputs: dict[int, _Output] = {}  # by place in the dataset

    def update(self, targets: Example, predictions: Example) -> None:
        """Takes hypotheses, the best first, and the attention of the best.

        `tokens` are int [examples, n_best, capacity], their `count` [examples, n_best]; `attention`
        is [examples, capacity, source_capacity], `source_count` [examples] its valid columns.
        """
        tokens, counts = (predictions[name][:, 0].tolist() for name in ("tokens", "count"))
        read, attention = predictions["source_count"].tolist(), predictions["attention"]
        rows = zip(targets["index"].tolist(), tokens, counts, read, attention, strict=True)
        for index, row, count, columns, weights in rows:
            # One row more than tokens is that of the end, if there was room to write it.
            shown = weights[: min(count + 1, LONGEST), : min(columns, LONGEST)]
            # A copy: what is shown of an array would keep the whole of it in memory.
            output = _Output(self._decode(row[:count]), row[:count], columns, shown.copy())
            self._outputs[index] = output

    def _scored(self, dataset: Dataset) -> list[tuple[Pair, _Output]]:
        """What was to be written and what was, in the order of the dataset."""
        assert isinstance(dataset, EncodedPairs)
        return [(dataset.pairs[index], output) for index, output in sorted(self._outputs.items())]

    def _attention(self, pair: Pair, output: _Output, verdict: str, right: bool) -> Attention:
        heading = pair.source
        if not output.is_short:
            heading = f"The first {LONGEST} tokens of: {heading}"
        columns = [*self._source_tokens(pair.source)[: output.source_count - 1], END_SIGN]
        rows = [*self._target_tokens(output.tokens), END_SIGN]
        written, read = output.attention.shape
        return Attention(
            heading, output.text, verdict, right, columns[:read], rows[:written], output.attention
        )


class PronunciationScorer(_OutputScorer):
    """The errors in words and phonemes, which spaces separate; each reference is right."""

    def result(self, dataset: Dataset) -> dict[str, float]:
        """`wer`, `per` and `wer_first`, as fractions.

        `wer` is the part of the words that are none of their references, `wer_first` the part that
        are not the first of them: published figures are as strict. `per` is the edits to the
        nearest reference over the phonemes of these; insertions count, so that it may exceed 1.
        """
        words = self._words(dataset)
        return {
            "wer": float(np.mean([word.edits > 0 for word in words])),
            "per": sum(word.edits for word in words) / sum(word.phonemes for word in words),
            "wer_first": float(np.mean([not word.is_first for word in words])),
        }

    def figures(self, dataset: Dataset) -> dict[str, Figure]:
        """The attention of right and wrong words, some wrong words, the most frequent errors."""
        words = self._words(dataset)
        right = [word for word in words if not word.edits]
        wrong = [word for word in words if word.edits]
        title, figure = self._matrices(right, wrong)
        figures = {title: figure}
        if chosen := _spread(wrong, _WRONG):
            title = f"Wrong words, {len(chosen)} of {len(wrong):,} among {len(words):,}"
            headings = list(map(_heading, chosen))
            figures[title] = transcripts(headings, [word.nearest for word in chosen])
        else:
            title = f"Wrong words, none among {len(words):,}"
            figures[title] = transcripts([f"All {len(words):,} words are right."], [[]])
        title = f"Phoneme errors, the most frequent of {sum(word.edits for word in words):,}"
        figures[title] = confusions([word.nearest for word in words])
        return figures

    def _words(self, dataset: Dataset) -> list[_Word]:
        scored = self._scored(dataset)
        references = [reference for pair, _ in scored for reference in pair.references]
        hypotheses = [output.text for pair, output in scored for _ in pair.references]
        alignments = iter(align(references, hypotheses))
        return [
            _Word(pair, output, min(islice(alignments, len(pair.references)), key=count_edits))
            for pair, output in scored
        ]

    def _matrices(self, right: Sequence[_Word], wrong: Sequence[_Word]) -> tuple[str, Figure]:
        """The picture of attention: half right words and half wrong, where there are as many."""
        some_right = _spread(_short(right), max(_MATRICES // 2, _MATRICES - len(wrong)))
        some_wrong = _spread(_short(wrong), _MATRICES - len(some_right))
        shown = [self._attention(word.pair, word.output, "right", True) for word in some_right]
        for word in some_wrong:
            nearest = " ".join(reference for reference, _ in word.nearest if reference)
            shown.append(
                self._attention(word.pair, word.output, f"wrong, should be {nearest}", False)
            )
        title = (
            f"Attention, {len(some_right)} of {len(right):,} right words"
            f" and {len(some_wrong)} of {len(wrong):,} wrong ones"
        )
        return title, attention_matrices(shown)


class TranslationScorer(_OutputScorer):
    """BLEU and chrF, by sacrebleu."""

    def result(self, dataset: Dataset) -> dict[str, float]:
        """`bleu`, `bleu_lowercased` and `chrf`, as fractions; logs how each was computed.

        They are of detokenised text, which BLEU divides as mteval-v13a did (Post 2018,
        https://aclanthology.org/W18-6319). Figures that were published of lowercased, tokenised
        text are compared with `bleu_lowercased`. chrF is that of Popović 2015.
        """
        pairs, outputs = zip(*self._scored(dataset), strict=True)
        hypotheses = [output.text for output in outputs]
        # All first references, all second ones, and so on; None where there are no more.
        references = list(zip_longest(*(pair.references for pair in pairs)))
        scores = {}
        metrics = {
            "bleu": BLEU(tokenize="13a"),
            "bleu_lowercased": BLEU(tokenize="13a", lowercase=True),
            "chrf": CHRF(),
        }
        for name, metric in metrics.items():
            score = metric.corpus_score(hypotheses, references)
            log.info("%s", score.format(signature=str(metric.get_signature())))
            scores[name] = score.score / 100
        return scores

    def figures(self, dataset: Dataset) -> dict[str, Figure]:
        """The attention of some sentences, the worst translations, some typical ones."""
        metric = CHRF()
        sentences = [
            _Sentence(pair, out, metric.sentence_score(out.text, pair.references).score / 100)
            for pair, out in self._scored(dataset)
        ]
        total = f"{len(sentences):,}"
        first = _short(sentences)[:_MATRICES]
        matrices = [self._attention(one.pair, one.output, "", True) for one in first]
        figures = {f"Attention, {len(first)} of {total} sentences": attention_matrices(matrices)}
        order = sorted(sentences, key=lambda sentence: sentence.chrf)
        if worst := [one for one in order if not one.is_reference][:_WORST]:
            title = f"Worst translations, {len(worst)} of {total} by chrF"
            figures[title] = translations([_translation(one) for one in worst])
        else:
            title = f"Worst translations, none: all {total} are the reference"
            figures[title] = transcripts([f"All {total} are the reference to the letter."], [[]])
        middle = len(order) // 2 - _TYPICAL // 2
        typical = order[max(middle, len(worst)) : middle + _TYPICAL]
        if typical:
            median = np.median([one.chrf for one in sentences])
            title = f"Typical translations, {len(typical)} of {total}, chrF about {median:.2f}"
            figures[title] = translations([_translation(one) for one in typical])
        return figures


def _short(scored: Sequence[Scored]) -> list[Scored]:
    """Those whose attention can be shown whole; where there are none, all."""
    return [one for one in scored if one.output.is_short] or list(scored)


def _spread(scored: Sequence[Scored], count: int) -> list[Scored]:
    """So many of them at most, from all over: neighbours in a dictionary resemble each other."""
    places = np.linspace(0, len(scored) - 1, min(count, len(scored)))
    return [scored[place] for place in places.round().astype(int)]


def _heading(word: _Word) -> str:
    heading = f"{word.pair.source}: PER {word.edits}/{word.phonemes}"
    if (count := len(word.pair.references)) > 1:
        heading += f", to the nearest of {count} pronunciations"
    return heading


def _translation(sentence: _Sentence) -> Translation:
    pair, output, chrf = sentence
    return Translation(f"{pair.where}: chrF {chrf:.2f}", pair.source, pair.references, output.text)
