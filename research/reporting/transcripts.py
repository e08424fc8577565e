"""Word alignments: transcripts with their errors, and the most frequent errors."""

from collections import Counter
from collections.abc import Sequence

from research.reporting.alignments import Alignment, count_edits, edit_type
from research.reporting.elements import bars
from research.reporting.html import Html, element, join

# Letters repeat the colours, for colour-blind readers.
_EDIT_TYPES = {"S": "substituted", "D": "deleted", "I": "inserted"}
_COLORS = {"S": 1, "D": 0, "I": 4}
_MAX_WORDS = 150  # of one transcript
_MAX_BARS = 12


def transcripts(headings: Sequence[str], alignments: Sequence[Alignment]) -> Html:
    """Shows references above hypotheses, word by word; a colour and a letter mark each error."""
    shown = [transcript(*one) for one in zip(headings, alignments, strict=True)]
    return join([legend(alignments), element("div", *shown, class_="transcripts")])


def legend(alignments: Sequence[Alignment]) -> Html:
    """Returns the legend of letters and colours; nothing if all words are correct."""
    if not any(map(count_edits, alignments)):
        return Html()
    entries = [
        element("li", element("span", kind, class_=f"edit {kind}"), f" {name}")
        for kind, name in _EDIT_TYPES.items()
    ]
    rows = element("li", "above: reference, below: hypothesis")
    return element("ul", rows, *entries, class_="kinds")


def transcript(heading: str, alignment: Alignment) -> Html:
    """Shows reference and hypothesis under a heading, truncated if they are very long."""
    if len(alignment) > _MAX_WORDS:
        heading += f"; the first {_MAX_WORDS} of {len(alignment)} words"
    words = [_word(*pair) for pair in alignment[:_MAX_WORDS]]
    text = element("div", *words, class_="alignment mono")
    return element("div", element("p", heading, class_="caption"), text)


def confusions(alignments: Sequence[Alignment]) -> Html:
    """Shows bar charts of the most frequent substitutions, deletions and insertions."""
    counts: dict[str, Counter[tuple[str, str]]] = {kind: Counter() for kind in _EDIT_TYPES}
    for alignment in alignments:
        for pair in alignment:
            if kind := edit_type(*pair):
                counts[kind][pair] += 1
    charts = [_errors(kind, counts[kind]) for kind in _EDIT_TYPES]
    return element("div", *charts, class_="charts")


def _word(reference: str, hypothesis: str) -> Html:
    kind = edit_type(reference, hypothesis)
    missing = "*" * max(len(reference), len(hypothesis))
    rows = [element("b", reference or missing)]
    rows.append(element("b", hypothesis or missing, class_=None if kind else "faint"))
    if kind:
        rows.append(element("i", kind))
    return element("span", *rows, class_=f"edit {kind}" if kind else None)


def _errors(kind: str, counts: Counter[tuple[str, str]]) -> Html:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_BARS]
    named = [(" → ".join(word for word in pair if word), count) for pair, count in most]
    arrow = ", reference → hypothesis" if kind == "S" and named else ""
    title = f"{kind}: {counts.total():,} {_EDIT_TYPES[kind]}{arrow}"
    return element(
        "figure", element("figcaption", title), bars(named, _COLORS[kind]), class_="chart"
    )
