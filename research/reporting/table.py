"""Tables as plain text and as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    """Formats rows with the same keys as a table, floats with three decimals.

    Values that are lists are omitted.
    """
    names = [name for name, value in rows[0].items() if not isinstance(value, list)]
    lines = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    aligned = (
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table in Markdown; a `|` within a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def in_a_line(row: dict[str, Any]) -> str:
    """Formats a single row, for streams of rows."""
    return "  ".join(_cell(value) for value in row.values())


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
