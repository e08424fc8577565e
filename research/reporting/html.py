"""HTML and SVG elements. Everything that is not markup already is escaped."""

import html
from collections.abc import Iterable

_VOID = {"br", "img", "input", "meta", "wbr"}  # elements without an end tag


class Html(str):
    """Markup. `element` escapes every other string."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: object) -> Html:
    """Returns an element, as in `element("a", "text", href="#top", data_index=3)`.

    Args:
      name: of the element.
      children: markup, or text, which is escaped.
      attributes: by name, where `_` stands for `-` and a last `_` is dropped (`class_`); True
        writes the name alone; None and False omit the attribute.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Html:
    """Concatenates markup and text, which is escaped."""
    return Html("".join(map(_escape, children)))


def _escape(text: str) -> str:
    return text if isinstance(text, Html) else html.escape(text, quote=False)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
