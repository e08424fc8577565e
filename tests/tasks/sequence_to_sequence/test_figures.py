import base64
import io

import numpy as np
import pytest
from PIL import Image

from research.tasks.sequence_to_sequence.figures import attention_matrices, translations
from research.tasks.sequence_to_sequence.outputs import MAX_TOKENS, Attention, Translation
from tests.reporting.markup import external, find, texts, unnamed


def attention(columns, rows, **changed):
    weights = np.full((len(rows), len(columns)), 1 / len(columns), np.float16)
    one = Attention("source", "output", "", True, list(columns), list(rows), weights)
    return one._replace(**changed)


def opacity(html):
    """The opacity of each weight of each matrix, from 0 to 1."""
    sources = [one.get("href").partition(",")[2] for one in find(html, "image")]
    images = [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]
    return [np.asarray(image)[..., 3] / 255 for image in images]


def drawn(*shown):
    html = attention_matrices(shown)
    assert not unnamed(html) and not external(html)
    return html


def test_weights_are_drawn_in_the_cells_of_their_tokens():
    weights = np.array([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    html = drawn(attention("abc", ("X", "Y"), weights=weights))
    np.testing.assert_allclose(opacity(html)[0], weights, atol=0.01)
    (image,) = find(html, "image")
    left, width, height = (float(image.get(name)) for name in ("x", "width", "height"))
    labels = {one.text: one for one in find(html, "text")}
    for column, token in enumerate("abc"):
        x, y = (float(labels[token].get(name)) for name in ("x", "y"))
        assert left + column * width / 3 < x < left + (column + 1) * width / 3 and y > height
    for row, token in enumerate("XY"):
        x, y = (float(labels[token].get(name)) for name in ("x", "y"))
        assert x < left and row * height / 2 < y < (row + 1) * height / 2


@pytest.mark.parametrize("letters", [1, 2, 30])
@pytest.mark.parametrize("size", [1, 9, MAX_TOKENS])
def test_labels_lie_within_the_drawing(letters, size):
    tokens = [chr(ord("A") + i) * letters for i in range(size)]
    html = drawn(attention(tokens, tokens))
    (svg,) = find(html, "svg")
    longest = 6.6 * max(len(one.text) for one in find(html, "text"))  # of letters of 11 pixels
    rows = find(html, "text", text_anchor="end")[:size]
    assert all(float(one.get("x")) - longest >= -1 for one in rows)
    below = max(float(one.get("y")) for one in find(html, "text")[size:])
    turned = find(html, "text")[-1].get("transform") is not None
    assert turned == (letters > 2)
    assert below + longest * turned <= float(svg.get("height")) + 1


def test_the_verdict_has_a_colour():
    correct, wrong = attention("a", "X", verdict="correct"), attention("b", "Y", verdict="<wrong>")
    html = drawn(correct, wrong._replace(correct=False))
    assert texts(html, "div", class_="good") == ["correct"]
    assert texts(html, "div", class_="bad") == ["<wrong>"]


@pytest.mark.parametrize("weights", [np.full((1, 1), np.nan), np.zeros((1, 1))])
def test_empty_outputs_and_nan_weights_are_drawn(weights):
    html = drawn(attention("a", "↵", output="", weights=weights))
    assert "→ (empty)" in texts(html, "div")


def test_a_translation_is_shown_below_its_source_and_references():
    shown = Translation("line 3: chrF 10.0", "la casa", ("the house", "the home"), "a house")
    html = translations([shown])
    assert texts(html, "p") == ["line 3: chrF 10.0"]
    assert texts(html, "dt") == ["src", "ref", "ref", "hyp"]
    assert texts(html, "dd") == ["la casa", "the house", "the home", "a house"]
    assert texts(html, "mark") == ["a"]  # the nearest reference has "house"


def test_texts_are_escaped():
    html = translations([Translation("<h>", "<s>", ("<r> x",), "<o> x")])
    assert not any(f"<{letter}>" in html for letter in "hsro")
    assert texts(html, "mark") == ["<o>"]


def test_long_translations_are_truncated():
    long = " ".join(f"word{i}" for i in range(200))
    html = translations([Translation("one", long, (long,), "endless " * 1000)])
    assert html.count("word119") == 2 and "word120" not in html
    assert html.count("endless") == 120
    assert "(empty)" in translations([Translation("two", "x", ("y",), "")])
