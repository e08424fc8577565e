"""Figures of word alignments: transcripts with their errors, and the most frequent errors."""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from research.reporting.alignments import Alignment, count_edits, edit_type
from research.reporting.pages import (
    COLUMNS,
    FAINT,
    FONT,
    TEXT,
    WIDTH,
    Band,
    page,
    shorten,
    stack,
    write,
    write_heading,
    write_name,
)

# Letters repeat the colours, for colour-blind readers.
_EDIT_TYPES = {"S": "substituted", "D": "deleted", "I": "inserted"}
_COLOURS = {"S": "#bc4c00", "D": "#0969da", "I": "#a02c7f"}

_MAX_LINES = 6  # of one transcript
_MAX_BARS = 12
_MAX_LABEL = 16  # letters of a word beside a bar


class _Cell(NamedTuple):
    """A pair of an alignment with its column on the page."""

    column: int
    width: int
    reference: str
    hypothesis: str
    kind: str


def transcripts(headings: Sequence[str], alignments: Sequence[Alignment]) -> Figure:
    """Draws references above hypotheses, word by word; a colour and a letter mark each error."""
    bands = legend(alignments)
    for heading, alignment in zip(headings, alignments, strict=True):
        bands += [transcript(heading, alignment), (0.12, None)]
    return stack(bands)


def confusions(alignments: Sequence[Alignment]) -> Figure:
    """Draws bar charts of the most frequent substitutions, deletions and insertions."""
    counts: dict[str, Counter[tuple[str, str]]] = {kind: Counter() for kind in _EDIT_TYPES}
    for alignment in alignments:
        for pair in alignment:
            if kind := edit_type(*pair):
                counts[kind][pair] += 1
    rows = max(1, min(max(map(len, counts.values())), _MAX_BARS))
    most = max((count for counter in counts.values() for count in counter.values()), default=1)
    figure = Figure(figsize=(WIDTH, 0.6 + 0.21 * rows), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 3), _EDIT_TYPES, strict=True):
        _draw_bars(axes, kind, counts[kind])
        axes.set(xlim=(0, 1.15 * most), ylim=(rows - 0.4, -0.6))
    return figure


def legend(alignments: Sequence[Alignment]) -> list[Band]:
    """Returns the legend of letters and colours; no band if all words are correct."""
    if not any(map(count_edits, alignments)):
        return []

    def draw(axes: Any) -> None:
        column = 0
        for kind, name in _EDIT_TYPES.items():
            _mark(axes, kind, column, 0, 1, 1)
            write(axes, column + 2, 0, name, color=FAINT)
            column += len(name) + 5

    return [page(1.8, draw)]


def transcript(heading: str, alignment: Alignment) -> Band:
    """Returns reference and hypothesis under a heading, wrapped, and truncated if very long."""
    lines = _wrap(alignment)
    if len(lines) > _MAX_LINES:
        lines = lines[:_MAX_LINES]
        heading += f"; the first {sum(map(len, lines))} of {len(alignment)} words"
    # A line without errors has no row of letters.
    heights = [3.3 if any(cell.kind for cell in line) else 2.3 for line in lines]
    *tops, bottom = accumulate(heights, initial=1.2)

    def draw(axes: Any) -> None:
        write_heading(axes, heading)
        for top, line in zip(tops, lines, strict=True):
            _write_line(axes, line, top)

    return page(bottom, draw)


def _mark(axes: Any, kind: str, column: float, line: float, width: int, lines: int) -> None:
    """Draws a box around an error, with its letter in the last line."""
    colour = _COLOURS[kind]
    box = Rectangle((column - 0.4, line), width + 0.8, lines, fc=colour, alpha=0.13, clip_on=False)
    axes.add_patch(box)
    write(
        axes, column + width / 2, line + lines - 1, kind, color=colour, weight="bold", ha="center"
    )


def _wrap(alignment: Alignment) -> list[list[_Cell]]:
    lines: list[list[_Cell]] = []
    column = COLUMNS
    for pair in alignment:
        reference, hypothesis = (shorten(word, COLUMNS) for word in pair)
        width = max(len(reference), len(hypothesis))
        if column + width > COLUMNS:
            lines.append([])
            column = 0
        lines[-1].append(_Cell(column, width, reference, hypothesis, edit_type(*pair)))
        column += width + 1
    return lines


def _write_line(axes: Any, cells: Sequence[_Cell], line: float) -> None:
    """Draws reference, hypothesis, and below them the letters of the errors."""
    for row, name in enumerate(("ref", "hyp")):
        write_name(axes, line + row, name)
    for column, width, reference, hypothesis, kind in cells:
        for row, word in enumerate((reference, hypothesis)):
            colour = _COLOURS.get(kind, TEXT)
            write(axes, column, line + row, word or "*" * width, color=colour)
        if kind:
            _mark(axes, kind, column, line, width, 3)


def _draw_bars(axes: Any, kind: str, counts: Counter[tuple[str, str]]) -> None:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_BARS]
    labels = [" → ".join(shorten(w, _MAX_LABEL) for w in pair if w) for pair, _ in most]
    values = [count for _, count in most]
    axes.barh(range(len(most)), values, color=_COLOURS[kind], height=0.7)
    for row, value in enumerate(values):
        axes.text(value, row, f" {value}", va="center", fontsize=8, color=FAINT)
    axes.set_yticks(range(len(most)), labels, **FONT | {"fontsize": 8})
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.axis("on" if most else "off")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    title = f"{kind}  {counts.total():,} {_EDIT_TYPES[kind]}{' (ref → hyp)' if kind == 'S' else ''}"
    axes.set_title(title, fontsize=10, loc="left", color=_COLOURS[kind])
