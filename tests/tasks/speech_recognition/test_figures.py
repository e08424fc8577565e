import io
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from research.tasks.speech_recognition.figures import (
    Utterance,
    confusions,
    edit,
    spectrogram_and_posterior,
    transcripts,
)


def drawn(figure):
    """The figure, drawn as the report draws it."""
    figure.savefig(io.BytesIO(), dpi=40)
    assert figure.get_size_inches()[0] <= 10.5
    return figure


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def posterior(path, classes):
    """log_probs [frames, classes] in which class `path[i]` is the best of frame i."""
    probability = np.full((len(path), classes), 0.1 / (classes - 1))
    probability[np.arange(len(path)), path] = 0.9
    return np.log(probability)


def extents(figure, axes):
    """The boxes, in pixels, of the texts in some axes."""
    figure.set_dpi(160)
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer) for each in axes for text in each.texts]


def utterance(path=(0, 1, 0), classes=4, seconds=1.0, alignment=()):
    features = np.random.default_rng(0).normal(size=(int(100 * seconds), 8))
    return Utterance("heading", alignment, features, posterior(list(path), classes), seconds)


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


def test_the_best_path_is_written_over_its_peaks():
    figure = drawn(
        spectrogram_and_posterior([utterance((0, 2, 2, 0, 2, 1, 0, 3))], ["a", "b", "c"])
    )
    axes = figure.axes[-1]
    assert [text.get_text() for text in axes.texts] == ["b", "b", "a", "c"]
    places = [text.get_position()[0] for text in axes.texts]
    np.testing.assert_allclose(places, np.array([1.5, 4.5, 5.5, 7.5]) / 8)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["blank"]


def test_spectrogram_and_posterior_share_the_time():
    figure = drawn(spectrogram_and_posterior([utterance(seconds=2.5)], ["a", "b", "c"]))
    above, below = figure.axes[-2:]
    assert above.get_xlim() == below.get_xlim() == (0, 2.5)
    assert above.get_position().x0 == below.get_position().x0
    assert above.get_position().x1 == below.get_position().x1
    assert above.get_position().y0 > below.get_position().y1


def test_names_of_tokens_do_not_overlap():
    path = [0, *np.tile([1, 2, 3], 40)]
    figure = drawn(spectrogram_and_posterior([utterance(path)], ["▁many", "letters", "here"]))
    boxes = extents(figure, figure.axes[-1:])
    rows = {}
    for box in boxes:
        rows.setdefault(round(box.y0), []).append(box)
    assert len(boxes) == 120
    assert 1 < len(rows) < 8  # letters for five rows
    for row in rows.values():
        assert all(a.x1 <= b.x0 for a, b in pairwise(row))


def test_of_a_long_utterance_the_beginning_is_drawn():
    path = [0] * 50 + [1] + [0] * 50 + [2] + [0] * 98
    figure = drawn(spectrogram_and_posterior([utterance(path, seconds=16.0)], ["a", "b", "c"]))
    assert [text.get_text() for text in figure.axes[-1].texts] == ["a"]
    assert figure.axes[-1].get_xlim() == (0, 8)
    np.testing.assert_allclose(figure.axes[-1].texts[0].get_position()[0], 50.5 * 16 / 200)
    assert any("8 of 16.0 s" in text for text in texts(figure))


@pytest.mark.parametrize(
    "log_probs", [posterior([0], 4), posterior([0] * 9, 4), np.full((9, 4), np.nan)]
)
def test_a_silent_and_a_diverged_network_can_be_drawn(log_probs):
    drawn(spectrogram_and_posterior([utterance()._replace(log_probs=log_probs)], ["a", "b", "c"]))


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
