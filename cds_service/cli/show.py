"""Cards and services on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

COLOURS = {"critical": "red", "warning": "yellow", "info": "cyan"}


def print_cards(console: Console, title: str, cards: Sequence[Mapping[str, Any]]) -> None:
    """Print an answer the way a clinician meets it: summary first, then why, then what can be done."""
    console.rule(Text(title, style="bold"), align="left", style="dim")
    if not cards:
        console.print("  No card: looked, and nothing to say.\n", style="dim")
    for card in cards:
        console.print(card_panel(card))


def card_panel(card: Mapping[str, Any]) -> Panel:
    parts: list[Any] = [Text(card["summary"], style="bold")]
    if card.get("detail"):
        parts += [Text(""), Markdown(card["detail"])]
    if card.get("suggestions"):
        parts.append(Text(""))
        for suggestion in card["suggestions"]:
            mark = "recommended" if suggestion.get("isRecommended") else ""
            parts.append(Text.assemble("  [ ", (suggestion["label"], "bold"), " ]  ", (mark, "dim")))
    reasons = [r["display"] for r in card.get("overrideReasons", ())]
    if reasons:
        parts += [Text(""), Text("or say why not: " + " · ".join(reasons), style="dim")]
    source = card["source"]
    return Panel(
        Group(*parts),
        title=f"[{COLOURS[card['indicator']]}]{card['indicator']}[/]",
        title_align="left",
        subtitle=f"[dim]{source['label']}[/]",
        subtitle_align="right",
        border_style=COLOURS[card["indicator"]],
        padding=(1, 2),
    )


def services_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="CDS Services", title_justify="left", header_style="bold")
    for column in ("id", "hook", "title", "prefetch keys"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(entry["id"], entry["hook"], entry.get("title", ""), ", ".join(entry.get("prefetch", {})))
    return table
