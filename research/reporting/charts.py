"""Line charts as inline SVG, which follow the colours of the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from research.reporting.html import Html, element

NUM_COLORS = 8  # of the palette in report.css
_WIDTH, _HEIGHT = 360, 224
_TOP, _RIGHT, _BOTTOM = 24, 12, 34
_LETTER = 6.4  # width of a letter of a tick label
_MAX_POINTS = 400  # of a curve; more are averaged
_FEW = 24  # points of a curve that are marked


@dataclass(frozen=True)
class Series:
    """One curve of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0  # position in the palette
    kind: str = ""  # "thin" or "dashed"
    band: tuple[Sequence[float], Sequence[float]] | None = None  # lower and upper limits of y
    key: str = ""  # of the entry of a legend that shows and hides the curve; default: the name


@dataclass(frozen=True)
class Axis:
    """The range of an axis; a limit of None is that of the data."""

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    ticks: Sequence[float] | None = None  # None: round numbers


def line_chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Html:
    """Draws curves. Points that are not finite are left out.

    Args:
      title: above the chart, and its description for screen readers.
      x: the horizontal axis.
      y: the vertical axis.
      series: the curves, the last one on top.
    """
    series = [one for one in map(_finite, series) if len(one.x)]
    across = _Scale.of(x, [value for one in series for value in one.x])
    bands = [value for one in series if one.band for limit in one.band for value in limit]
    up = _Scale.of(y, [value for one in series for value in one.y] + bands)
    labels = [_tick(value) for value in up.ticks]
    left = 10 + _LETTER * max(map(len, labels), default=1)
    across.span(left, _WIDTH - _RIGHT)
    up.span(_HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(across, up, left, labels), *_axis_labels(x, y)]
    parts += [_curve(one, across, up) for one in series]
    name = f"{title}, {y.label} over {x.label}".replace(",  ", " ")
    view = f"0 0 {_WIDTH} {_HEIGHT}"
    svg = element("svg", *parts, viewBox=view, role="img", aria_label=name)
    # The wrapper is the reference for the position of the values under the pointer.
    body = element("div", svg, class_="plot", data_x=x.label)
    return element("figure", element("figcaption", title), body, class_="chart")


def legend(entries: Mapping[str, str], series: Sequence[Series]) -> Html:
    """Returns a legend, which shows and hides the curves of its section.

    Args:
      entries: text by the key of the curves.
      series: curves, of which the last with a key gives the appearance of its entry.
    """
    appearance = {_key(one): one for one in series}
    items = [
        element("li", _swatch(appearance[key]), text, data_key=key)
        for key, text in entries.items()
        if key in appearance
    ]
    return element("ul", *items, class_="legend")


class _Scale:
    """Maps the values of an axis to coordinates."""

    def __init__(self, low: float, high: float, log: bool, ticks: Sequence[float]):
        self.low, self.high, self.log, self.ticks = low, high, log, ticks

    @classmethod
    def of(cls, axis: Axis, values: Sequence[float]) -> "_Scale":
        low = min(values, default=0.0) if axis.low is None else axis.low
        high = max(values, default=1.0) if axis.high is None else axis.high
        if low == high:  # one point, or a constant
            low, high = (low / 2, high * 2) if axis.log else (min(low, 0), max(high, 0) or 1)
        if axis.ticks is not None:
            return cls(low, high, axis.log, axis.ticks)
        if axis.log:
            return cls(low, high, True, _decades(low, high))
        ticks = _round_numbers(low, high)
        fits = axis.high is None and axis.low is None  # then the axis ends at ticks
        return cls(ticks[0], ticks[-1], False, ticks) if fits else cls(low, high, False, ticks)

    def span(self, begin: float, end: float) -> None:
        """Sets the coordinates of the two limits."""
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log(max(one, 1e-300)) for one in (value, low, high))
        part = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(self._begin + part * (self._end - self._begin), 1)


def _round_numbers(low: float, high: float) -> list[float]:
    """Returns about six multiples of 1, 2 or 5 times a power of ten, around the limits."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Returns powers of ten, and 2 and 5 times those where they are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1.0,) if last - first > 4 else (1.0, 3.0) if last - first > 2 else (1.0, 2.0, 5.0)
    values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def _tick(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def _grid(across: _Scale, up: _Scale, left: float, labels: Sequence[str]) -> list[Html]:
    """Draws the lines of the grid with their labels."""
    parts = []
    for value, label in zip(up.ticks, labels, strict=True):
        y = up(value)
        parts.append(element("line", x1=left, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(element("text", label, x=left - 6, y=y + 4, text_anchor="end"))
    bottom = _HEIGHT - _BOTTOM
    for value in across.ticks:
        x = across(value)
        if not across.low <= value <= across.high * (1 + 1e-9):
            continue
        parts.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="tick"))
        parts.append(element("text", _tick(value), x=x, y=bottom + 16, text_anchor="middle"))
    parts.append(element("line", x1=left, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="tick"))
    return parts


def _axis_labels(x: Axis, y: Axis) -> list[Html]:
    above, below = (
        ", ".join(filter(None, [axis.label, "log scale" if axis.log else ""])) for axis in (y, x)
    )
    corner = {"x": _WIDTH - _RIGHT, "y": _HEIGHT - 4, "text_anchor": "end"}
    parts = [element("text", f"{below} →", **corner)]
    return [*parts, element("text", f"↑ {above}", x=2, y=11)] if above else parts


def _curve(one: Series, across: _Scale, up: _Scale) -> Html:
    """Draws a curve. Its values are attributes, which the script shows under the pointer."""
    points = [(across(x), up(y)) for x, y in zip(one.x, one.y, strict=True)]
    parts = []
    if one.band:
        lower, upper = ([up(y) for y in limit] for limit in one.band)
        xs = [across(x) for x in one.x]
        outline = [*zip(xs, upper, strict=True), *zip(xs[::-1], lower[::-1], strict=True)]
        parts.append(element("polygon", points=_joined(outline), class_="band"))
    parts.append(element("polyline", points=_joined(points)))
    if len(points) <= _FEW:
        parts += [element("circle", cx=x, cy=y, r=2.5) for x, y in points]
    return element(
        "g",
        *parts,
        class_=f"series c{one.color % NUM_COLORS} {one.kind}".rstrip(),
        data_name=one.name,
        data_key=_key(one),
        data_x=" ".join(f"{value:.6g}" for value in one.x),
        data_y=" ".join(f"{value:.4g}" for value in one.y),
    )


def _swatch(one: Series) -> Html:
    line = element("line", x1=0, x2=22, y1=6, y2=6)
    return element(
        "svg",
        element("g", line, class_=f"series c{one.color % NUM_COLORS} {one.kind}".rstrip()),
        viewBox="0 0 22 12",
        aria_hidden="true",
    )


def _key(one: Series) -> str:
    return one.key or one.name


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _finite(one: Series) -> Series:
    """Returns a curve without values that are not finite, and with at most `_MAX_POINTS`."""
    rows = np.array([one.x, one.y, *(one.band or ())], float)
    rows = rows[:, np.isfinite(rows).all(axis=0)]
    if rows.shape[1] > _MAX_POINTS:
        rows = np.stack(
            [part.mean(axis=1) for part in np.array_split(rows, _MAX_POINTS, axis=1)], 1
        )
    x, y, *band = rows.tolist()
    limits = (band[0], band[1]) if band else None
    return Series(one.name, x, y, one.color, one.kind, limits, one.key)
