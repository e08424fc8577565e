import pytest

from research.reporting.alignments import align, count_edits, edit_type


def test_each_word_is_aligned():
    (substituted, deleted), (inserted,) = align(["a b", ""], ["c", "d"])
    assert sorted([substituted, deleted]) in ([("a", "c"), ("b", "")], [("a", ""), ("b", "c")])
    assert inserted == ("", "d")


@pytest.mark.parametrize(
    ("pair", "kind"), [(("a", "a"), ""), (("a", "b"), "S"), (("a", ""), "D"), (("", "a"), "I")]
)
def test_edit_types_have_the_usual_letters(pair, kind):
    assert edit_type(*pair) == kind


def test_edits_are_counted():
    assert count_edits([("a", "a"), ("a", "b"), ("a", ""), ("", "b")]) == 3
