"""A self-contained HTML page: style and script are inline, and nothing is loaded."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from research.reporting.html import Html, element, join

_BEGIN, _END = "<main>", "</main>"


def page(title: str, *content: str) -> str:
    """Returns a complete page."""
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=_policy()),
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


@cache
def _policy() -> str:
    """Returns the rules of the browser: no external resources, no script but that of reports.

    Figures are files of a workdir, which may be a stranger's.
    """
    digest = base64.b64encode(hashlib.sha256(_resource("report.js").encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _resource(name: str) -> str:
    return (files("research.reporting") / name).read_text(encoding="utf-8")
