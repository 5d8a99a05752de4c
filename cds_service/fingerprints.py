"""What a card is known by: the orders it is about, its deciding facts in bands, and its ids. Pure."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from cds_service.cards import Card
from cds_service.pages.basis import read_detail
from fhir_mappers.codes import find_drugs
from fhir_mappers.record import Order

if TYPE_CHECKING:
    from cds_service.consult import Case

_read = msgspec.json.Decoder(Card)


def concerned(case: Case, refs: tuple[str, ...] | None) -> tuple[Order, ...]:
    """The drafts of these references; None for those the manifest says the service is about."""
    drafts = case.record.drafts()
    if refs is not None:
        return tuple(order for order in drafts if order.ref in refs)
    applies = case.service.applies_to.get(case.request.hook)
    return drafts if applies is None or applies.everything else tuple(o for o in drafts if applies.order(o))


def concept(orders: Sequence[Order]) -> str:
    """What is ordered, not how: the group a study repeats in, a drug's ingredient, else the codes."""
    return " ".join(sorted({_concept(order) for order in orders}))


def _concept(order: Order) -> str:
    if order.imaging is not None:
        return order.imaging.duplicate_group or order.imaging.loinc
    ingredients = sorted({drug.ingredient for drug in find_drugs(order.codes)})
    return "+".join(ingredients) or "+".join(sorted(code for _, code in order.codes)) or order.text


def order_names(orders: Sequence[Order]) -> tuple[str, ...]:
    """By what each order is known again: its id, or what it orders where the EHR gives drafts none."""
    return tuple(order.ref if "/" in order.ref else _concept(order) for order in orders)


_NUMBER = re.compile(r"\d{4}-\d{2}-\d{2}|\d+(?:\.\d+)?(?: (?:min|h|d)\b)?")


def deciding(card: Card) -> str:
    """The deciding facts in bands: the advice's own, else the first row of the table with its numbers by doublings."""
    if card.basis is not None and card.basis.deciding:
        return "\n".join(card.basis.deciding)
    rows = read_detail(card).rows
    return "\n".join(_NUMBER.sub(_banded, cell) for cell in rows[0][:2]) if rows else ""


def _banded(match: re.Match[str]) -> str:
    """A date names a study and stays; an age in hours or days only passes; a number is worse when it has doubled."""
    text = match[0]
    if "-" in text:
        return text
    if " " in text:
        return "#"
    # A number of hundreds of digits is no measurement, and as good as any other.
    return f"#{math.frexp(min(float(text), 1e300))[1]}"


def named(card: Card) -> Card:
    """With ids for its suggestions that follow from its own: said again, it has the same ones."""
    suggestions = [
        msgspec.structs.replace(s, uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{card.uuid} {n} {s.label}")))
        for n, s in enumerate(card.suggestions)
    ]
    return msgspec.structs.replace(card, suggestions=tuple(suggestions))


def again(card: Card, earlier: str) -> Card:
    """The card of now under the uuid of then: an order that it changes names the card that changed it."""
    text = msgspec.json.encode(msgspec.structs.replace(card, basis=None))
    renamed = _read.decode(text.replace(card.uuid.encode(), earlier.encode()))
    return named(msgspec.structs.replace(renamed, basis=card.basis))
