"""Figures of features and CTC posteriors."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from research.reporting.alignments import Alignment
from research.reporting.pages import (
    FAINT,
    FONT,
    INNER,
    LETTER,
    LINE,
    Band,
    stack,
)
from research.reporting.transcripts import legend, transcript

_CURVES = ("#0969da", "#d1570c", "#1a7f37", "#8250df", "#bf3989")
_BLANK = "#9aa4ae"
_MAX_SECONDS = 8  # of one spectrogram; labels of more tokens would be illegible
_MIN_PEAK = 0.2  # smaller peaks are drawn only for tokens of the best path


class Utterance(NamedTuple):
    """One utterance of a figure."""

    heading: str
    alignment: Alignment
    features: np.ndarray  # [frames, size]
    log_probs: np.ndarray  # [output frames, classes]; class 0 is the blank
    seconds: float


def spectrogram_and_posterior(utterances: Sequence[Utterance], tokens: Sequence[str]) -> Figure:
    """Draws the features and, on the same time axis, the CTC posterior with labelled peaks.

    The labels are the tokens of the best path (Graves et al. 2006).

    Args:
      utterances: the utterances to draw; long ones are truncated.
      tokens: token of each class except the blank: class `i + 1` is `tokens[i]`.
    """
    bands = legend([utterance.alignment for utterance in utterances])
    for utterance in map(_truncate, utterances):
        bands += [transcript(utterance.heading, utterance.alignment), (0.06, None)]
        bands += [_features(utterance), (0.06, None), _posterior(utterance, tokens), (0.55, None)]
    return stack(bands)


def _truncate(utterance: Utterance) -> Utterance:
    """Returns the start of an utterance, as much as a figure can show."""
    if utterance.seconds <= _MAX_SECONDS:
        return utterance
    fraction = _MAX_SECONDS / utterance.seconds
    features, log_probs = utterance.features, utterance.log_probs
    return utterance._replace(
        heading=f"{utterance.heading}; the first {_MAX_SECONDS} of {utterance.seconds:.1f} s",
        features=features[: round(fraction * len(features))],
        log_probs=log_probs[: round(fraction * len(log_probs))],
        seconds=_MAX_SECONDS,
    )


def _features(utterance: Utterance) -> Band:
    """Returns an image of the features over time."""

    def draw(axes: Any) -> None:
        low, high = np.percentile(utterance.features, (1, 99.8))
        extent = (0, utterance.seconds, 0, utterance.features.shape[1])
        style = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": low, "vmax": high}
        axes.imshow(utterance.features.T, extent=extent, **style)
        axes.set_ylabel("feature", fontsize=8)
        axes.tick_params(labelsize=8, labelbottom=False)

    return 1.4, draw


def _posterior(utterance: Utterance, tokens: Sequence[str]) -> Band:
    """Returns a plot with one curve per class; the vertical axis has one inch per unit."""
    probability = np.exp(utterance.log_probs)
    time = (np.arange(len(probability)) + 0.5) * utterance.seconds / len(probability)
    peaks = _best_path(probability)
    names = [tokens[label - 1] for label, _ in peaks]
    inches = [time[frame] * INNER / utterance.seconds for _, frame in peaks]
    rows = _rows(inches, [(len(name) + 0.2) * LETTER for name in names])
    height = 1.1 + (1 + max(rows, default=0)) * LINE
    probable = np.flatnonzero(probability.max(axis=0) >= _MIN_PEAK)
    shown = dict.fromkeys([label for label, _ in peaks] + [n for n in probable if n])
    colours = {label: _CURVES[i % len(_CURVES)] for i, label in enumerate(shown)}

    def draw(axes: Any) -> None:
        axes.fill_between(time, probability[:, 0], color=_BLANK, alpha=0.2, linewidth=0)
        blank = axes.plot(time, probability[:, 0], color=_BLANK, linewidth=1)
        for label, colour in colours.items():
            axes.plot(time, probability[:, label], color=colour, linewidth=1.2)
        for (label, frame), name, row in zip(peaks, names, rows, strict=True):
            top, colour = 1.1 + row * LINE, colours[label]
            axes.vlines(time[frame], probability[frame, label], top, colour, linewidth=0.4)
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
    """Returns the class and the most probable frame of each token of the best path.

    Args:
      probability: [frames, classes].
    """
    best = probability.argmax(axis=-1)
    edges = [0, *(np.flatnonzero(np.diff(best)) + 1), len(best)]
    return [
        (int(best[start]), int(start + np.argmax(probability[start:end, best[start]])))
        for start, end in pairwise(edges)
        if best[start]
    ]


def _rows(centres: Sequence[float], widths: Sequence[float]) -> list[int]:
    """Returns, for labels from left to right, the lowest row in which each overlaps no other."""
    ends: list[float] = []
    rows = []
    for centre, width in zip(centres, widths, strict=True):
        left = centre - width / 2
        row = next((row for row, end in enumerate(ends) if end <= left), len(ends))
        ends[row : row + 1] = [centre + width / 2]
        rows.append(row)
    return rows
