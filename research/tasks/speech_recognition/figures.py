"""Pictures of a speech recogniser at work. Each function returns a matplotlib figure."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from research.reporting.alignments import Alignment, legend, transcript
from research.reporting.pages import (
    FAINT,
    FONT,
    INNER,
    LETTER,
    LINE,
    Band,
    stack,
)

_CURVES = ("#0969da", "#d1570c", "#1a7f37", "#8250df", "#bf3989")
_BLANK = "#9aa4ae"
_MOST_SECONDS = 8  # of one spectrogram; more tokens could not be read
_LIKELY = 0.2  # a class that is never so probable has a curve only if it is the best


class Utterance(NamedTuple):
    """What is shown of one utterance."""

    heading: str
    alignment: Alignment
    features: np.ndarray  # [frames, bands]
    log_probs: np.ndarray  # [posterior_frames, classes], class 0 the blank
    seconds: float


def spectrogram_and_posterior(utterances: Sequence[Utterance], tokens: Sequence[str]) -> Figure:
    """Features above, and on the same time axis the CTC posterior, its peaks named.

    Class `i + 1` is `tokens[i]`. The names read as the best path does (Graves et al. 2006). Long
    utterances are cut.
    """
    bands = legend([utterance.alignment for utterance in utterances])
    for utterance in map(_cut, utterances):
        bands += [transcript(utterance.heading, utterance.alignment), (0.06, None)]
        bands += [_features(utterance), (0.06, None), _posterior(utterance, tokens), (0.55, None)]
    return stack(bands)


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


def _features(utterance: Utterance) -> Band:
    def draw(axes: Any) -> None:
        low, high = np.percentile(utterance.features, (1, 99.8))
        extent = (0, utterance.seconds, 0, utterance.features.shape[1])
        style = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": low, "vmax": high}
        axes.imshow(utterance.features.T, extent=extent, **style)
        axes.set_ylabel("feature", fontsize=8)
        axes.tick_params(labelsize=8, labelbottom=False)

    return 1.4, draw


def _posterior(utterance: Utterance, tokens: Sequence[str]) -> Band:
    """A curve for each likely class. One unit of the vertical axis, a probability, is an inch."""
    probability = np.exp(utterance.log_probs)
    time = (np.arange(len(probability)) + 0.5) * utterance.seconds / len(probability)
    peaks = _best_path(probability)
    names = [tokens[number - 1] for number, _ in peaks]
    inches = [time[frame] * INNER / utterance.seconds for _, frame in peaks]
    rows = _rows(inches, [(len(name) + 0.2) * LETTER for name in names])
    height = 1.1 + (1 + max(rows, default=0)) * LINE
    likely = np.flatnonzero(probability.max(axis=0) >= _LIKELY)
    shown = dict.fromkeys([number for number, _ in peaks] + [n for n in likely if n])
    colours = {number: _CURVES[i % len(_CURVES)] for i, number in enumerate(shown)}

    def draw(axes: Any) -> None:
        axes.fill_between(time, probability[:, 0], color=_BLANK, alpha=0.2, linewidth=0)
        blank = axes.plot(time, probability[:, 0], color=_BLANK, linewidth=1)
        for number, colour in colours.items():
            axes.plot(time, probability[:, number], color=colour, linewidth=1.2)
        for (number, frame), name, row in zip(peaks, names, rows, strict=True):
            top, colour = 1.1 + row * LINE, colours[number]
            axes.vlines(time[frame], probability[frame, number], top, colour, linewidth=0.4)
            axes.text(time[frame], top, name, color=colour, ha="center", **FONT)
        axes.set(xlim=(0, utterance.seconds), ylim=(0, height), yticks=(0, 0.5, 1))
        axes.set_xlabel("seconds", fontsize=8)
        axes.set_ylabel("probability", fontsize=8, y=0.5 / height)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        corner = {"loc": "upper right", "bbox_to_anchor": (1, -0.21 / height), "borderpad": 0}
        axes.legend(blank, ["blank"], fontsize=8, frameon=False, labelcolor=FAINT, **corner)

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
