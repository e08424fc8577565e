"""Pictures of outputs and of how they were written. Each function returns a matplotlib figure."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any, NamedTuple

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

LONGEST = 30  # tokens of a side of a matrix: half the width of a page at the smallest cell
END_SIGN = "↵"  # in place of the end of a sequence
_NOTHING = "(nothing)"  # in place of an empty output
_MOST_LINES = 6  # of one text
_SHADES = {"cmap": "Blues", "vmin": 0, "vmax": 1, "clip_on": False}
_RIGHT, _WRONG, _GRID = "#1a7f37", "#cf222e", "#d1d9e0"

_EDGE = LETTER - LEFT  # inches from a band's left end to where headings begin
_GAP = 0.25  # inches between matrices side by side
_SMALLEST, _LARGEST = 0.135, 0.26  # inches of a cell; names that are nearer are hard to read
_LABEL: dict[str, Any] = FONT | {"fontsize": 8}
_LABEL_LETTER = LETTER * 8 / 9
_LONGEST_LABEL = 10  # letters of a token beside a matrix


class Attention(NamedTuple):
    """What is shown of one output and of how it was written."""

    source: str
    output: str
    verdict: str  # on the output; "" where none can be given
    right: bool
    columns: Sequence[str]  # the tokens that were read
    rows: Sequence[str]  # the tokens that were written
    weights: np.ndarray  # [rows, columns]


class Translation(NamedTuple):
    """What is shown of one translation."""

    heading: str
    source: str
    references: Sequence[str]
    output: str


def attention_matrices(shown: Sequence[Attention]) -> Figure:
    """What was looked at while each token was written: the input across, the output down.

    Three stand side by side, or two if they are large, and all have cells of one size.
    """
    across = 3 if _cell(shown, 3) >= _SMALLEST else 2
    cell = min(_cell(shown, across), _LARGEST)
    bands = [_scale()]
    for start in range(0, len(shown), across):
        bands += [_side_by_side(shown[start : start + across], across, cell), (0.3, None)]
    return stack(bands)


def translations(shown: Sequence[Translation]) -> Figure:
    """Source, references and output of each, under a heading."""
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
        for number, line in enumerate(_wrap(text, COLUMNS, _MOST_LINES))
    ]

    def draw(axes: Any) -> None:
        write_heading(axes, translation.heading)
        for place, (name, line, colour) in enumerate(lines):
            write_name(axes, 1.2 + place, name)
            write(axes, 0, 1.2 + place, line, color=colour)

    return page(1.2 + len(lines), draw)


def _scale() -> Band:
    """What the shades mean."""

    def draw(axes: Any) -> None:
        start = 1 - LEFT / LETTER
        shades = np.linspace(0, 1, 65)
        axes.pcolormesh(start + 2 + 14 * shades, (0.1, 0.9), shades[None, :-1], **_SHADES)
        write(axes, start, 0, "0", color=FAINT)
        write(axes, start + 17, 0, "1", color=FAINT)
        meaning = "how much each token written (down) took from those read (across); "
        meaning += f"{END_SIGN} is the end"
        write(axes, start + 21, 0, meaning, color=FAINT)

    return page(2, draw)


def _cell(shown: Sequence[Attention], across: int) -> float:
    """The inches of a cell with which each matrix fits where so many are side by side."""
    room = (INNER - _EDGE) / across - _GAP
    return min((room - _beside(one)) / len(one.columns) for one in shown)


def _beside(one: Attention) -> float:
    """The inches that the names of the rows take."""
    return 0.08 + _longest(one.rows)


def _beneath(one: Attention, cell: float) -> float:
    """The inches that the names of the columns take; those wider than a column are turned."""
    longest = _longest(one.columns)
    return 0.08 + max(LINE, longest if longest > cell else 0)


def _longest(tokens: Sequence[str]) -> float:
    """The inches of the longest name."""
    return _LABEL_LETTER * max(map(len, _labels(tokens)))


def _labels(tokens: Sequence[str]) -> list[str]:
    return [shorten(token, _LONGEST_LABEL) for token in tokens]


def _side_by_side(shown: Sequence[Attention], across: int, cell: float) -> Band:
    """Some matrices in a band whose unit is an inch."""
    width = (INNER - _EDGE) / across
    headings = [_heading(one, int((width - _GAP) / LETTER)) for one in shown]
    top = LINE * max(map(len, headings)) + 0.08
    height = top + max(cell * len(one.rows) + _beneath(one, cell) for one in shown)

    def draw(axes: Any) -> None:
        axes.axis("off")
        axes.set(xlim=(0, INNER), ylim=(height, 0))
        for place, (one, heading) in enumerate(zip(shown, headings, strict=True)):
            left = _EDGE + place * width
            for number, (line, colour) in enumerate(heading):
                y = (number + 0.5) * LINE
                axes.text(left, y, line, va="center", color=colour, **FONT)
            _draw_matrix(axes, one, left + _beside(one), top, cell)

    return height, draw


def _heading(one: Attention, letters: int) -> list[tuple[str, str]]:
    """Lines and their colours."""
    verdict = _RIGHT if one.right else _WRONG
    texts = [(one.source, FAINT), (f"→ {one.output or _NOTHING}", TEXT), (one.verdict, verdict)]
    return [(line, colour) for text, colour in texts if text for line in _wrap(text, letters, 3)]


def _draw_matrix(axes: Any, one: Attention, left: float, top: float, cell: float) -> None:
    x = left + cell * np.arange(len(one.columns) + 1)
    y = top + cell * np.arange(len(one.rows) + 1)
    weights = one.weights.astype(np.float32)
    axes.pcolormesh(x, y, weights, edgecolors=_GRID, linewidth=0.4, **_SHADES)
    style = _LABEL | {"color": TEXT}
    for place, label in zip(x[:-1], _labels(one.columns), strict=True):
        turned = {"ha": "center", "va": "top", "rotation": 90 * (_LABEL_LETTER * len(label) > cell)}
        axes.text(place + cell / 2, y[-1] + 0.05, label, **style, **turned)
    for place, label in zip(y[:-1], _labels(one.rows), strict=True):
        axes.text(left - 0.05, place + cell / 2, label, ha="right", va="center", **style)


def _wrap(text: str, letters: int, lines: int) -> list[str]:
    return wrap(text, letters, max_lines=lines, placeholder=" …") or [_NOTHING]
