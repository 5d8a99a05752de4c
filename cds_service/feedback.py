"""What became of our cards: feedback read leniently, and a log of it that no acknowledged word is missing from.

Source: CDS Hooks 2.0 "Feedback". Epic spells `overrideReasons`, sends its own reasons in `extension` and ids that are
no UUIDs; messages come in batches, repeatedly, late and for cards we no longer know.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from cds_service import strict_json
from cds_service.cards import Card
from cds_service.errors import BadRequest, Unavailable
from cds_service.hooks import decode_member
from cds_service.manifest import Service

log = logging.getLogger(__name__)

MAX_ITEMS = 1000
COMMENT_LIMIT = 1000
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    code: str
    system: str = ""
    display: str = ""


class OverrideReason(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    reason: Reason | None = None
    user_comment: str | None = None


class AcceptedSuggestion(msgspec.Struct, frozen=True):
    id: Name


class FeedbackMessage(msgspec.Struct, frozen=True, rename="camel"):
    """One message as it comes."""

    card: Name
    outcome: str
    outcome_timestamp: str
    accepted_suggestions: tuple[AcceptedSuggestion, ...] | None = None
    override_reason: OverrideReason | None = None
    override_reasons: OverrideReason | tuple[OverrideReason, ...] | None = None


class FeedbackBatch(msgspec.Struct, frozen=True):
    feedback: tuple[FeedbackMessage, ...]


class Feedback(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One outcome of one card. `at` is when the clinician decided, by the client's clock, timezone-aware."""

    card: str
    outcome: str
    at: datetime
    suggestions: tuple[str, ...] = ()
    reasons: tuple[OverrideReason, ...] = ()


_batch = msgspec.json.Decoder(FeedbackBatch)


def parse_feedback(body: bytes) -> tuple[Feedback, ...]:
    """Read a batch. Raises BadRequest naming the member of the first message that is wrong; then none counts."""
    text = body.removeprefix(strict_json.BOM)
    try:
        strict_json.parse(text)
    except strict_json.BadJson as error:
        raise BadRequest(str(error)) from None
    items = decode_member(_batch.decode, text, "").feedback
    if len(items) > MAX_ITEMS:
        raise BadRequest(f"`feedback` has more than {MAX_ITEMS} messages", expression="feedback")
    return tuple(_read(item, f"feedback[{i}]") for i, item in enumerate(items))


def _read(item: FeedbackMessage, place: str) -> Feedback:
    if item.outcome not in ("accepted", "overridden"):
        raise BadRequest(f"`{place}.outcome` is neither accepted nor overridden", expression=f"{place}.outcome")
    try:
        at = datetime.fromisoformat(item.outcome_timestamp)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        name = f"{place}.outcomeTimestamp"
        raise BadRequest(f"`{name}` is no time with a time zone; write e.g. 2026-11-23T09:00:00Z", expression=name)
    if item.outcome == "accepted" and not item.accepted_suggestions:
        name = f"{place}.acceptedSuggestions"
        raise BadRequest(f"`{name}` is required for an accepted card", expression=name)
    given = item.override_reason or item.override_reasons or ()
    reasons = (given,) if isinstance(given, OverrideReason) else given
    return Feedback(
        card=item.card,
        outcome=item.outcome,
        at=at,
        suggestions=tuple(sorted({s.id for s in item.accepted_suggestions or ()})),
        reasons=tuple(_shortened(r) for r in reasons if r.reason is not None or r.user_comment),
    )


def _shortened(reason: OverrideReason) -> OverrideReason:
    comment = reason.user_comment[:COMMENT_LIMIT] if reason.user_comment else None
    return OverrideReason(reason.reason, comment)


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one batch: new outcomes, repeats of known ones, and (among the new) those for a card we never showed."""

    new: int
    repeated: int
    unmatched: int


class FeedbackStore(Protocol):
    """Where shown cards and their outcomes are kept. `tenant` comes from the verified caller, never from the body."""

    def shown(self, cards: Sequence[Card], service: Service, hook_instance: str, tenant: str, at: datetime) -> None: ...

    def add(self, items: Sequence[Feedback], service_id: str, tenant: str, received_at: datetime) -> Counts:
        """Keep a whole batch or nothing of it; returns once it would survive a crash. Raises Unavailable."""
        ...

    def writable(self) -> bool: ...


class FeedbackLog:
    """A FeedbackStore in one file of JSON lines, for one process; what it knows is read back from the file at start.

    Nothing of a patient is written but what a clinician types as a comment; the file is readable by its owner only.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._cards: dict[tuple[str, str], str] = {}
        self._outcomes: set[tuple[str, ...]] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._read_back(path)

    def shown(self, cards: Sequence[Card], service: Service, hook_instance: str, tenant: str, at: datetime) -> None:
        if not cards:
            return
        lines = [
            {
                "kind": "shown",
                "card": card.uuid,
                "tenant": tenant,
                "service": service.id,
                "version": service.version,
                "topic": card.source.topic.code if card.source.topic else "",
                "indicator": card.indicator,
                "suggestions": [s.uuid for s in card.suggestions],
                "hookInstance": hook_instance,
                "at": at,
            }
            for card in cards
        ]
        with self._lock:
            self._append(lines)
            self._cards.update({(tenant, card.uuid): service.id for card in cards})

    def add(self, items: Sequence[Feedback], service_id: str, tenant: str, received_at: datetime) -> Counts:
        with self._lock:
            fresh: dict[tuple[str, ...], Feedback] = {}
            for item in items:
                key = _key(tenant, item)
                if key not in self._outcomes:
                    fresh.setdefault(key, item)
            unmatched = {key for key, item in fresh.items() if self._cards.get((tenant, item.card)) != service_id}
            lines = [
                {
                    "kind": "feedback",
                    "tenant": tenant,
                    "service": service_id,
                    "matched": key not in unmatched,
                    "receivedAt": received_at,
                    **msgspec.to_builtins(item),
                }
                for key, item in fresh.items()
            ]
            self._append(lines)
            self._outcomes.update(fresh)
        return Counts(len(fresh), len(items) - len(fresh), len(unmatched))

    def writable(self) -> bool:
        return os.access(f"/proc/self/fd/{self._file}", os.W_OK)

    def close(self) -> None:
        with self._lock:
            os.close(self._file)

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        if not lines:
            return
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, data) != len(data):
                raise OSError("only part was written")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise Unavailable("feedback cannot be kept at the moment; send it again", retry_after_s=30) from None

    def _read_back(self, path: Path) -> None:
        unread = 0
        with path.open("rb") as lines:
            line = b""
            for line in lines:
                try:
                    self._remember(msgspec.json.decode(line))
                except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
                    unread += 1
        if line and not line.endswith(b"\n"):
            # A crash in the middle of a line: it was never acknowledged, and the next must not be glued to it.
            os.write(self._file, b"\n")
        if unread:
            log.warning("feedback log has unreadable lines", extra={"fields": {"lines": unread}})

    def _remember(self, line: dict[str, Any]) -> None:
        if line["kind"] == "shown":
            self._cards[line["tenant"], line["card"]] = line["service"]
        else:
            item = msgspec.convert(line, Feedback)
            self._outcomes.add(_key(line["tenant"], item))


def _key(tenant: str, item: Feedback) -> tuple[str, ...]:
    """What makes a repeat: the same outcome of the same card at the same time for the same suggestions."""
    return (tenant, item.card, item.outcome, item.at.isoformat(), *item.suggestions)
