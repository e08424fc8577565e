"""Words beside what they should be: their alignment, and pictures of it for any task.

An alignment is a list of pairs (reference word, hypothesis word), one of the two "" where a word
was deleted or inserted. Words are what spaces separate, phonemes too.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, zip_longest
from typing import Any, NamedTuple

import jiwer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

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

Alignment = Sequence[tuple[str, str]]

# The letters say what the colours say, for those who cannot tell these apart.
KINDS = {"S": "substituted", "D": "deleted", "I": "inserted"}
_COLOURS = {"S": "#bc4c00", "D": "#0969da", "I": "#a02c7f"}

_MOST_LINES = 6  # of one transcript
_MOST_BARS = 12
_LONGEST_LABEL = 16  # letters of a word beside a bar


class _Cell(NamedTuple):
    """A pair of an alignment on the page."""

    column: int
    width: int
    reference: str
    hypothesis: str
    kind: str


def align(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """The pairs of words, by the fewest edits, of each reference and its hypothesis."""
    words = jiwer.process_words(list(references), list(hypotheses))
    aligned = zip(words.references, words.hypotheses, words.alignments, strict=True)
    return [
        [
            pair
            for chunk in chunks
            for pair in zip_longest(
                reference[chunk.ref_start_idx : chunk.ref_end_idx],
                hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx],
                fillvalue="",
            )
        ]
        for reference, hypothesis, chunks in aligned
    ]


def edit(reference: str, hypothesis: str) -> str:
    """What became of a pair of an alignment: one of `KINDS`, and "" where it is right."""
    if reference == hypothesis:
        return ""
    return "I" if not reference else "D" if not hypothesis else "S"


def count_edits(alignment: Alignment) -> int:
    """The pairs of an alignment that are not right."""
    return sum(bool(edit(*pair)) for pair in alignment)


def transcripts(headings: Sequence[str], alignments: Sequence[Alignment]) -> Figure:
    """References over hypotheses word by word, each error marked by a colour and a letter."""
    bands = legend(alignments)
    for heading, alignment in zip(headings, alignments, strict=True):
        bands += [transcript(heading, alignment), (0.12, None)]
    return stack(bands)


def confusions(alignments: Sequence[Alignment]) -> Figure:
    """The words that were most often substituted, deleted and inserted."""
    counts: dict[str, Counter[tuple[str, str]]] = {kind: Counter() for kind in KINDS}
    for alignment in alignments:
        for pair in alignment:
            if kind := edit(*pair):
                counts[kind][pair] += 1
    rows = max(1, min(max(map(len, counts.values())), _MOST_BARS))
    most = max((count for counter in counts.values() for count in counter.values()), default=1)
    figure = Figure(figsize=(WIDTH, 0.6 + 0.21 * rows), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 3), KINDS, strict=True):
        _draw_bars(axes, kind, counts[kind])
        axes.set(xlim=(0, 1.15 * most), ylim=(rows - 0.4, -0.6))
    return figure


def legend(alignments: Sequence[Alignment]) -> list[Band]:
    """What the letters and colours mean, if there are any."""
    if not any(map(count_edits, alignments)):
        return []

    def draw(axes: Any) -> None:
        column = 0
        for kind, name in KINDS.items():
            _mark(axes, kind, column, 0, 1, 1)
            write(axes, column + 2, 0, name, color=FAINT)
            column += len(name) + 5

    return [page(1.8, draw)]


def transcript(heading: str, alignment: Alignment) -> Band:
    """Reference and hypothesis under a heading, wrapped, and cut where they are very long."""
    lines = _wrap(alignment)
    if len(lines) > _MOST_LINES:
        lines = lines[:_MOST_LINES]
        heading += f"; the first {sum(map(len, lines))} of {len(alignment)} words"
    # A line without errors needs no room for their letters.
    heights = [3.3 if any(cell.kind for cell in line) else 2.3 for line in lines]
    *tops, bottom = accumulate(heights, initial=1.2)

    def draw(axes: Any) -> None:
        write_heading(axes, heading)
        for top, line in zip(tops, lines, strict=True):
            _write_line(axes, line, top)

    return page(bottom, draw)


def _mark(axes: Any, kind: str, column: float, line: float, width: int, lines: int) -> None:
    """A box with the letter of an error in its last line."""
    colour = _COLOURS[kind]
    box = Rectangle((column - 0.4, line), width + 0.8, lines, fc=colour, alpha=0.13, clip_on=False)
    axes.add_patch(box)
    place = column + width / 2, line + lines - 1
    write(axes, *place, kind, color=colour, weight="bold", ha="center")


def _wrap(alignment: Alignment) -> list[list[_Cell]]:
    lines: list[list[_Cell]] = []
    column = COLUMNS
    for pair in alignment:
        reference, hypothesis = (shorten(word, COLUMNS) for word in pair)
        width = max(len(reference), len(hypothesis))
        if column + width > COLUMNS:
            lines.append([])
            column = 0
        lines[-1].append(_Cell(column, width, reference, hypothesis, edit(*pair)))
        column += width + 1
    return lines


def _write_line(axes: Any, cells: Sequence[_Cell], line: float) -> None:
    """Reference, hypothesis, and the letters of the errors beneath."""
    for place, name in enumerate(("ref", "hyp")):
        write_name(axes, line + place, name)
    for column, width, reference, hypothesis, kind in cells:
        for place, word in enumerate((reference, hypothesis)):
            colour = _COLOURS.get(kind, TEXT)
            write(axes, column, line + place, word or "*" * width, color=colour)
        if kind:
            _mark(axes, kind, column, line, width, 3)


def _draw_bars(axes: Any, kind: str, counts: Counter[tuple[str, str]]) -> None:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_BARS]
    labels = [" → ".join(shorten(w, _LONGEST_LABEL) for w in pair if w) for pair, _ in most]
    values = [count for _, count in most]
    axes.barh(range(len(most)), values, color=_COLOURS[kind], height=0.7)
    for place, value in enumerate(values):
        axes.text(value, place, f" {value}", va="center", fontsize=8, color=FAINT)
    axes.set_yticks(range(len(most)), labels, **FONT | {"fontsize": 8})
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.axis("on" if most else "off")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    title = f"{kind}  {counts.total():,} {KINDS[kind]}{' (ref → hyp)' if kind == 'S' else ''}"
    axes.set_title(title, fontsize=10, loc="left", color=_COLOURS[kind])
