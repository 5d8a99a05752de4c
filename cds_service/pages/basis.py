"""What a card said, read back from its detail: the sentences, the table of facts, and which data they came from.

A card's detail is written by `advice/writing.py`; a datum belongs to a row when the row shows its very value and
minute, so nothing is called deciding that the card does not show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from cds_service.advice.writing import HEADER, as_printed, day, moment, taken
from cds_service.cards import Card
from cds_service.manifest import Rule, Service
from cds_service.markdown import JOINER, plain_text
from fhir_mappers.record import Allergy, Event, GeneResult, Image, Lab, PatientRecord

Datum = Lab | Event | Image | GeneResult | Allergy
_ESCAPED = re.compile(r"\\([^\w\s])")
_OPEN_PIPE = re.compile(r"(?<!\\)((?:\\\\)*)\|")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))
_SHORT = 3
"""A record's wording shorter than this is in too many rows to say anything."""


@dataclass(frozen=True, slots=True)
class Said:
    """A card's detail in parts, as plain text.

    sentences  why now, what is suggested and what the model said
    not_known  the items after "Not known:"
    """

    sentences: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    not_known: tuple[str, ...]


def read_detail(card: Card) -> Said:
    sentences: list[str] = []
    rows: list[tuple[str, ...]] = []
    unknown: tuple[str, ...] = ()
    for paragraph in (card.detail or "").split("\n\n"):
        lines = paragraph.splitlines()
        if lines and lines[0].startswith("|"):
            rows += [_cells(line) for line in lines if not re.fullmatch(r"\|( --- \|)+", line)]
        elif paragraph.startswith("Not known: "):
            # Split before the entities are undone: each of them ends in a semicolon.
            items = re.split(r"(?<!&lt)(?<!&gt)(?<!&amp); ", paragraph.removeprefix("Not known: ").removesuffix("."))
            unknown = tuple(_plain(item) for item in items)
        elif paragraph and not re.match(r"Rule \S+ ", paragraph):
            sentences.append(_plain(paragraph))
    header = rows[0] if rows else HEADER
    return Said(tuple(sentences), header, tuple(rows[1:]), unknown)


def rules_of(card: Card, service: Service) -> tuple[tuple[str, Rule], ...]:
    """The rules that the card's last line names, in its order, each with what the manifest says of it.

    A rule of a table (PGX-010) has its family's entry (PGX) in the manifest, and its own publication on the card.
    """
    line = next((p for p in reversed((card.detail or "").split("\n\n")) if p.startswith("Rule ")), "")
    found: dict[str, Rule] = {}
    for name in re.findall(r"[A-Za-z0-9-]+", line.removeprefix("Rule ")):
        family = name.rpartition("-")[0]
        if name in service.rules:
            found[name] = service.rules[name]
        elif family in service.rules:
            own = {"citation": card.source.label, "url": card.source.url or service.rules[family].url}
            found[name] = msgspec.structs.replace(service.rules[family], **own)
    return tuple(found.items())


def matches(rows: Sequence[Sequence[str]], record: PatientRecord) -> tuple[tuple[Datum, ...], ...]:
    """Per row of the table, the data of the record it shows."""
    data = tuple(_known(record))
    return tuple(tuple(d for d in data if _shows(row, d)) for row in rows)


def _known(record: PatientRecord) -> Iterator[Datum]:
    yield from record.labs
    yield from record.images
    yield from record.events
    yield from record.genes
    yield from record.allergies


def _shows(row: Sequence[str], datum: Datum) -> bool:
    if len(row) < 3:
        return False
    fact, value, when = row[0], row[1], row[2]
    if isinstance(datum, Lab):
        number = plain_text(as_printed(datum))
        return when == taken(datum) and bool(re.search(rf"(?<![\w.]){re.escape(number)}(?![\w.])", value))
    if isinstance(datum, Image):
        return when == moment(datum.at) and "film" in fact.casefold()
    if isinstance(datum, GeneResult):
        return when == day(datum.at) and re.search(rf"\b{re.escape(datum.gene)}\b", f"{fact} {value}") is not None
    text, at = plain_text(datum.text, 40), datum.onset if isinstance(datum, Allergy) else datum.start
    return len(text) >= _SHORT and when == day(at) and _shown_text(text, (fact, value))


def _shown_text(text: str, cells: Iterable[str]) -> bool:
    return any(text.removesuffix("\u2026") in cell for cell in cells)


def _cells(line: str) -> tuple[str, ...]:
    inner = _OPEN_PIPE.sub("\\1\0", line).strip().strip("\0")
    return tuple(_plain(cell.strip()) for cell in inner.split("\0"))


def _plain(markdown: str) -> str:
    """The text a reader of the rendered Markdown sees: our own escapes undone, nothing else."""
    text = _ESCAPED.sub(r"\1", markdown.replace("**", ""))
    for entity, char in _ENTITIES:
        text = text.replace(entity, char)
    return " ".join(text.replace(JOINER, "").split())
