"""Parses HTML in tests."""

from html.parser import HTMLParser
from xml.etree.ElementTree import Element, TreeBuilder

_VOID = {"br", "img", "input", "meta", "wbr"}


def parse(html):
    """Returns the root of a tree of elements; names of attributes are in lower case."""
    parser = _Parser()
    parser.feed(html)
    parser.builder.end("root")
    return parser.builder.close()


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.builder = TreeBuilder()
        self.builder.start("root", {})

    def handle_starttag(self, tag, attrs):
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in _VOID:
            self.builder.end(tag)

    def handle_endtag(self, tag):
        self.builder.end(tag)

    def handle_data(self, data):
        self.builder.data(data)


def text(element: Element) -> str:
    """Returns the text of an element and its children."""
    return " ".join("".join(element.itertext()).split())


def texts(html: str, tag: str, **attributes: str) -> list[str]:
    """Returns the text of each element with a name and attributes (`class_`)."""
    return [text(one) for one in find(html, tag, **attributes)]


def find(html: str, tag: str, **attributes: str) -> list[Element]:
    """Returns the elements with a name and attributes, of which classes are a subset."""
    return [one for one in parse(html).iter(tag) if _has(one, attributes)]


def _has(element: Element, attributes: dict[str, str]) -> bool:
    for name, value in attributes.items():
        found = element.get(name.rstrip("_").replace("_", "-"), "")
        if found != value and value not in found.split():
            return False
    return True


def rows(html: str) -> list[list[str]]:
    """Returns the cells of each row of the tables."""
    return [
        [text(cell) for cell in row if cell.tag in ("th", "td")] for row in parse(html).iter("tr")
    ]


def unnamed(html: str) -> list[str]:
    """Returns the pictures, drawings and sounds without a description."""
    root = parse(html)
    hidden = {id(one) for svg in root.iter("svg") if svg.get("aria-hidden") for one in svg.iter()}
    wrong = [one for one in root.iter("img") if not one.get("alt")]
    drawn = [one for tag in ("svg", "audio") for one in root.iter(tag)]
    wrong += [one for one in drawn if not one.get("aria-label") and id(one) not in hidden]
    return [f"{one.tag} {one.attrib}"[:200] for one in wrong]


def external(html: str) -> list[str]:
    """Returns the addresses that are neither embedded data nor places in the page."""
    named = (one.get(name) for one in parse(html).iter() for name in ("src", "href", "xlink:href"))
    return [address for address in named if address and not address.startswith(("data:", "#"))]
