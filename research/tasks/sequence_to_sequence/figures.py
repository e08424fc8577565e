"""Figures of attention weights and translations. Each function returns a matplotlib figure."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from research.reporting.pages import (
    COLUMNS,
    FAINT,
    FONT,
    INNER,
    LEFT,
    LETTER,
    LINE,
    TEXT,
    Band,
    page,
    shorten,
    stack,
    write,
    write_heading,
    write_name,
)
from research.tasks.sequence_to_sequence.outputs import EOS_SYMBOL, Attention, Translation

_EMPTY = "(empty)"  # shown for an empty output
_MAX_LINES = 6  # of one text
_SHADES = {"cmap": "Blues", "vmin": 0, "vmax": 1, "clip_on": False}
_CORRECT, _WRONG, _GRID = "#1a7f37", "#cf222e", "#d1d9e0"

_EDGE = LETTER - LEFT  # inches from the left edge of a band to its headings
_GAP = 0.25  # inches between matrices side by side
_SMALLEST, _LARGEST = 0.135, 0.26  # inches of a cell; labels of smaller ones would overlap
_LABEL: dict[str, Any] = FONT | {"fontsize": 8}
_LABEL_LETTER = LETTER * 8 / 9
_MAX_LABEL = 10  # letters of a token beside a matrix


def attention_matrices(shown: Sequence[Attention]) -> Figure:
    """Draws attention weights, source tokens as columns and output tokens as rows.

    Three matrices are drawn side by side, or two if they are large, all with the same cell size.
    """
    across = 3 if _cell(shown, 3) >= _SMALLEST else 2
    cell = min(_cell(shown, across), _LARGEST)
    bands = [_scale()]
    for start in range(0, len(shown), across):
        bands += [_side_by_side(shown[start : start + across], across, cell), (0.3, None)]
    return stack(bands)


def translations(shown: Sequence[Translation]) -> Figure:
    """Draws source, references and output of each translation under a heading."""
    bands: list[Band] = []
    for translation in shown:
        bands += [_translation(translation), (0.18, None)]
    return stack(bands)


def _translation(translation: Translation) -> Band:
    references = (("ref", reference, TEXT) for reference in translation.references)
    texts = [("src", translation.source, FAINT), *references, ("hyp", translation.output, TEXT)]
    lines = [
        (name * (not number), line, colour)
        for name, text, colour in texts
        for number, line in enumerate(_wrap(text, COLUMNS, _MAX_LINES))
    ]

    def draw(axes: Any) -> None:
        write_heading(axes, translation.heading)
        for number, (name, line, colour) in enumerate(lines):
            write_name(axes, 1.2 + number, name)
            write(axes, 0, 1.2 + number, line, color=colour)

    return page(1.2 + len(lines), draw)


def _scale() -> Band:
    """Draws the colour scale."""

    def draw(axes: Any) -> None:
        start = 1 - LEFT / LETTER
        shades = np.linspace(0, 1, 65)
        axes.pcolormesh(start + 2 + 14 * shades, (0.1, 0.9), shades[None, :-1], **_SHADES)
        write(axes, start, 0, "0", color=FAINT)
        write(axes, start + 17, 0, "1", color=FAINT)
        meaning = "attention weights: output tokens (rows), source tokens (columns); "
        write(axes, start + 21, 0, f"{meaning}{EOS_SYMBOL} is the end", color=FAINT)

    return page(2, draw)


def _cell(shown: Sequence[Attention], across: int) -> float:
    """Returns the cell size in inches with which `across` matrices fit side by side."""
    room = (INNER - _EDGE) / across - _GAP
    return min((room - _beside(one)) / len(one.columns) for one in shown)


def _beside(one: Attention) -> float:
    """Returns the width of the row labels in inches."""
    return 0.08 + _longest(one.rows)


def _beneath(one: Attention, cell: float) -> float:
    """Returns the height of the column labels in inches; labels wider than a cell are rotated."""
    longest = _longest(one.columns)
    return 0.08 + max(LINE, longest if longest > cell else 0)


def _longest(tokens: Sequence[str]) -> float:
    """Returns the width of the longest label in inches."""
    return _LABEL_LETTER * max(map(len, _labels(tokens)))


def _labels(tokens: Sequence[str]) -> list[str]:
    return [shorten(token, _MAX_LABEL) for token in tokens]


def _side_by_side(shown: Sequence[Attention], across: int, cell: float) -> Band:
    """Returns a band of matrices, whose coordinates are inches."""
    width = (INNER - _EDGE) / across
    headings = [_heading(one, int((width - _GAP) / LETTER)) for one in shown]
    top = LINE * max(map(len, headings)) + 0.08
    height = top + max(cell * len(one.rows) + _beneath(one, cell) for one in shown)

    def draw(axes: Any) -> None:
        axes.axis("off")
        axes.set(xlim=(0, INNER), ylim=(height, 0))
        for column, (one, heading) in enumerate(zip(shown, headings, strict=True)):
            left = _EDGE + column * width
            for number, (line, colour) in enumerate(heading):
                y = (number + 0.5) * LINE
                axes.text(left, y, line, va="center", color=colour, **FONT)
            _draw_matrix(axes, one, left + _beside(one), top, cell)

    return height, draw


def _heading(one: Attention, letters: int) -> list[tuple[str, str]]:
    """Returns the lines of a heading with their colours."""
    verdict = _CORRECT if one.correct else _WRONG
    texts = [(one.source, FAINT), (f"→ {one.output or _EMPTY}", TEXT), (one.verdict, verdict)]
    return [(line, colour) for text, colour in texts if text for line in _wrap(text, letters, 3)]


def _draw_matrix(axes: Any, one: Attention, left: float, top: float, cell: float) -> None:
    x = left + cell * np.arange(len(one.columns) + 1)
    y = top + cell * np.arange(len(one.rows) + 1)
    weights = one.weights.astype(np.float32)
    axes.pcolormesh(x, y, weights, edgecolors=_GRID, linewidth=0.4, **_SHADES)
    style = _LABEL | {"color": TEXT}
    for edge, label in zip(x[:-1], _labels(one.columns), strict=True):
        rotated = {
            "ha": "center",
            "va": "top",
            "rotation": 90 * (_LABEL_LETTER * len(label) > cell),
        }
        axes.text(edge + cell / 2, y[-1] + 0.05, label, **style, **rotated)
    for edge, label in zip(y[:-1], _labels(one.rows), strict=True):
        axes.text(left - 0.05, edge + cell / 2, label, ha="right", va="center", **style)


def _wrap(text: str, letters: int, lines: int) -> list[str]:
    return wrap(text, letters, max_lines=lines, placeholder=" …") or [_EMPTY]
