from collections.abc import Sequence

import pytest

from research.data.splits import SPLITS
from research.tasks.sequence_to_sequence.data import Pair, Pronunciations, pronunciations


@pytest.fixture(scope="module")
def words() -> dict[str, Sequence[Pair]]:
    return {split: Pronunciations().open(split) for split in SPLITS}


@pytest.mark.slow
def test_each_word_of_the_dictionary_is_in_one_split(words):
    sources = {split: {pair.source for pair in words[split]} for split in SPLITS}
    every = set(pronunciations._dictionary())
    assert set.union(*sources.values()) == every and {"a.m.", "able-bodied"} <= every
    assert sum(map(len, sources.values())) == len(every)
    assert len(sources["test"]) == pytest.approx(0.05 * len(every), rel=0.05)
    assert len(sources["validation"]) == pytest.approx(0.02 * len(every), rel=0.05)


@pytest.mark.slow
def test_splits_never_change(words):
    """Otherwise scores of different versions could not be compared."""
    first = [[pair.source for pair in words[split][:3]] for split in ("validation", "test")]
    assert first == [["abbe", "abco", "abdel"], ["'frisco", "aaliyah", "abacus"]]


def test_every_pronunciation_is_trained_and_is_a_reference(words):
    tomato = ("T AH M EY T OW", "T AH M AA T OW")
    trained = [pair for pair in words["train"] if pair.source == "tomato"]
    assert [pair.target for pair in trained] == list(tomato)
    assert [pair.references for pair in trained] == [tomato, tomato[::-1]]
    for split in ("validation", "test"):
        assert len({pair.source for pair in words[split]}) == len(words[split])
        assert max(len(pair.references) for pair in words[split]) > 1
        assert all(pair.target == pair.references[0] for pair in words[split])
    assert trained[0].origin == "tomato" and not trained[0].problem


def test_stress_marks_are_optional(words):
    stressed = Pronunciations(stress=True).open("test")
    references = [
        next(pair.references for pair in pairs if pair.source == "permit")
        for pairs in (stressed, words["test"])
    ]
    assert references == [("P ER0 M IH1 T", "P ER1 M IH2 T"), ("P ER M IH T",)]
    assert [pair.target for pair in words["train"] if pair.source == "concave"] == ["K AA N K EY V"]
