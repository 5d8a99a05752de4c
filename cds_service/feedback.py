"""What became of our cards: feedback, read leniently.

Source: CDS Hooks 2.0 "Feedback". Epic spells `overrideReasons`, sends its own reasons in `extension` and ids that are
no UUIDs; messages come in batches, repeatedly, late and for cards we no longer know.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from cds_service import strict_json
from cds_service.errors import BadRequest
from cds_service.hooks import decode_member
from cds_service.state import records as state
from cds_service.state.records import FeedbackItem

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
    outcome: Literal["accepted", "overridden"]
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
        outcome="accepted" if item.outcome == "accepted" else "overridden",
        at=at,
        suggestions=tuple(sorted({s.id for s in item.accepted_suggestions or ()})),
        reasons=tuple(_shortened(r) for r in reasons if r.reason is not None or r.user_comment),
    )


def _shortened(reason: OverrideReason) -> OverrideReason:
    comment = reason.user_comment[:COMMENT_LIMIT] if reason.user_comment else None
    return OverrideReason(reason.reason, comment)


def to_items(feedback: Sequence[Feedback]) -> tuple[FeedbackItem, ...]:
    """As the store keeps it. Several comments on one card become one."""
    return tuple(
        FeedbackItem(
            card=f.card,
            outcome=f.outcome,
            outcome_at=f.at,
            suggestions=f.suggestions,
            reasons=tuple(
                state.Reason(r.reason.code, r.reason.system, r.reason.display)
                for r in f.reasons
                if r.reason is not None
            ),
            comment="\n".join(r.user_comment for r in f.reasons if r.user_comment),
        )
        for f in feedback
    )
