"""Plain-text tables."""

from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys, in columns as wide as they need; numbers with three decimals."""
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [list(rows[0]), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = (
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)
