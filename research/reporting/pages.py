"""Pages of pictures: bands from the top down, all of the width of a report."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

Band = tuple[float, Callable[[Any], None] | None]  # its height in inches, and what draws it

TEXT, FAINT = "#1f2328", "#59636e"
WIDTH, LEFT, _RIGHT = 10.5, 0.55, 0.2  # inches; a report has room for 10.7
INNER = WIDTH - LEFT - _RIGHT  # of a band without the margins
LINE = 0.165  # inches from a line of text to the next
FONT: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": 9, "parse_math": False}
LETTER = 0.602 * 9 / 72  # inches, the width of a letter in this font
COLUMNS = int(INNER / LETTER)


def stack(bands: Sequence[Band]) -> Figure:
    """The bands from the top down, all of the same width."""
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
    """Text, whose places are columns and lines; the margin has negative columns."""

    def draw(axes: Any) -> None:
        axes.axis("off")
        axes.set(xlim=(0, INNER / LETTER), ylim=(lines, 0))
        draw_text(axes)

    return lines * LINE, draw


def write(axes: Any, column: float, line: float, text: str, **style: Any) -> None:
    """Writes on a page; `style` is matplotlib's."""
    axes.text(column, line + 0.5, text, **{"va": "center", "color": TEXT, **FONT, **style})


def write_heading(axes: Any, text: str) -> None:
    """Writes into the first line of a page, from the margin on."""
    write(axes, 1 - LEFT / LETTER, 0, text, family="sans-serif", color=FAINT)


def write_name(axes: Any, line: float, name: str) -> None:
    """Says in the margin what stands in a line."""
    write(axes, -1, line, name, color=FAINT, ha="right", fontsize=8)


def shorten(word: str, letters: int) -> str:
    """A word with no more letters than that."""
    return word if len(word) <= letters else word[: letters - 1] + "…"
