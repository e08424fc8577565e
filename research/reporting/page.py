"""A self-contained HTML page: style and script are inline, and nothing is loaded."""

from functools import cache
from importlib.resources import files

from research.reporting.html import Html, element, join

_BEGIN, _END = "<main>", "</main>"
_POLICY = (  # the browser itself refuses external resources
    "default-src 'none'; img-src data:; media-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def page(title: str, *content: str) -> str:
    """Returns a complete page."""
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            style(),
        ]
    )
    body = element("body", Html(f"{_BEGIN}{join(content)}{_END}"), script(), class_="report")
    return f"<!doctype html>\n<html lang=en><head>{head}</head>{body}</html>\n"


def content_of(text: str) -> Html:
    """Returns the content of a page that `page` wrote."""
    return Html(text.partition(_BEGIN)[2].rpartition(_END)[0])


@cache
def style() -> Html:
    """Returns the style of pages and figures."""
    return Html(f"<style>{_resource('report.css')}</style>")


@cache
def script() -> Html:
    """Returns the script of pages and figures, which work without it."""
    return Html(f"<script>{_resource('report.js')}</script>")


def _resource(name: str) -> str:
    return (files("research.reporting") / name).read_text(encoding="utf-8")
