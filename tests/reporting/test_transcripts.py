from research.reporting.transcripts import confusions, transcripts
from tests.reporting.markup import find, texts


def test_errors_are_marked_by_letter_and_colour():
    html = transcripts(
        ["one"], [[("same", "same"), ("spoken", "written"), ("lost", ""), ("", "x")]]
    )
    assert [text for text in texts(html, "span", class_="edit") if len(text) > 1] == [
        "spokenwrittenS",
        "lost****D",
        "*xI",
    ]
    assert texts(html, "p") == ["one"]
    words = find(html, "div", class_="alignment")[0]
    assert [cell.get("class") for cell in words] == [None, "edit S", "edit D", "edit I"]


def test_a_transcript_without_errors_has_no_legend():
    assert not find(transcripts(["one"], [[("a", "a")]]), "ul")


def test_words_are_escaped():
    html = transcripts(["<h>"], [[("<a>", "<b>")]]) + confusions([[("<a>", "<b>")]])
    assert "<a>" not in html and "<b>&lt;a&gt;</b>" in html and "&lt;h&gt;" in html


def test_long_transcripts_are_truncated():
    alignment = [(f"word{i}", f"word{i}") for i in range(400)]
    html = transcripts(["one"], [alignment])
    assert "one; the first 150 of 400 words" in html
    assert html.count("word149") == 2 and "word150" not in html


def test_confusions_are_sorted_by_frequency():
    alignments = [[("a", "b"), ("c", "")], [("a", "b"), ("", "d"), ("e", "e"), ("c", "a")]]
    html = confusions(alignments)
    assert texts(html, "figcaption") == [
        "S: 3 substituted, reference → hypothesis",
        "D: 1 deleted",
        "I: 1 inserted",
    ]
    assert texts(html, "span", class_="mono") == ["a → b", "c → a", "c", "d"]
    assert texts(html, "div", class_="bar") == ["2", "1", "1", "1"]


def test_confusions_without_errors():
    html = confusions([[("a", "a")], []])
    assert texts(html, "figcaption") == ["S: 0 substituted", "D: 0 deleted", "I: 0 inserted"]
    assert not find(html, "div", class_="bar")
