"""Text of a record on a card: what the reader sees, and nothing that lives."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cds_service.markdown import escape_markdown, plain_text, table

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<a href='http://evil.example'>x</a>",
    "[lab](http://evil.example/x)",
    "![x](http://evil.example/track.png)",
    "[x]: http://evil.example 'y'",
    "<http://evil.example>",
    "**bold** _it_ `code` ~~gone~~",
    "# heading",
    "> quote",
    "1. item",
    "- item",
    "a | b | c",
    "&lt;script&gt;",
    "\\[x](http://evil.example)",
    "a\\|b",
    "```\nfence",
    "    indented code",
    "===",
    "***",
    "<!-- hidden -->",
]
# GFM 6.9, extended autolinks, matched on the text a renderer sees after escapes and entities are undone
AUTOLINK = re.compile(r"(?i)(https?|ftp)://[^\s]|www\.[^\s]|[\w.+-]+@[\w-]+\.[\w.-]+|(mailto|xmpp):[\w.+-]")


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(markdown: str) -> Seen:
    seen = Seen()
    seen.feed(MARKDOWN.render(markdown))
    seen.close()
    return seen


def visible(text: str) -> str:
    return text.replace("\u2060", "").strip()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_markup_in_a_record_is_shown_as_its_own_characters(payload: str) -> None:
    seen = rendered(escape_markdown(payload))
    assert seen.tags == ["p"]
    assert visible(seen.text) == " ".join(payload.split())


@pytest.mark.parametrize("payload", PAYLOADS)
def test_markup_in_a_table_cell_stays_inside_its_cell(payload: str) -> None:
    seen = rendered(table([[escape_markdown(payload), "1.2 mg/dL"]], ["what", "value"]))
    assert seen.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert "".join(seen.text.split()).startswith("whatvalue")
    assert "".join(visible(seen.text).split()).endswith("".join(payload.split()) + "1.2mg/dL")


@pytest.mark.parametrize(
    "address",
    [
        "http://evil.example",
        "HTTPS://evil.example/x",
        "see www.evil.example now",
        "doctor@evil.example",
        "a.b+c@d.example",
        "mailto:x@evil.example",
        "ftp://evil.example",
        "(https://evil.example)",
    ],
)
def test_an_address_in_a_record_does_not_become_a_link(address: str) -> None:
    text = rendered(escape_markdown(address)).text
    assert not AUTOLINK.search(text)
    assert visible(text) == address


@given(st.text(max_size=120))
def test_no_text_whatever_becomes_a_tag_or_a_second_line(text: str) -> None:
    markdown = escape_markdown(text, 100)
    seen = rendered(markdown)
    assert seen.tags in (["p"], [])
    assert "\n" not in markdown
    assert not AUTOLINK.search(seen.text)
    assert len(visible(seen.text)) <= 100
    markdown.encode()


@given(st.lists(st.text(alphabet="|\\`a-<\n ", max_size=8), min_size=2, max_size=2))
def test_no_cell_breaks_the_table(cells: list[str]) -> None:
    seen = rendered(table([[escape_markdown(c) for c in cells]], ["one", "two"]))
    assert seen.tags.count("td") == 2
    seen = rendered(table([cells], ["one", "two"]))
    assert seen.tags.count("td") == 2


def test_controls_direction_marks_and_lone_surrogates_are_dropped() -> None:
    assert plain_text("K\u202e5.1\x00\x1b[31m \u2066x\u2069\ud800\ufeff") == "K5.1[31m x"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert plain_text("x" * 81) == "x" * 79 + "\u2026"
    assert plain_text("x" * 80) == "x" * 80
    assert escape_markdown("*" * 10, limit=4) == "\\*\\*\\*\u2026"


def test_a_superscript_keeps_its_meaning() -> None:
    assert escape_markdown("5 × 10² /µL") == "5 × 10² /µL"


def test_letters_do_not_grow_towers_of_marks() -> None:
    assert len(plain_text("a" + "\u0335" * 50)) <= 4


def test_a_short_row_is_filled_and_a_long_one_is_a_bug_of_ours() -> None:
    assert table([["a"]], ["x", "y"]).splitlines() == ["| x | y |", "| --- | --- |", "| a |  |"]
    with pytest.raises(ValueError, match="3 cells, the header has 2"):
        table([["a", "b", "c"]], ["x", "y"])
