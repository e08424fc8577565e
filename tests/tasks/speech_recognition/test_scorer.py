import numpy as np
import pytest

from research.data.dataset import Dataset
from research.data.tokenizers import Characters, WordPieces, Words
from research.tasks.speech_recognition.scorer import TranscriptScorer
from tests.reporting.drawing import texts

WORDS = Words(("a", "b", "c", "d"))


FRAMES = 5


def hear(array):
    return np.zeros((20, 3)), len(array) / 100


def scored(references, hypotheses, tokenizer=WORDS, batch=2):
    """A scorer that has seen these texts, padded as the task pads them, in batches."""
    scorer = TranscriptScorer(tokenizer, hear)
    for start in range(0, len(references), batch):
        said = [tokenizer.encode(text) for text in references[start : start + batch]]
        heard = [tokenizer.encode(text) for text in hypotheses[start : start + batch]]
        capacity = max(map(len, said + heard)) + start  # buckets differ in length
        scorer.update(
            {
                "index": 100 + np.arange(start, start + len(said)),
                "tokens": padded(said, capacity, 0),
                "token_count": np.array([len(ids) for ids in said], np.int32),
            },
            {
                "tokens": padded(heard, capacity, -1),
                "count": np.array([len(ids) for ids in heard], np.int32),
                "frames": np.full(len(said), FRAMES),
                "classes": np.tile([1, 0], (len(said), FRAMES + start, 1)),
                "probabilities": np.tile([0.7, 0.2], (len(said), FRAMES + start, 1)),
            },
        )
    return scorer


class Asked(Dataset):
    """A dataset that notes what it is asked for."""

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


def test_error_rates_are_those_of_the_whole_corpus():
    """One substitution, one deletion and two insertions in five words, spaces being characters."""
    result = scored(["a b c", "a", "d"], ["a d", "a b c", "d"]).result(None)
    assert result["wer"] == pytest.approx(4 / 5)
    assert result["cer"] == pytest.approx((3 + 4) / (5 + 1 + 1))
    assert result["accuracy"] == pytest.approx(1 / 3)


def test_characters_and_words_are_told_apart():
    tokenizer = Characters(" abcdefgh")
    result = scored(["ab cd", "efgh"], ["ab ce", "ef gh"], tokenizer).result(None)
    assert result["wer"] == pytest.approx((1 + 2) / 3)
    assert result["cer"] == pytest.approx((1 + 1) / 9)
    assert result["accuracy"] == 0


def test_the_tokenizer_does_not_change_the_score():
    said, heard = ["ab ba", "aab"], ["ab ab", "aab"]
    tokenizers = (Characters(), Words(), WordPieces(pieces=4))
    first, *rest = [scored(said, heard, t.resolve(said + heard)).result(None) for t in tokenizers]
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
def test_empty_texts_count(references, hypotheses, wer):
    scorer = scored(references, hypotheses)
    result = scorer.result(None)
    assert result["wer"] == pytest.approx(wer)
    assert all(type(value) is float for value in result.values())
    assert len(scorer.figures(Asked())) == 3


def test_the_worst_come_first_and_those_without_errors_not_at_all():
    scorer = scored(["a b c", "a", "b", "c d"], ["a b c", "b", "b", "d c b"])
    title = "The 2 worst of 4 utterances, 2 with errors"
    shown = [text for text in texts(scorer.figures(Asked())[title]) if text.startswith("utterance")]
    assert shown == ["utterance 103: WER 2/2", "utterance 101: WER 1/1"]


def test_perfection_is_said():
    figures = scored(["a b", "c"], ["a b", "c"]).figures(Asked())
    assert list(figures)[1:] == ["No errors in 2 utterances", "The most frequent of 0 word errors"]
    assert texts(figures["No errors in 2 utterances"]) == ["All 2 utterances are right."]


def test_pictures_are_of_the_worst_the_middling_and_the_best():
    said, heard = ["a b", "a b", "a b", "c d", "c d"], ["a b", "c b", "a b", "a b", "c a"]
    dataset = Asked()
    figures = scored(said, heard).figures(dataset)
    assert dataset.indices == [103, 104, 102]
    title, figure = next(iter(figures.items()))
    assert title.startswith("Spectrogram and posterior, ")
    assert len(figure.axes) >= 6
    scored(["a"], ["a"]).figures(dataset)
    assert dataset.indices[3:] == [100]
