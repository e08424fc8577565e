"""Figures of features and CTC posteriors, with the sound."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import soundfile
from PIL import Image

from research.reporting.alignments import Alignment
from research.reporting.elements import data_uri, image_uri
from research.reporting.html import Html, element, join
from research.reporting.transcripts import legend, transcript

_COLORS = (0, 1, 2, 3, 4)  # of the palette, for the curves of tokens
_MAX_TICKS = 8  # of the time axis
_MAX_SECONDS = 8  # of one spectrogram and sound, which limits the size of a report
_MIN_PEAK = 0.2  # smaller peaks are drawn only for tokens of the best path
_MAGMA = (  # every 32nd colour of matplotlib's color map "magma", from dark to bright
    *((0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122)),
    *((229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191)),
)
_HZ = (500, 1000, 2000, 4000, 8000, 16000)  # ticks of the frequency axis
# Sizes in units of the drawing, at most one pixel each.
_SECOND, _MIN_WIDTH, _LEFT, _RIGHT = 190, 310, 40, 12
_SPECTROGRAM, _POSTERIOR, _LABEL, _LETTER, _AXIS = 130, 80, 15, 7.4, 34
_TOP, _GAP = 18, 20


class Utterance(NamedTuple):
    """One utterance of a figure."""

    heading: str
    alignment: Alignment
    features: np.ndarray  # [frames, size]
    log_probs: np.ndarray  # [output frames, classes]; class 0 is the blank
    seconds: float
    sound: np.ndarray | None = None  # [samples] float32 in [-1, 1]; None if there are only features


def spectrogram_and_posterior(
    utterances: Sequence[Utterance], tokens: Sequence[str], band_hz: np.ndarray | None = None
) -> Html:
    """Draws the features and, on the same time axis, the CTC posterior with labelled peaks.

    The labels are the tokens of the best path (Graves et al. 2006).

    Args:
      utterances: the utterances to draw; long ones are truncated.
      tokens: token of each class except the blank: class `i + 1` is `tokens[i]`.
      band_hz: the centre of each feature's frequency band in Hz [size]; None for other features.
    """
    parts = [legend([utterance.alignment for utterance in utterances])]
    for utterance in map(_truncate, utterances):
        drawing = element("div", _drawing(utterance, tokens, band_hz), class_="scroll")
        shown = [transcript(utterance.heading, utterance.alignment), drawing]
        if utterance.sound is not None:
            rate = round(len(utterance.sound) / utterance.seconds)
            shown.append(_player(utterance.sound, rate, f"Sound of {utterance.heading}"))
        parts.append(element("div", *shown, class_="utterance"))
    return join(parts)


def _truncate(utterance: Utterance) -> Utterance:
    """Returns the start of an utterance, as much as a figure can show."""
    if utterance.seconds <= _MAX_SECONDS:
        return utterance
    fraction = _MAX_SECONDS / utterance.seconds
    features, log_probs, sound = utterance.features, utterance.log_probs, utterance.sound
    return utterance._replace(
        heading=f"{utterance.heading}; the first {_MAX_SECONDS} of {utterance.seconds:.1f} s",
        features=features[: round(fraction * len(features))],
        log_probs=log_probs[: round(fraction * len(log_probs))],
        seconds=_MAX_SECONDS,
        sound=None if sound is None else sound[: round(fraction * len(sound))],
    )


def _player(sound: np.ndarray, rate: int, name: str) -> Html:
    """Returns a player of a sound, as FLAC, which every browser plays."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format="FLAC", subtype="PCM_16")
    source = data_uri(buffer.getvalue(), "audio/flac")
    return element("audio", controls=True, src=source, preload="metadata", aria_label=name)


def _drawing(utterance: Utterance, tokens: Sequence[str], band_hz: np.ndarray | None) -> Html:
    width = max(_MIN_WIDTH, round(_SECOND * utterance.seconds))
    probability = np.exp(utterance.log_probs)
    peaks = _best_path(probability)
    time = (np.arange(len(probability)) + 0.5) * width / len(probability) + _LEFT
    names = [tokens[label - 1] for label, _ in peaks]
    rows = _rows([time[frame] for _, frame in peaks], [(len(n) + 1) * _LETTER for n in names])
    above = _LABEL * (1 + max(rows, default=-1))
    top = _TOP + _SPECTROGRAM + _GAP + above
    labels = list(zip(peaks, names, rows, strict=True))
    height = top + _POSTERIOR + _AXIS
    parts = [
        *_spectrogram(utterance, width, band_hz),
        *_posterior(probability, time, top, labels),
        *_axes(utterance.seconds, width, top),
        element("line", x1=_LEFT, x2=_LEFT, y1=_TOP, y2=top + _POSTERIOR, class_="playhead hidden"),
    ]
    total = width + _LEFT + _RIGHT
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {total} {height}",
        width=total,
        height=height,
        role="img",
        aria_label=f"Spectrogram and posterior of {utterance.heading}",
        data_seconds=f"{utterance.seconds:.4f}",
        data_left=_LEFT,
        data_right=_LEFT + width,
    )


def _spectrogram(utterance: Utterance, width: int, band_hz: np.ndarray | None) -> list[Html]:
    """Draws an image of the features over time, with the axis of their frequencies."""
    low, high = np.nanpercentile(utterance.features, (1, 99.8))
    level = np.clip((utterance.features.T[::-1] - low) / max(high - low, 1e-9), 0, 1)
    image = Image.fromarray((255 * np.nan_to_num(level)).astype(np.uint8))
    image.putpalette(_palette())
    size = {"width": width, "height": _SPECTROGRAM, "preserveAspectRatio": "none"}
    parts = [element("image", href=image_uri(image), x=_LEFT, y=_TOP, **size)]
    parts.append(element("text", "↑ feature" if band_hz is None else "↑ kHz", x=2, y=11))
    bands = utterance.features.shape[1]
    if band_hz is None:
        ticks = [(0, "0"), (bands - 1, str(bands - 1))]
    else:
        shown = [hz for hz in _HZ if band_hz[0] <= hz <= band_hz[-1]]
        ticks = [
            (float(np.interp(hz, band_hz, np.arange(bands))), f"{hz / 1000:g}") for hz in shown
        ]
    for position, name in ticks:
        y = _TOP + _SPECTROGRAM * (1 - (position + 0.5) / bands)
        parts.append(
            element("line", x1=_LEFT - 4, x2=_LEFT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="tick")
        )
        parts.append(element("text", name, x=_LEFT - 7, y=f"{y + 4:.1f}", text_anchor="end"))
    return parts


def _palette() -> bytes:
    """Returns red, green and blue of the 256 levels."""
    anchors, levels = np.array(_MAGMA, float), np.arange(256)
    positions = np.linspace(0, 255, len(anchors))
    channels = [np.interp(levels, positions, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8).tobytes()


def _posterior(
    probability: np.ndarray,
    time: np.ndarray,
    top: float,
    labels: Sequence[tuple[tuple[int, int], str, int]],
) -> list[Html]:
    """Draws a curve for each probable class, and the labels of the peaks above them."""
    probable = np.flatnonzero(np.nan_to_num(probability).max(axis=0) >= _MIN_PEAK)
    shown = dict.fromkeys([label for (label, _), _, _ in labels] + [n for n in probable if n])
    colors = {label: _COLORS[i % len(_COLORS)] for i, label in enumerate(shown)}
    heights = top + _POSTERIOR * (1 - np.nan_to_num(np.clip(probability, 0, 1)))
    bottom = f"{time[-1]:.1f},{top + _POSTERIOR} {time[0]:.1f},{top + _POSTERIOR}"
    blank = _points(time, heights[:, 0])
    parts = [element("polygon", points=f"{blank} {bottom}", class_="blank")]
    for label, color in colors.items():
        curve = element("polyline", points=_points(time, heights[:, label]))
        parts.append(element("g", curve, class_=f"series thin c{color}"))
    for (label, frame), name, row in labels:
        x, y = f"{time[frame]:.1f}", top - 6 - _LABEL * row
        line = element("line", x1=x, x2=x, y1=y + 2, y2=f"{heights[frame, label]:.1f}")
        text = element("text", name, x=x, y=y, text_anchor="middle")
        parts.append(element("g", line, text, class_=f"peak c{colors[label]}"))
    return parts


def _axes(seconds: float, width: int, top: float) -> list[Html]:
    """Draws the axes of time and probability."""
    bottom = top + _POSTERIOR
    parts = [element("line", x1=_LEFT, x2=_LEFT + width, y1=bottom, y2=bottom, class_="tick")]
    for value in (0, 0.5, 1):
        y = bottom - value * _POSTERIOR
        parts.append(element("text", f"{value:g}", x=_LEFT - 7, y=y + 4, text_anchor="end"))
    step = next(step for step in (0.1, 0.2, 0.5, 1.0) if seconds / step <= _MAX_TICKS)
    for number in range(int(seconds / step) + 1):
        x = f"{_LEFT + width * number * step / seconds:.1f}"
        parts.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="tick"))
        parts.append(
            element("text", f"{number * step:g}", x=x, y=bottom + 16, text_anchor="middle")
        )
    end = {"x": _LEFT + width, "y": bottom + 31, "text_anchor": "end"}
    parts.append(element("text", "seconds →", **end))
    name = "probability of each token; grey: blank"
    return [*parts, element("text", name, x=_LEFT, y=bottom + 31)]


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


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
