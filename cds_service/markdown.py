"""Text of a record made safe to stand in a card's `detail`, which clients render as GitHub-flavoured Markdown.

The official sandbox lets raw HTML through, and GFM makes links of bare addresses: neither may come from a record.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

ELLIPSIS = "\u2026"
JOINER = "\u2060"
"""WORD JOINER: invisible, and not part of any pattern GFM makes a link of."""
MARKS_IN_A_ROW = 3

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_INLINE = frozenset("\\`*_[]|~$#")
# Escapes and entities do not help here: GFM renderers look for links in the text after undoing both.
_LINKS = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*:)(?=//)|\b(mailto:|xmpp:|javascript:|data:)|(www)(?=\.)|(?<=\S)(?=@)")
# A list item's number is followed by a space or nothing: 2.5 mg/dL stays as it is.
_BLOCK_START = re.compile(r"^(?:(\d{1,9})([.)])(?=\s|$)|([-+=:]))")
_OPEN_PIPE = re.compile(r"(?<!\\)((?:\\\\)*)\|")


def plain_text(text: str, limit: int = 80) -> str:
    """One line of at most `limit` characters without controls, bidirectional marks or lone surrogates.

    For places that show text as it is (a summary, a label, a log is none of them). NFC and not NFKC, which would
    turn 10² into 102.
    """
    out: list[str] = []
    marks = 0
    for char in unicodedata.normalize("NFC", text):
        category = unicodedata.category(char)
        space = char.isspace()
        if category[0] == "C" and not space:
            continue
        # Marks piled on one letter can paint over the lines around it.
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks <= MARKS_IN_A_ROW:
            out.append(" " if space else char)
    line = " ".join("".join(out).split())
    return line if len(line) <= limit else line[: max(0, limit - 1)].rstrip() + ELLIPSIS


def escape_markdown(text: str, limit: int = 80) -> str:
    """`text` as a reader should see it, in Markdown: one line of at most `limit` characters, nothing live.

    No tag, emphasis, code, heading, list, table border, link or address survives. The result may be longer than
    `limit` by its escapes.
    """
    line = _LINKS.sub(lambda m: (m.group(0) or "") + JOINER, plain_text(text, limit))
    escaped = "".join(f"\\{c}" if c in _INLINE else _ENTITIES.get(c, c) for c in line)
    return _BLOCK_START.sub(lambda m: rf"{m[1]}\{m[2]}" if m[1] else rf"\{m[3]}", escaped)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """A GFM table. Cells are Markdown already: what comes from a record has been through `escape_markdown`.

    Short rows are filled with empty cells; a line break or an open `|` in a cell cannot break the table.
    """
    lines = [_row(header, len(header)), "|" + " --- |" * len(header)]
    lines += [_row(row, len(header)) for row in rows]
    return "\n".join(lines)


def _row(cells: Sequence[str], width: int) -> str:
    if len(cells) > width:
        raise ValueError(f"a row has {len(cells)} cells, the header has {width}")
    clean = (_OPEN_PIPE.sub(r"\1\\|", " ".join(cell.split())) for cell in cells)
    return "| " + " | ".join([*clean, *[""] * (width - len(cells))]) + " |"
