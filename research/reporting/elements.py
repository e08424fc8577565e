"""Parts of a report: tables, pictures and matrices."""

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from research.reporting.html import Html, element, join

MAX_NAMED = 30  # rows of a matrix with names and numbers; more would not fit
_MAX_CONFUSIONS = 20  # in the table of the most frequent ones
_SMALL = 64  # pixels; smaller images are shown with sharp pixels


class Number(NamedTuple):
    """A number in a table: its text, and its value for sorting."""

    text: str
    value: float


Cell = str | Number


def table(
    header: Sequence[str], rows: Iterable[Sequence[Cell]], changed: Sequence[bool] = ()
) -> Html:
    """Returns a table that can be sorted by each column.

    Args:
      header: names of the columns.
      rows: cells of each row.
      changed: whether to highlight each row.
    """
    rows = list(rows)
    numbers = [
        any(isinstance(row[column], Number) for row in rows) for column in range(len(header))
    ]
    names = [
        element("th", name, class_=_number_class(is_number), scope="col")
        for name, is_number in zip(header, numbers, strict=True)
    ]
    body = [
        element("tr", *map(_cell, row, numbers), class_="changed" if is_changed else None)
        for row, is_changed in zip(rows, changed or [False] * len(rows), strict=True)
    ]
    head = element("thead", element("tr", *names, class_="head"))
    return element("div", element("table", head, element("tbody", *body)), class_="scroll")


def config_key(key: str, documentation: str = "") -> Html:
    """Returns a dotted key, which can be wrapped after its parts."""
    parts = [part for word in re.findall(r"[^._]*[._]?", key) for part in (word, element("wbr"))]
    return element("code", *parts, title=documentation or None)


def pairs(values: Mapping[str, str]) -> Html:
    """Returns a table of names and values."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in values.items()
    ]
    return element("table", element("tbody", *rows), class_="pairs")


def _cell(cell: Cell, in_numbers: bool) -> Html:
    if isinstance(cell, Number):
        # Comparisons with NaN would leave the column unsorted.
        value = f"{cell.value:.9g}" if math.isfinite(cell.value) else None
        return element("td", cell.text, class_="number", data_value=value)
    return element("td", cell, class_=_number_class(in_numbers))


def _number_class(is_number: bool) -> str | None:
    return "number" if is_number else None


def data_uri(data: bytes, kind: str) -> str:
    """Returns the address of an embedded file, such as one of the kind "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_uri(image: Image.Image) -> str:
    """Embeds an image: a photograph as JPEG, a small or transparent image as PNG."""
    exact = max(image.size) <= _SMALL or image.mode not in ("RGB", "L")
    buffer = io.BytesIO()
    image.save(buffer, *(["PNG"] if exact else ["JPEG"]), optimize=True, quality=80)
    return data_uri(buffer.getvalue(), "image/png" if exact else "image/jpeg")


def picture(image: Image.Image, alt: str) -> Html:
    """Returns an image; small ones are scaled up with sharp pixels."""
    sharp = "pixelated" if max(image.size) <= _SMALL else None
    width, height = image.size
    source = image_uri(image)
    return element(
        "img", src=source, alt=alt, width=width, height=height, class_=sharp, loading="lazy"
    )


def gallery(items: Sequence[tuple[Html, Html | str]], size: str) -> Html:
    """Returns pictures with captions, as many in a row as fit.

    Args:
      items: pictures and captions.
      size: the least width of a picture, such as "6rem".
    """
    figures = [element("figure", shown, element("figcaption", text)) for shown, text in items]
    return element("div", *figures, class_="gallery", style=f"--size: {size}")


def bars(counts: Sequence[tuple[str, int]], color: int) -> Html:
    """Returns a bar chart of counts with names."""
    most = max((count for _, count in counts), default=1)
    parts = []
    for name, count in counts:
        bar = element("span", style=f"width: {85 * count / most:.0f}%")
        parts += [element("span", name, class_="mono")]
        parts += [element("div", bar, f"{count:,}", class_=f"bar c{color}")]
    return element("div", *parts, class_="bars")


def confusion_matrix(counts: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Html:
    """Returns the confusion matrix of true and predicted classes, coloured by share of the row.

    With more than `MAX_NAMED` classes it is an image, beside the most frequent confusions.

    Args:
      counts: int [rows, columns]; equal names on the diagonal are correct.
      rows: true classes.
      columns: predicted classes.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(rows) <= MAX_NAMED:
        return element("div", _named_matrix(counts, share, rows, columns), class_="scroll")
    alt = "Confusion matrix: rows are true classes, columns are predicted classes"
    image = element("div", picture(shades(share), alt), class_="heat")
    return join([image, _most_confused(counts, share, rows, columns)])


def shades(values: np.ndarray) -> Image.Image:
    """Returns an image whose opacity is the values, from 0 to 1; it fits light and dark pages."""
    alpha = (255 * np.nan_to_num(np.clip(values, 0, 1))).round().astype(np.uint8)
    color = np.broadcast_to(np.array([47, 129, 247], np.uint8), (*alpha.shape, 3))
    return Image.fromarray(np.dstack([color, alpha]), "RGBA")


def _named_matrix(
    counts: np.ndarray, share: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> Html:
    turned = ["vertical" if len(name) > 2 else None for name in columns]
    names = [
        element("th", element("span", name), scope="col", class_=turn)
        for name, turn in zip(columns, turned, strict=True)
    ]
    lines = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(
                _matrix_cell(count, part, name, column)
                for count, part, column in zip(row.tolist(), parts.tolist(), columns, strict=True)
            ),
        )
        for name, row, parts in zip(rows, counts, share, strict=True)
    ]
    axis = element("th", "predicted →\ntrue ↓", class_="axis")
    return element(
        "table",
        element("thead", element("tr", axis, *names)),
        element("tbody", *lines),
        class_="matrix",
    )


def _matrix_cell(count: int, share: float, row: str, column: str) -> Html:
    if not count:
        return element("td")
    # A rare confusion is visible, and the number has contrast on the darkest cell.
    opacity = 12 + 46 * share
    return element(
        "td",
        f"{count:,}",
        class_="c0" if row == column else "c1",
        style=f"--opacity: {opacity:.0f}%",
        title=f"true {row}, predicted {column}: {count:,} ({100 * share:.1f} % of the row)",
    )


def _most_confused(
    counts: np.ndarray, share: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> Html:
    wrong = [
        (counts[at], share[at], rows[at[0]], columns[at[1]])
        for at in map(tuple, np.argwhere(counts).tolist())
        if rows[at[0]] != columns[at[1]]
    ]
    wrong = sorted(wrong, key=lambda one: -one[0])[:_MAX_CONFUSIONS]
    cells = [
        (row, column, Number(f"{count:,}", count), Number(f"{100 * part:.1f} %", part))
        for count, part, row, column in wrong
    ]
    return table(("true", "predicted", "count", "share of the true class"), cells)
