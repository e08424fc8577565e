import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from research.tasks.sequence_to_sequence.figures import attention_matrices, translations
from research.tasks.sequence_to_sequence.outputs import MAX_TOKENS, Attention, Translation
from tests.reporting.drawing import drawn, extents, texts


def attention(columns, rows, **changed):
    weights = np.full((len(rows), len(columns)), 1 / len(columns), np.float16)
    one = Attention("source", "output", "", True, list(columns), list(rows), weights)
    return one._replace(**changed)


def matrices(figure):
    """The matrices, without the colour scale above them."""
    return [mesh for axes in figure.axes[1:] for mesh in axes.findobj(QuadMesh)]


def positions(figure):
    return {text.get_text(): text.get_position() for axes in figure.axes[1:] for text in axes.texts}


def shades(figure):
    """The colours of each matrix, [weights, 4]."""
    return [mesh.get_facecolor() for mesh in matrices(drawn(figure))]


def overlap(a, b):
    return min(a.x1, b.x1) > max(a.x0, b.x0) and min(a.y1, b.y1) > max(a.y0, b.y0)


def assert_readable(figure):
    """Asserts that no text overlaps another or the edge of the page."""
    boxes = extents(figure, figure.axes)
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert box.y0 >= 0 and box.y1 <= figure.bbox.y1
        assert not any(overlap(box, other) for other in boxes[:number])


def test_weights_are_drawn_in_the_cells_of_their_tokens():
    weights = np.array([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    figure = drawn(attention_matrices([attention("abc", ("X", "Y"), weights=weights)]))
    (mesh,) = matrices(figure)
    np.testing.assert_allclose(mesh.get_array(), weights, rtol=1e-6)
    corners, at = mesh.get_coordinates(), positions(figure)
    for column, token in enumerate("abc"):
        left, right = corners[0, column : column + 2, 0]
        assert left < at[token][0] < right
        assert at[token][1] > corners[-1, 0, 1]  # beneath, since y grows downwards
    for row, token in enumerate("XY"):
        top, bottom = corners[row : row + 2, 0, 1]
        assert top < at[token][1] < bottom
        assert at[token][0] < corners[0, 0, 0]


def test_all_matrices_share_one_colour_scale():
    sharp = attention("ab", "X", weights=np.array([[0.3, 0.7]]))
    blurred = attention("abc", "X", weights=np.array([[0.3, 0.4, 0.3]]))
    (light, dark), (same, between, _) = shades(attention_matrices([sharp, blurred]))
    np.testing.assert_array_equal(light, same)
    assert sum(light) > sum(between) > sum(dark)


@pytest.mark.parametrize("letters", [1, 2, 30])
@pytest.mark.parametrize("size", [1, 9, 21, MAX_TOKENS])
def test_labels_do_not_overlap(letters, size):
    tokens = [chr(ord("A") + i) * letters for i in range(size)]
    sentence = " ".join(tokens)
    one = attention(tokens, tokens, source=sentence, output=sentence, verdict=sentence)
    assert_readable(attention_matrices([one] * 5))


def test_three_small_or_two_large_matrices_share_a_row():
    small, large = (attention(["token"] * size, ["token"] * size) for size in (8, MAX_TOKENS))
    for one, across in ((small, 3), (large, 2)):
        figure = drawn(attention_matrices([one] * 6))
        assert len(figure.axes) == 1 + 6 // across
        assert len(matrices(figure)) == 6


def test_only_wide_column_labels_are_rotated():
    figure = drawn(attention_matrices([attention(("a", "bc", "longer"), ("longer",))]))
    *beneath, beside = figure.axes[1].texts[-4:]
    rotated = {text.get_text(): text.get_rotation() for text in beneath}
    assert rotated == {"a": 0, "bc": 0, "longer": 90}
    assert beside.get_rotation() == 0


def test_the_verdict_has_a_colour():
    correct, wrong = attention("a", "X", verdict="correct"), attention("b", "Y", verdict="wrong")
    figure = drawn(attention_matrices([correct, wrong._replace(correct=False)]))
    colours = {text.get_text(): text.get_color() for text in figure.axes[1].texts}
    assert len({colours[name] for name in ("correct", "wrong", "→ output")}) == 3


@pytest.mark.parametrize("weights", [np.full((1, 1), np.nan), np.zeros((1, 1))])
def test_empty_outputs_and_nan_weights_are_drawn(weights):
    one = attention("a", "↵", output="", weights=weights)
    assert "→ (empty)" in texts(drawn(attention_matrices([one])))


def test_a_translation_is_drawn_below_its_source_and_references():
    shown = Translation("line 3: chrF 0.10", "la casa", ("the house", "the home"), "a horse")
    figure = drawn(translations([shown]))
    lines = sorted(figure.axes[0].texts, key=lambda text: text.get_position()[::-1])
    assert [line.get_text() for line in lines] == [
        *("line 3: chrF 0.10", "src", "la casa", "ref", "the house", "ref", "the home"),
        *("hyp", "a horse"),
    ]


def test_long_translations_wrap_and_are_truncated():
    long = " ".join(f"word{i}" for i in range(60))
    shown = Translation("one", long, (long,), "endless " * 1000)
    figure = translations([shown, Translation("two", "x" * 500, ("$a_b$",), "")])
    assert_readable(figure)
    shown_texts = texts(figure)
    for number in range(60):
        assert sum(f"word{number}" in line.split() for line in shown_texts) == 2
    assert any(line.endswith("endless …") for line in shown_texts)
    assert {"$a_b$", "(empty)"} <= set(shown_texts)
    assert [shown_texts.count(name) for name in ("src", "ref", "hyp")] == [2, 2, 2]
    assert figure.get_size_inches()[1] < 5
