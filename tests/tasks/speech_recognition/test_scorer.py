import numpy as np
import pytest

from research.data.dataset import Dataset
from research.data.tokenizers import Characters, WordPieces, Words
from research.tasks.speech_recognition.scorer import TranscriptScorer
from tests.reporting.markup import find, texts

WORDS = Words(("a", "b", "c", "d"))


FRAMES = 5


def extract_features(array):
    return np.zeros((20, 3)), len(array) / 100


def scored(references, hypotheses, tokenizer=WORDS, batch=2):
    """Returns a scorer updated with these texts, batched and padded as by the task."""
    scorer = TranscriptScorer(tokenizer, extract_features)
    for start in range(0, len(references), batch):
        targets = [tokenizer.encode(text) for text in references[start : start + batch]]
        outputs = [tokenizer.encode(text) for text in hypotheses[start : start + batch]]
        capacity = max(map(len, targets + outputs)) + start  # as in buckets of several lengths
        scorer.update(
            {
                "index": 100 + np.arange(start, start + len(targets)),
                "tokens": padded(targets, capacity, 0),
                "token_count": np.array([len(ids) for ids in targets], np.int32),
            },
            {
                "tokens": padded(outputs, capacity, -1),
                "token_count": np.array([len(ids) for ids in outputs], np.int32),
                "frames": np.full(len(targets), FRAMES),
                "classes": np.tile([1, 0], (len(targets), FRAMES + start, 1)),
                "probabilities": np.tile([0.7, 0.2], (len(targets), FRAMES + start, 1)),
            },
        )
    return scorer


class RecordingDataset(Dataset):
    """A dataset that records the indices that are read."""

    def __init__(self):
        super().__init__()
        self.indices = []

    def __len__(self):
        return 1000

    def example(self, index, rng):
        self.indices.append(index)
        return {"input": np.zeros(20)}


def padded(rows, capacity, value):
    return np.array([row + [value] * (capacity - len(row)) for row in rows], np.int32)


def test_error_rates_are_those_of_the_corpus():
    """One substitution, one deletion and two insertions in five words; spaces are characters."""
    result = scored(["a b c", "a", "d"], ["a d", "a b c", "d"]).result(None)
    assert result["wer"] == pytest.approx(4 / 5)
    assert result["cer"] == pytest.approx((3 + 4) / (5 + 1 + 1))
    assert result["accuracy"] == pytest.approx(1 / 3)


def test_word_and_character_errors_differ():
    tokenizer = Characters(" abcdefgh")
    result = scored(["ab cd", "efgh"], ["ab ce", "ef gh"], tokenizer).result(None)
    assert result["wer"] == pytest.approx((1 + 2) / 3)
    assert result["cer"] == pytest.approx((1 + 1) / 9)
    assert result["accuracy"] == 0


def test_scores_do_not_depend_on_the_tokenizer():
    references, hypotheses = ["ab ba", "aab"], ["ab ab", "aab"]
    tokenizers = (Characters(), Words(), WordPieces(vocab_size=4))
    scorers = [
        scored(references, hypotheses, t.resolve(references + hypotheses)) for t in tokenizers
    ]
    first, *rest = [scorer.result(None) for scorer in scorers]
    assert first["wer"] == pytest.approx(1 / 3)
    assert all(result == first for result in rest)


@pytest.mark.parametrize(
    ("references", "hypotheses", "wer"),
    [
        (["", "a b"], ["c d", "a b"], 2 / 2),
        (["a b"], [""], 1),
        (["", ""], ["", ""], 0),
        (["", ""], ["c d a", ""], 3),
    ],
)
def test_empty_texts_are_scored(references, hypotheses, wer):
    scorer = scored(references, hypotheses)
    result = scorer.result(None)
    assert result["wer"] == pytest.approx(wer)
    assert all(type(value) is float for value in result.values())
    assert len(scorer.figures(RecordingDataset())) == 3


def figures(scorer, dataset=None):
    """Figures by title."""
    return {one.title: one for one in scorer.figures(dataset or RecordingDataset())}


def test_worst_transcripts_are_sorted_and_have_errors():
    scorer = scored(["a b c", "a", "b", "c d"], ["a b c", "b", "b", "d c b"])
    worst = figures(scorer)["Worst transcripts"]
    assert worst.caption == "2 of 2 with errors, of 4 utterances."
    shown = texts(worst.content, "p")
    assert shown == ["utterance 103: WER 2/2", "utterance 101: WER 1/1"]


def test_figures_without_errors():
    shown = figures(scored(["a b", "c"], ["a b", "c"]))
    assert shown["Worst transcripts"].caption == "All 2 utterances are correct."
    assert shown["Word errors"].caption == "0 in 2 utterances."


def test_spectrograms_show_the_worst_the_median_and_the_best():
    references = ["a b", "a b", "a b", "c d", "c d"]
    hypotheses = ["a b", "c b", "a b", "a b", "c a"]
    dataset = RecordingDataset()
    shown = figures(scored(references, hypotheses), dataset)["Spectrogram and posterior"]
    assert dataset.indices == [103, 104, 102]
    assert len(find(shown.content, "svg")) == len(find(shown.content, "audio")) == 3
    scored(["a"], ["a"]).figures(dataset)
    assert dataset.indices[3:] == [100]
