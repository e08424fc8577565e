import base64
import hashlib

from research.reporting.html import Html, element, join
from research.reporting.page import content_of, page
from tests.reporting.markup import find


def test_text_is_escaped_and_markup_is_not():
    assert element("b", "<i> & ", element("i", "a")) == "<b>&lt;i&gt; &amp; <i>a</i></b>"
    assert join(["<", Html("<br>")]) == "&lt;<br>"


def test_attributes_are_escaped_and_named_as_in_html():
    link = element("a", "x", href='"><script>', class_="c", data_index=0, open=True, id=None)
    assert link == '<a href="&quot;&gt;&lt;script&gt;" class="c" data-index="0" open>x</a>'


def test_void_elements_have_no_end_tag():
    assert element("img", alt="a", name="b") == '<img alt="a" name="b">'


def test_the_content_of_a_page_can_be_read_back():
    content = element("p", "a </main> b")
    assert content_of(page("<t>", content)) == content


def test_a_page_is_readable_on_phones_and_in_dark_and_loads_nothing():
    html = page("a", element("p", "b"))
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "@media (prefers-color-scheme: dark)" in html
    assert "default-src &#x27;none&#x27;" in html
    assert "<title>a</title>" in html


def test_a_page_runs_only_the_script_of_reports():
    html = page("a", element("p", "b"))
    (script,) = find(html, "script")
    (policy,) = (one.get("content") for one in find(html, "meta") if one.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" in policy
