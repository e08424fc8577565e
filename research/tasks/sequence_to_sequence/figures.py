"""Figures of attention weights and translations."""

from collections.abc import Iterable, Sequence

import numpy as np

from research.reporting.alignments import align
from research.reporting.elements import image_uri, shades
from research.reporting.html import Html, element, join
from research.tasks.sequence_to_sequence.outputs import EOS_SYMBOL, Attention, Translation

_EMPTY = "(empty)"  # shown for an empty output
_MAX_WORDS = 120  # of one text
_MAX_LABEL = 10  # letters of a token beside a matrix
_CELL, _LETTER = 15, 6.8  # sizes in units of the drawing, at most one pixel each


def attention_matrices(shown: Sequence[Attention]) -> Html:
    """Draws attention weights, source tokens as columns and output tokens as rows."""
    scale = element("span", class_="scale c0", role="img", aria_label="weights from 0 to 1")
    meaning = f"rows: output tokens, columns: source tokens; {EOS_SYMBOL} is the end"
    key = element("p", "weight 0 ", scale, f" 1; {meaning}", class_="caption")
    return join([key, element("div", *map(_matrix, shown), class_="matrices")])


def translations(shown: Iterable[Translation]) -> Html:
    """Shows source, references and output of each translation; words of no reference are marked."""
    return join(map(_translation, shown))


def _translation(translation: Translation) -> Html:
    references = [("ref", _first_words(text)) for text in translation.references]
    texts: list[tuple[str, str]] = [("src", _first_words(translation.source)), *references]
    texts.append(("hyp", _marked(translation.output, translation.references)))
    rows = [part for name, text in texts for part in (element("dt", name), element("dd", text))]
    heading = element("p", translation.heading, class_="caption")
    return join([heading, element("dl", *rows, class_="texts")])


def _first_words(text: str) -> str:
    words = text.split()
    return " ".join(words[:_MAX_WORDS]) + (" …" if len(words) > _MAX_WORDS else "") or _EMPTY


def _marked(output: str, references: Sequence[str]) -> Html | str:
    """Returns an output whose differences from the nearest reference are marked."""
    output = _first_words(output)
    alignments = align(list(references), [output] * len(references))
    nearest = min(alignments, key=lambda pairs: sum(a != b for a, b in pairs))
    words = [
        element("mark", word) if word != reference else word for reference, word in nearest if word
    ]
    return join(part for word in words for part in (word, " "))


def _matrix(one: Attention) -> Html:
    texts = [(one.source, "faint"), (f"→ {one.output or _EMPTY}", None)]
    if one.verdict:
        texts.append((one.verdict, "good" if one.correct else "bad"))
    heading = [element("div", _first_words(text), class_=kind) for text, kind in texts]
    return element("figure", element("figcaption", *heading), _drawing(one))


def _drawing(one: Attention) -> Html:
    rows, columns = _labels(one.rows), _labels(one.columns)
    left = 6 + _LETTER * max(map(len, rows))
    width, height = _CELL * len(columns), _CELL * len(rows)
    rotated = max(map(len, columns)) * _LETTER > _CELL
    image = {"x": left, "y": 0, "width": width, "height": height, "class_": "pixelated"}
    weights = image_uri(shades(one.weights.astype(np.float32)))
    frame = element("rect", x=left, y=0, width=width, height=height, class_="frame")
    parts = [element("image", href=weights, preserveAspectRatio="none", **image), frame]
    for number, label in enumerate(rows):
        y = _CELL * (number + 0.5) + 4
        parts.append(element("text", label, x=f"{left - 4:g}", y=y, text_anchor="end"))
    for number, label in enumerate(columns):
        x, y = f"{left + _CELL * (number + 0.5) + 4 * rotated:g}", height + 6
        turn = f"rotate(-90 {x} {y})" if rotated else None
        anchor = "end" if rotated else "middle"
        parts.append(
            element("text", label, x=x, y=y + 8 * (not rotated), text_anchor=anchor, transform=turn)
        )
    total = left + width + 2
    below = height + 8 + (_LETTER * max(map(len, columns)) if rotated else 10)
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {total:g} {below:g}",
        width=f"{total:g}",
        height=f"{below:g}",
        role="img",
        aria_label=f"Attention weights of {one.source} → {one.output or _EMPTY}",
    )


def _labels(tokens: Sequence[str]) -> list[str]:
    return [t if len(t) <= _MAX_LABEL else t[: _MAX_LABEL - 1] + "…" for t in tokens]
