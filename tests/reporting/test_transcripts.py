from research.reporting.transcripts import confusions, transcripts
from tests.reporting.drawing import drawn, extents, texts


def test_errors_are_marked_by_letter_and_colour():
    figure = drawn(transcripts(["one"], [[("same", "same"), ("spoken", "written"), ("lost", "")]]))
    page = figure.axes[-1]
    colours = {text.get_text(): text.get_color() for text in page.texts}
    assert {"S", "D", "****", "spoken", "written", "lost"} <= colours.keys()
    assert "I" not in colours
    assert colours["spoken"] == colours["written"] == colours["S"]
    assert len({colours[key] for key in ("same", "S", "D")}) == 3
    assert texts(figure).count("same") == 2


def test_references_are_drawn_above_their_hypotheses():
    figure = drawn(transcripts(["one"], [[("a", "longer"), ("b", "b"), ("", "c")]]))
    positions = {}
    for text in figure.axes[-1].texts:
        positions.setdefault(text.get_text(), []).append(text.get_position())
    assert positions["a"][0][0] == positions["longer"][0][0]
    assert len({x for x, _ in positions["b"]}) == 1
    assert positions["b"][0][0] > positions["longer"][0][0] + len("longer")


def test_long_texts_wrap_and_are_truncated():
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


def test_words_are_not_parsed_as_formulas():
    figure = drawn(transcripts(["one"], [[("$a_b$", "$a^$")]]))
    assert {"$a_b$", "$a^$"} <= set(texts(figure))
    assert drawn(confusions([[("$a_b$", "$a^$")]]))


def test_confusions_are_sorted_by_frequency():
    alignments = [[("a", "b"), ("c", "")], [("a", "b"), ("", "d"), ("e", "e"), ("c", "a")]]
    figure = drawn(confusions(alignments))
    labels = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in figure.axes]
    assert labels == [["a → b", "c → a"], ["c"], ["d"]]
    assert [axes.get_title(loc="left")[:4] for axes in figure.axes] == ["S  3", "D  1", "I  1"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [2, 1]


def test_confusions_without_errors():
    figure = drawn(confusions([[("a", "a")], []]))
    assert [axes.get_title(loc="left")[:4] for axes in figure.axes] == ["S  0", "D  0", "I  0"]
    assert not any(axes.patches for axes in figure.axes)
