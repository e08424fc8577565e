"""Pictures of a speech recogniser at work. Each function returns a matplotlib figure.

An alignment is a list of pairs (reference word, hypothesis word), one of the two "" where a word
was deleted or inserted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

Alignment = Sequence[tuple[str, str]]

# The letters say what the colours say, for those who cannot tell these apart.
KINDS = {"S": "substituted", "D": "deleted", "I": "inserted"}
_COLOURS = {"S": "#bc4c00", "D": "#0969da", "I": "#a02c7f"}
_CURVES = ("#0969da", "#d1570c", "#1a7f37", "#8250df", "#bf3989")
_TEXT, _FAINT, _BLANK = "#1f2328", "#59636e", "#9aa4ae"

_WIDTH, _LEFT, _RIGHT = 10.5, 0.55, 0.2  # inches; a report has room for 10.7
_INNER = _WIDTH - _LEFT - _RIGHT
_LINE = 0.165  # inches from a line of text to the next
_FONT: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": 9, "parse_math": False}
_LETTER = 0.602 * 9 / 72  # inches, the width of a letter in this font
_COLUMNS = int(_INNER / _LETTER)
_MOST_LINES = 6  # of one transcript
_MOST_SECONDS = 8  # of one spectrogram; more tokens could not be read
_MOST_BARS = 12
_LONGEST_LABEL = 16  # letters of a word beside a bar
_LIKELY = 0.2  # a class that is never so probable has a curve only if it is the best

_Band = tuple[float, Callable[[Any], None] | None]  # its height in inches, and what draws it


class Utterance(NamedTuple):
    """What is shown of one utterance."""

    heading: str
    alignment: Alignment
    features: np.ndarray  # [frames, bands]
    log_probs: np.ndarray  # [posterior_frames, classes], class 0 the blank
    seconds: float


class _Cell(NamedTuple):
    """A pair of an alignment on the page."""

    column: int
    width: int
    reference: str
    hypothesis: str
    kind: str


def edit(reference: str, hypothesis: str) -> str:
    """What became of a pair of an alignment: one of `KINDS`, and "" where it is right."""
    if reference == hypothesis:
        return ""
    return "I" if not reference else "D" if not hypothesis else "S"


def spectrogram_and_posterior(utterances: Sequence[Utterance], tokens: Sequence[str]) -> Figure:
    """Features above, and on the same time axis the CTC posterior, its peaks named.

    Class `i + 1` is `tokens[i]`. The names read as the best path does (Graves et al. 2006). Long
    utterances are cut.
    """
    bands = _legend([utterance.alignment for utterance in utterances])
    for utterance in map(_cut, utterances):
        bands += [_transcript(utterance.heading, utterance.alignment), (0.06, None)]
        bands += [_features(utterance), (0.06, None), _posterior(utterance, tokens), (0.55, None)]
    return _stack(bands)


def transcripts(headings: Sequence[str], alignments: Sequence[Alignment]) -> Figure:
    """References over hypotheses word by word, each error marked by a colour and a letter."""
    bands = _legend(alignments)
    for heading, alignment in zip(headings, alignments, strict=True):
        bands += [_transcript(heading, alignment), (0.12, None)]
    return _stack(bands)


def confusions(alignments: Sequence[Alignment]) -> Figure:
    """The words that were most often substituted, deleted and inserted."""
    counts: dict[str, Counter[tuple[str, str]]] = {kind: Counter() for kind in KINDS}
    for alignment in alignments:
        for pair in alignment:
            if kind := edit(*pair):
                counts[kind][pair] += 1
    rows = max(1, min(max(map(len, counts.values())), _MOST_BARS))
    most = max((count for counter in counts.values() for count in counter.values()), default=1)
    figure = Figure(figsize=(_WIDTH, 0.6 + 0.21 * rows), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 3), KINDS, strict=True):
        _draw_bars(axes, kind, counts[kind])
        axes.set(xlim=(0, 1.15 * most), ylim=(rows - 0.4, -0.6))
    return figure


def _stack(bands: Sequence[_Band]) -> Figure:
    """The bands from the top down, all of the same width."""
    height = sum(inches for inches, _ in bands) + 0.15
    figure = Figure(figsize=(_WIDTH, height))
    top = height - 0.1
    for inches, draw in bands:
        top -= inches
        if draw:
            box = (_LEFT / _WIDTH, top / height, _INNER / _WIDTH, inches / height)
            draw(figure.add_axes(box))
    return figure


def _page(lines: float, write: Callable[[Any], None]) -> _Band:
    """Text, whose places are columns and lines; the margin has negative columns."""

    def draw(axes: Any) -> None:
        axes.axis("off")
        axes.set(xlim=(0, _INNER / _LETTER), ylim=(lines, 0))
        write(axes)

    return lines * _LINE, draw


def _write(axes: Any, column: float, line: float, text: str, **style: Any) -> None:
    axes.text(column, line + 0.5, text, **{"va": "center", "color": _TEXT, **_FONT, **style})


def _mark(axes: Any, kind: str, column: float, line: float, width: int, lines: int) -> None:
    """A box with the letter of an error in its last line."""
    colour = _COLOURS[kind]
    box = Rectangle((column - 0.4, line), width + 0.8, lines, fc=colour, alpha=0.13, clip_on=False)
    axes.add_patch(box)
    place = column + width / 2, line + lines - 1
    _write(axes, *place, kind, color=colour, weight="bold", ha="center")


def _legend(alignments: Sequence[Alignment]) -> list[_Band]:
    """What the letters and colours mean, if there are any."""
    if not any(edit(*pair) for alignment in alignments for pair in alignment):
        return []

    def write(axes: Any) -> None:
        column = 0
        for kind, name in KINDS.items():
            _mark(axes, kind, column, 0, 1, 1)
            _write(axes, column + 2, 0, name, color=_FAINT)
            column += len(name) + 5

    return [_page(1.8, write)]


def _transcript(heading: str, alignment: Alignment) -> _Band:
    """Reference and hypothesis under a heading, wrapped, and cut where they are very long."""
    lines = _wrap(alignment)
    if len(lines) > _MOST_LINES:
        lines = lines[:_MOST_LINES]
        heading += f"; the first {sum(map(len, lines))} of {len(alignment)} words"
    # A line without errors needs no room for their letters.
    heights = [3.3 if any(cell.kind for cell in line) else 2.3 for line in lines]
    *tops, bottom = accumulate(heights, initial=1.2)

    def write(axes: Any) -> None:
        _write(axes, -_LEFT / _LETTER + 1, 0, heading, family="sans-serif", color=_FAINT)
        for top, line in zip(tops, lines, strict=True):
            _write_line(axes, line, top)

    return _page(bottom, write)


def _wrap(alignment: Alignment) -> list[list[_Cell]]:
    lines: list[list[_Cell]] = []
    column = _COLUMNS
    for pair in alignment:
        reference, hypothesis = (_shorten(word, _COLUMNS) for word in pair)
        width = max(len(reference), len(hypothesis))
        if column + width > _COLUMNS:
            lines.append([])
            column = 0
        lines[-1].append(_Cell(column, width, reference, hypothesis, edit(*pair)))
        column += width + 1
    return lines


def _write_line(axes: Any, cells: Sequence[_Cell], line: float) -> None:
    """Reference, hypothesis, and the letters of the errors beneath."""
    for place, name in enumerate(("ref", "hyp")):
        _write(axes, -1, line + place, name, color=_FAINT, ha="right", fontsize=8)
    for column, width, reference, hypothesis, kind in cells:
        for place, word in enumerate((reference, hypothesis)):
            colour = _COLOURS.get(kind, _TEXT)
            _write(axes, column, line + place, word or "*" * width, color=colour)
        if kind:
            _mark(axes, kind, column, line, width, 3)


def _cut(utterance: Utterance) -> Utterance:
    """The utterance with no more of its features and posterior than can be read."""
    if utterance.seconds <= _MOST_SECONDS:
        return utterance
    part = _MOST_SECONDS / utterance.seconds
    features, log_probs = utterance.features, utterance.log_probs
    return utterance._replace(
        heading=f"{utterance.heading}; the first {_MOST_SECONDS} of {utterance.seconds:.1f} s",
        features=features[: round(part * len(features))],
        log_probs=log_probs[: round(part * len(log_probs))],
        seconds=_MOST_SECONDS,
    )


def _features(utterance: Utterance) -> _Band:
    def draw(axes: Any) -> None:
        low, high = np.percentile(utterance.features, (1, 99.8))
        extent = (0, utterance.seconds, 0, utterance.features.shape[1])
        style = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": low, "vmax": high}
        axes.imshow(utterance.features.T, extent=extent, **style)
        axes.set_ylabel("feature", fontsize=8)
        axes.tick_params(labelsize=8, labelbottom=False)

    return 1.4, draw


def _posterior(utterance: Utterance, tokens: Sequence[str]) -> _Band:
    """A curve for each likely class. One unit of the vertical axis, a probability, is an inch."""
    probability = np.exp(utterance.log_probs)
    time = (np.arange(len(probability)) + 0.5) * utterance.seconds / len(probability)
    peaks = _best_path(probability)
    names = [tokens[number - 1] for number, _ in peaks]
    inches = [time[frame] * _INNER / utterance.seconds for _, frame in peaks]
    rows = _rows(inches, [(len(name) + 0.2) * _LETTER for name in names])
    height = 1.1 + (1 + max(rows, default=0)) * _LINE
    likely = np.flatnonzero(probability.max(axis=0) >= _LIKELY)
    shown = dict.fromkeys([number for number, _ in peaks] + [n for n in likely if n])
    colours = {number: _CURVES[i % len(_CURVES)] for i, number in enumerate(shown)}

    def draw(axes: Any) -> None:
        axes.fill_between(time, probability[:, 0], color=_BLANK, alpha=0.2, linewidth=0)
        blank = axes.plot(time, probability[:, 0], color=_BLANK, linewidth=1)
        for number, colour in colours.items():
            axes.plot(time, probability[:, number], color=colour, linewidth=1.2)
        for (number, frame), name, row in zip(peaks, names, rows, strict=True):
            top, colour = 1.1 + row * _LINE, colours[number]
            axes.vlines(time[frame], probability[frame, number], top, colour, linewidth=0.4)
            axes.text(time[frame], top, name, color=colour, ha="center", **_FONT)
        axes.set(xlim=(0, utterance.seconds), ylim=(0, height), yticks=(0, 0.5, 1))
        axes.set_xlabel("seconds", fontsize=8)
        axes.set_ylabel("probability", fontsize=8, y=0.5 / height)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        corner = {"loc": "upper right", "bbox_to_anchor": (1, -0.21 / height), "borderpad": 0}
        axes.legend(blank, ["blank"], fontsize=8, frameon=False, labelcolor=_FAINT, **corner)

    return height, draw


def _best_path(probability: np.ndarray) -> list[tuple[int, int]]:
    """Class and most probable frame of each token of the best path through [frames, classes]."""
    best = probability.argmax(axis=-1)
    edges = [0, *(np.flatnonzero(np.diff(best)) + 1), len(best)]
    return [
        (int(best[start]), int(start + probability[start:end, best[start]].argmax()))
        for start, end in pairwise(edges)
        if best[start]
    ]


def _rows(centres: Sequence[float], widths: Sequence[float]) -> list[int]:
    """For labels from left to right, the lowest row in which each does not touch another."""
    ends: list[float] = []
    rows = []
    for centre, width in zip(centres, widths, strict=True):
        left = centre - width / 2
        row = next((row for row, end in enumerate(ends) if end <= left), len(ends))
        ends[row : row + 1] = [centre + width / 2]
        rows.append(row)
    return rows


def _draw_bars(axes: Any, kind: str, counts: Counter[tuple[str, str]]) -> None:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_BARS]
    labels = [" → ".join(_shorten(w, _LONGEST_LABEL) for w in pair if w) for pair, _ in most]
    values = [count for _, count in most]
    axes.barh(range(len(most)), values, color=_COLOURS[kind], height=0.7)
    for place, value in enumerate(values):
        axes.text(value, place, f" {value}", va="center", fontsize=8, color=_FAINT)
    axes.set_yticks(range(len(most)), labels, **_FONT | {"fontsize": 8})
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.axis("on" if most else "off")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    title = f"{kind}  {counts.total():,} {KINDS[kind]}{' (ref → hyp)' if kind == 'S' else ''}"
    axes.set_title(title, fontsize=10, loc="left", color=_COLOURS[kind])


def _shorten(word: str, letters: int) -> str:
    return word if len(word) <= letters else word[: letters - 1] + "…"
