"""Layout of report figures: bands stacked from top to bottom, all as wide as the report."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

Band = tuple[
    float, Callable[[Any], None] | None
]  # height in inches, and the function that draws it

TEXT, FAINT = "#1f2328", "#59636e"
WIDTH, LEFT, _RIGHT = 10.5, 0.55, 0.2  # inches; the report is 10.7 wide
INNER = WIDTH - LEFT - _RIGHT  # width of a band without its margins
LINE = 0.165  # line spacing in inches
FONT: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": 9, "parse_math": False}
LETTER = 0.602 * 9 / 72  # width of a letter of this font in inches
COLUMNS = int(INNER / LETTER)


def stack(bands: Sequence[Band]) -> Figure:
    """Draws bands from top to bottom."""
    height = sum(inches for inches, _ in bands) + 0.15
    figure = Figure(figsize=(WIDTH, height))
    top = height - 0.1
    for inches, draw in bands:
        top -= inches
        if draw:
            box = (LEFT / WIDTH, top / height, INNER / WIDTH, inches / height)
            draw(figure.add_axes(box))
    return figure


def page(lines: float, draw_text: Callable[[Any], None]) -> Band:
    """Returns a band of text, with columns and lines as coordinates; the margin is negative.

    Args:
      lines: height of the band.
      draw_text: draws on its axes.
    """

    def draw(axes: Any) -> None:
        axes.axis("off")
        axes.set(xlim=(0, INNER / LETTER), ylim=(lines, 0))
        draw_text(axes)

    return lines * LINE, draw


def write(axes: Any, column: float, line: float, text: str, **style: Any) -> None:
    """Writes text at a column and a line; `style` has the options of `Axes.text`."""
    axes.text(column, line + 0.5, text, **{"va": "center", "color": TEXT, **FONT, **style})


def write_heading(axes: Any, text: str) -> None:
    """Writes the heading of a page, in its first line, starting in the margin."""
    write(axes, 1 - LEFT / LETTER, 0, text, family="sans-serif", color=FAINT)


def write_name(axes: Any, line: float, name: str) -> None:
    """Writes the name of a line into the margin."""
    write(axes, -1, line, name, color=FAINT, ha="right", fontsize=8)


def shorten(word: str, letters: int) -> str:
    """Returns a word, truncated to `letters`."""
    return word if len(word) <= letters else word[: letters - 1] + "…"
