import logging

import numpy as np
import pytest

from research.data.tokenizers import Characters, Words
from research.tasks.sequence_to_sequence.data import EncodedPairs, Limit, Pair
from research.tasks.sequence_to_sequence.scorer import PronunciationScorer, TranslationScorer
from tests.reporting.markup import find, texts

TOMATO = ("tomato", ("T AH M EY T OW", "T AH M AA T OW"))


def scored(kind, expected, outputs, attention=None, batch=2, max_length=500):
    """A scorer updated with the outputs of some (source, references), and the dataset.

    The batches are padded, in reverse order, and contain a second, worse hypothesis. `attention`
    has the weights of each example, [tokens + 1, letters + 1].
    """
    letters = Characters().resolve([source for source, _ in expected])
    words = Words().resolve([*outputs, *(text for _, texts in expected for text in texts), "worse"])
    pairs = [
        Pair(source, references[0], references, f"line {number}")
        for number, (source, references) in enumerate(expected, 1)
    ]
    limit = Limit(max_length, True)
    dataset = EncodedPairs(pairs, [letters.encode, words.encode], limit, [(1, 1)])
    scorer = kind(words.decode, lambda text: list(text), lambda ids: [words.tokens[i] for i in ids])
    order = np.arange(len(pairs))[::-1]
    for start in range(0, len(order), batch):
        index = order[start : start + batch]
        ids = [words.encode(outputs[i]) for i in index]
        read = dataset.lengths[index, 0]
        max_tokens = max(map(len, ids)) + 1 + start % 3
        tokens = np.full((len(index), 2, max_tokens), -1, np.int32)
        weights = np.full((len(index), max_tokens, read.max()), np.nan, np.float16)
        for row, (i, one) in enumerate(zip(index, ids, strict=True)):
            tokens[row, 0, : len(one)] = one
            tokens[row, 1, 0] = words.encode("worse")[0]
            filled = np.full((len(one) + 1, read[row]), 1 / read[row])
            weights[row, : len(one) + 1, : read[row]] = attention[i] if attention else filled
        count = np.array([[len(one), 1] for one in ids], np.int32)
        score = np.zeros(count.shape, np.float32)
        predictions = {"tokens": tokens, "count": count, "score": score, "attention": weights}
        scorer.update({"index": index}, predictions | {"source_count": read})
    return scorer, dataset


def result(*arguments, **options):
    scorer, dataset = scored(*arguments, **options)
    return scorer.result(dataset)


def figures(*arguments, **options):
    """Figures by title."""
    scorer, dataset = scored(*arguments, **options)
    return {figure.title: figure for figure in scorer.figures(dataset)}


def labels(figure):
    """The tokens beside all matrices."""
    return [one.text for one in find(figure.content, "text")]


def translated(references, output):
    return result(TranslationScorer, [("a", references)], [output])


def test_pronunciations_against_a_count_by_hand():
    expected = [TOMATO, ("cat", ("K AE T",)), ("dog", ("D AO G",)), ("a", ("EY", "AH"))]
    outputs = ["T AH M AA T OW", "K AE T", "D AA G", "AH K AH"]
    assert result(PronunciationScorer, expected, outputs) == {
        "wer": pytest.approx(2 / 4),  # dog and a
        "per": pytest.approx((1 + 2) / (6 + 3 + 3 + 1)),
        "wer_first": pytest.approx(3 / 4),  # tomato too
    }


def test_phoneme_errors_are_counted_against_the_nearest_reference():
    scores = result(PronunciationScorer, [("live", ("L AY V Z", "L IH"))], ["L AH"])
    assert scores["per"] == pytest.approx(1 / 2)


def test_phonemes_are_compared_whole():
    """ "AH" for "AA" is one error in three phonemes, not one in five letters."""
    scores = result(PronunciationScorer, [("cot", ("K AA T",))], ["K AH T"])
    assert scores["per"] == pytest.approx(1 / 3)


def test_bleu_against_a_count_by_hand():
    scores = translated(("the cat sat on a mat",), "The cat sat on the mat")
    assert scores["bleu"] == pytest.approx((5 / 6 * 2 / 5 * 1 / 4 * 1 / (2 * 3)) ** (1 / 4))
    assert scores["bleu_lowercased"] == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))


def test_bleu_has_a_brevity_penalty():
    scores = translated(("one two three four five six",), "one two three four")
    assert scores["bleu"] == pytest.approx(np.exp(1 - 6 / 4))


def test_chrf_against_a_count_by_hand():
    """The output has the letters a and b and the bigram ab of "abc", and no others."""
    precision, recall = 1, (2 / 3 + 1 / 2) / 2
    f2 = 5 * precision * recall / (4 * precision + recall)
    assert translated(("abc",), "ab")["chrf"] == pytest.approx(f2)


def test_bleu_tokenises_like_mteval_v13a():
    scores = translated(("one (two) three, four.",), "one ( two ) three , four .")
    assert scores["bleu"] == pytest.approx(1)


def test_the_number_of_references_may_differ():
    """BLEU is of the whole corpus, each sentence against its own references."""
    expected = [
        ("a", ("one two three four",)),
        ("b", ("five six seven eight", "five six nine ten")),
    ]
    outputs = ["one two three four", "five six nine ten"]
    scores = result(TranslationScorer, expected, outputs)
    assert scores == dict.fromkeys(("bleu", "bleu_lowercased", "chrf"), pytest.approx(1))
    assert result(TranslationScorer, expected, outputs[::-1])["bleu"] == 0


def test_scores_have_signatures(caplog):
    caplog.set_level(logging.INFO)
    scorer, dataset = scored(TranslationScorer, [("a", ("one two three four",))], ["one two"])
    scorer.result(dataset)
    assert not caplog.records  # they would be repeated by every evaluation during training
    bleu, lowercased, chrf = scorer.signatures()
    assert bleu.startswith("BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert lowercased.startswith("BLEU|nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:")
    assert chrf.startswith("chrF2|nrefs:1|case:mixed|")


@pytest.mark.parametrize("kind", [PronunciationScorer, TranslationScorer])
@pytest.mark.parametrize("outputs", [["", ""], ["T AH M EY T OW", ""], ["", "K AE T"]])
def test_an_empty_output_is_wrong_and_drawn(kind, outputs):
    example = kind, [TOMATO, ("cat", ("K AE T",))], outputs
    scores, pictures = result(*example), figures(*example)
    assert all(type(value) is float for value in scores.values())
    assert "→ (empty)" in texts(pictures["Attention"].content, "div")
    if kind is PronunciationScorer:
        assert scores["wer"] == outputs.count("") / 2


def test_attention_of_correct_and_wrong_words_is_shown():
    expected = [(f"word{letter}", (f"W {letter}",)) for letter in "ABCDEFGHIJ"]
    outputs = [f"W {letter}" for letter in "ABCDEFGHXX"]
    figure = figures(PronunciationScorer, expected, outputs)["Attention"]
    assert figure.caption == "4 of 8 correct words and 2 of 2 wrong ones."
    shown = texts(figure.content, "div")
    assert shown.count("correct") == 4
    assert {"wordI", "wrong, reference: W I", "wordJ", "wrong, reference: W J"} <= set(shown)
    assert {"wordA", "wordH"} <= set(shown)  # from all over the dictionary


def test_attention_rows_and_columns_match_their_tokens():
    expected = [("ab", ("X Y",)), ("cd", ("Z",))]
    weights = [
        np.array([[0.5, 0.25, 0.25], [0, 1, 0], [0, 0, 1]]),
        np.array([[0.75, 0.25, 0], [0, 0, 1]]),
    ]
    pictures = figures(PronunciationScorer, expected, ["X Y", "Z"], weights)
    assert labels(pictures["Attention"]) == [*"XY↵", *"ab↵", *"Z↵", *"cd↵"]


def test_truncated_tokens_have_no_label():
    """Neither letters behind the maximum source length, nor an EOS that was not decoded."""
    weights = [np.full((2, 4), 0.25)]
    scorer, dataset = scored(
        PronunciationScorer, [("abcdefg", ("X",))], ["X"], weights, max_length=4
    )
    at_max_length = {
        "tokens": np.zeros((1, 1, 1), np.int32),
        "count": np.ones((1, 1), np.int32),
        "score": np.zeros((1, 1), np.float32),
        "attention": np.full((1, 1, 4), 0.25, np.float16),
        "source_count": np.array([4]),
    }
    for rows in (["X", "↵"], ["X"]):
        (figure,) = [one for one in scorer.figures(dataset) if one.title == "Attention"]
        assert labels(figure) == [*rows, *"abc↵"]
        scorer.update({"index": np.array([0])}, at_max_length)


def test_attention_of_short_sentences_is_preferred():
    short, long = ("a b", ("one",)), ("a " * 40, ("two",))
    pictures = figures(TranslationScorer, [long, short, long], ["one", "two", "one"])
    assert pictures["Attention"].caption == "1 of 3 sentences."
    assert labels(pictures["Attention"]) == ["two", "↵", *"a b↵"]
    pictures = figures(TranslationScorer, [long, short], ["one", "two " * 40])
    assert len(labels(pictures["Attention"])) == (2 + 30) + (30 + 4)
    shown = texts(pictures["Attention"].content, "div")
    assert any(text.startswith("The first 30 tokens of: a a") for text in shown)


def test_wrong_words_are_shown_with_their_nearest_pronunciation():
    expected = [TOMATO, ("cat", ("K AE T",)), ("dog", ("D AO G",))]
    pictures = figures(PronunciationScorer, expected, ["T AH M AA D", "K AE T", "D AA G"])
    assert pictures["Wrong words"].caption == "2 of 2 among 3."
    html = pictures["Wrong words"].content
    assert texts(html, "p") == [
        "tomato: PER 2/6, to the nearest of 2 pronunciations",
        "dog: PER 1/3",
    ]
    assert "EY" not in html
    assert pictures["Phoneme errors"].caption == "3 in 3 words."
    assert "AO → AA" in texts(pictures["Phoneme errors"].content, "span")


@pytest.mark.slow
def test_a_sample_of_many_wrong_words_is_shown():
    expected = [(f"word{number}", ("W",)) for number in range(1500)]
    figure = figures(PronunciationScorer, expected, ["V"] * 1500, batch=500)["Wrong words"]
    assert figure.caption == "12 of 1,500 among 1,500."
    shown = texts(figure.content, "p")
    assert len(shown) == 12
    assert shown[0] == "word0: PER 1/1" and shown[-1] == "word1499: PER 1/1"


def test_captions_of_a_perfect_result():
    words = figures(PronunciationScorer, [TOMATO], ["T AH M AA T OW"])
    assert {title: figure.caption for title, figure in words.items()} == {
        "Wrong words": "All 1 words are correct.",
        "Phoneme errors": "0 in 1 words.",
        "Attention": "1 of 1 correct words and 0 of 0 wrong ones.",
    }
    sentences = figures(TranslationScorer, [("a b", ("one two", "two one"))], ["two one"])
    assert sentences["Worst translations"].caption == "All 1 translations equal a reference."


def test_worst_and_typical_translations_are_chosen_by_chrf():
    """The more words of an output are correct, the higher its chrF."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    expected = [(f"s {number}", (" ".join(words),)) for number in range(32)]
    rank = np.random.default_rng(0).permutation(32)
    outputs = [" ".join(words[: 1 + r // 4]) + " " + "z" * (4 - r % 4) for r in rank]
    pictures = figures(TranslationScorer, expected, outputs)
    ranked = [f"s {number}" for number in np.argsort(rank)]
    worst, typical = pictures["Worst translations"], pictures["Typical translations"]
    assert worst.caption.startswith("8 of 32 by chrF")
    assert [text for text in texts(worst.content, "dd") if text.startswith("s ")] == ranked[:8]
    assert typical.caption.startswith("4 of 32, around the median chrF of 5")
    shown = [text for text in texts(typical.content, "dd") if text.startswith("s ")]
    assert shown == ranked[14:18]


def test_no_translation_is_shown_twice():
    pictures = figures(TranslationScorer, [("a", ("one",))] * 3, ["two", "three", "one two"])
    assert list(pictures) == ["Worst translations", "Attention"]


def test_a_bleu_of_zero_is_explained():
    """BLEU of perfect translations of three words is 0, since they have no four tokens in a row."""
    scorer, dataset = scored(TranslationScorer, [("a", ("one two three",))], ["one two three"])
    assert scorer.result(dataset)["bleu"] == 0
    (note,) = scorer.notes()
    assert "BLEU is 0 because no output has 4 tokens" in note and "chrF" in note
    scorer, dataset = scored(TranslationScorer, [("a", ("b c d e",))], ["b c d e"])
    assert scorer.result(dataset)["bleu"] == pytest.approx(1) and scorer.notes() == []
    scorer, dataset = scored(TranslationScorer, [("a", ("so, so.",))], ["so, so."])
    assert scorer.result(dataset)["bleu"] == pytest.approx(1) and scorer.notes() == []
