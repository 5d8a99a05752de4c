"""What we may say: CDS Hooks 2.0 cards as types that cannot hold a card the specification forbids.

Members that are absent are left out of the JSON, never null or empty. Source: CDS Hooks 2.0, "CDS Service
Response"; limits of ours (detail length, number of suggestions) from the card contract in docs/safety.md.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

SUMMARY_LIMIT = 140
"""A summary has fewer than this many characters (CDS Hooks 2.0)."""
DETAIL_LIMIT = 1200

Indicator = Literal["info", "warning", "critical"]


class CardError(ValueError):
    """A card of ours breaks the specification: a bug in an advice file, never in the request."""


def new_uuid() -> str:
    return str(uuid.uuid4())


def _check_said(text: str, what: str) -> None:
    if not text.strip():
        raise CardError(f"{what} is empty; leave it out or say something")


def _check_absolute(url: str | None, what: str) -> None:
    if url is not None and not url.startswith(("https://", "http://")):
        raise CardError(f"{what} needs an absolute URL")


class Coding(msgspec.Struct, frozen=True, omit_defaults=True):
    code: str
    system: str
    display: str | None = None

    def __post_init__(self) -> None:
        _check_said(self.code, "the code of a coding")
        _check_said(self.system, "the system of a coding")


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    label: str
    url: str | None = None
    icon: str | None = None
    topic: Coding | None = None

    def __post_init__(self) -> None:
        _check_said(self.label, "the label of a source")
        _check_absolute(self.url, "a source")
        _check_absolute(self.icon, "an icon")


class Link(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """`app_context` belongs to smart links only."""

    label: str
    url: str
    type: Literal["absolute", "smart"]
    app_context: str | None = None

    def __post_init__(self) -> None:
        if self.app_context is not None and self.type != "smart":
            raise CardError("appContext is allowed on smart links only")
        _check_said(self.label, "the label of a link")
        _check_absolute(self.url, "a link")


class Action(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """create and update carry a whole resource, delete carries `Type/id` in resource_id."""

    type: Literal["create", "update", "delete"]
    description: str
    resource: Mapping[str, Any] | None = None
    resource_id: str | None = None

    def __post_init__(self) -> None:
        _check_said(self.description, "the description of an action")
        if self.type == "delete":
            if self.resource is not None or not self.resource_id or "/" not in self.resource_id:
                raise CardError("delete carries resourceId `Type/id` and no resource")
        elif self.resource is None or self.resource_id is not None or "resourceType" not in self.resource:
            raise CardError(f"{self.type} carries a whole resource and no resourceId")
        elif self.type == "update" and "id" not in self.resource:
            raise CardError("update carries the resource under the client's own id")


class Suggestion(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    label: str
    actions: tuple[Action, ...] = ()
    is_recommended: bool = False
    uuid: str = msgspec.field(default_factory=new_uuid)

    def __post_init__(self) -> None:
        _check_said(self.label, "the label of a suggestion")


class Basis(msgspec.Struct, frozen=True):
    """What makes a card this card: said the same again, it is the same card.

    rules     ids of the rules it rests on
    orders    references of the drafts it is about; None for all that concern the service, () for none
    deciding  the deciding facts in bands (`eGFR 15-29`, `KDIGO 2`), so that noise is no news and a worse band is;
              empty where the advice does not say: then the first row of the card's table decides, numbers by doublings
    """

    rules: tuple[str, ...]
    orders: tuple[str, ...] | None = None
    deciding: tuple[str, ...] = ()


class Card(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One card. Raises CardError for anything the specification or our card contract does not allow.

    basis  never leaves the house: `to_json` takes it off. A card without one is shown every time
    """

    summary: str
    indicator: Indicator
    source: Source
    detail: str | None = None
    suggestions: tuple[Suggestion, ...] = ()
    selection_behavior: Literal["at-most-one", "any"] | None = None
    override_reasons: tuple[Coding, ...] = ()
    links: tuple[Link, ...] = ()
    uuid: str = msgspec.field(default_factory=new_uuid)
    extension: Mapping[str, Any] | None = None
    basis: Basis | None = None

    def __post_init__(self) -> None:
        if not self.summary.strip() or len(self.summary) >= SUMMARY_LIMIT:
            raise CardError(f"a summary has 1 to {SUMMARY_LIMIT - 1} characters")
        if self.detail is not None and not 0 < len(self.detail) <= DETAIL_LIMIT:
            raise CardError(f"a detail has 1 to {DETAIL_LIMIT} characters")
        if bool(self.suggestions) != (self.selection_behavior is not None):
            raise CardError("selectionBehavior comes with suggestions, and only with them")
        recommended = sum(s.is_recommended for s in self.suggestions)
        if recommended > 1 and self.selection_behavior != "any":
            raise CardError("several recommended suggestions need selectionBehavior any")
        if any(not reason.display for reason in self.override_reasons):
            raise CardError("an override reason has a display")
        if self.extension is not None and not self.extension:
            raise CardError("an extension is left out rather than empty")


class CardResponse(msgspec.Struct, frozen=True):
    """The body of a 200. An empty list means: we looked, and have nothing to say."""

    cards: tuple[Card, ...]


_encoder = msgspec.json.Encoder()


def to_json(cards: tuple[Card, ...] | list[Card]) -> bytes:
    return _encoder.encode(CardResponse(tuple(msgspec.structs.replace(card, basis=None) for card in cards)))
