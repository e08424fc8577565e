import pytest

from research.reporting.alignments import align, confusions, edit, transcripts
from tests.reporting.drawing import drawn, extents, texts


def test_alignments_pair_each_word():
    (substituted, deleted), (inserted,) = align(["a b", ""], ["c", "d"])
    assert sorted([substituted, deleted]) in ([("a", "c"), ("b", "")], [("a", ""), ("b", "c")])
    assert inserted == ("", "d")


@pytest.mark.parametrize(
    ("pair", "kind"), [(("a", "a"), ""), (("a", "b"), "S"), (("a", ""), "D"), (("", "a"), "I")]
)
def test_edits_are_named_as_is_usual(pair, kind):
    assert edit(*pair) == kind


def test_errors_are_marked_by_letter_and_colour():
    figure = drawn(transcripts(["one"], [[("right", "right"), ("said", "heard"), ("lost", "")]]))
    page = figure.axes[-1]
    colours = {text.get_text(): text.get_color() for text in page.texts}
    assert {"S", "D", "****", "said", "heard", "lost"} <= colours.keys()
    assert "I" not in colours
    assert colours["said"] == colours["heard"] == colours["S"]
    assert len({colours[key] for key in ("right", "S", "D")}) == 3
    assert texts(figure).count("right") == 2


def test_words_stand_over_what_they_were_heard_as():
    figure = drawn(transcripts(["one"], [[("a", "longer"), ("b", "b"), ("", "c")]]))
    places = {}
    for text in figure.axes[-1].texts:
        places.setdefault(text.get_text(), []).append(text.get_position())
    assert places["a"][0][0] == places["longer"][0][0]
    assert len({x for x, _ in places["b"]}) == 1
    assert places["b"][0][0] > places["longer"][0][0] + len("longer")


def test_long_texts_wrap_inside_the_page_and_are_cut_at_last():
    words = [f"word{i}" for i in range(400)]
    long_word = "x" * 500
    alignment = [(long_word, ""), *((word, word) for word in words)]
    figure = drawn(transcripts(["one"], [alignment]))
    shown = texts(figure)
    assert any("of 401 words" in text for text in shown)
    assert shown.count("word0") == 2
    assert "word399" not in shown
    assert max(box.x1 for box in extents(figure, figure.axes)) <= figure.bbox.x1
    assert figure.get_size_inches()[1] < 6


def test_words_are_no_formulas():
    figure = drawn(transcripts(["one"], [[("$a_b$", "$a^$")]]))
    assert {"$a_b$", "$a^$"} <= set(texts(figure))
    assert drawn(confusions([[("$a_b$", "$a^$")]]))


def test_confusions_are_counted_the_most_frequent_first():
    alignments = [[("a", "b"), ("c", "")], [("a", "b"), ("", "d"), ("e", "e"), ("c", "a")]]
    figure = drawn(confusions(alignments))
    labels = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in figure.axes]
    assert labels == [["a → b", "c → a"], ["c"], ["d"]]
    assert [axes.get_title(loc="left")[:4] for axes in figure.axes] == ["S  3", "D  1", "I  1"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [2, 1]


def test_confusions_of_a_perfect_network():
    figure = drawn(confusions([[("a", "a")], []]))
    assert [axes.get_title(loc="left")[:4] for axes in figure.axes] == ["S  0", "D  0", "I  0"]
    assert not any(axes.patches for axes in figure.axes)
