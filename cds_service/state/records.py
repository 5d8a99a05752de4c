"""What the service hands to the store and gets back. Keys are keyed hashes: nothing here identifies a patient."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

Indicator = Literal["info", "warning", "critical"]
Outcome = Literal["accepted", "overridden"]
Setting = Literal["inpatient", "outpatient", ""]
"""Where the patient was; "" where that is not known."""
COMMENT_LIMIT = 4000
ID_LIMIT = 512
PER_ORDER = 0.005
PER_USER_AND_WEEK = 8
"""Budgets of warning and critical cards: for each order the whole site signed lately, and for one user in a week. A
warning beyond either is shown as info, a critical card as it is; the console reports against the same numbers."""


def storable(text: str, limit: int) -> str:
    """At most `limit` characters; NUL and lone surrogates, which PostgreSQL cannot hold, become U+FFFD or ?."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _aware(moment: datetime, name: str) -> None:
    if moment.tzinfo is None:
        raise ValueError(f"{name} needs a time zone")


class Decision(msgspec.Struct, frozen=True):
    """What became of one rule in one call; `cause` says why it was silent, capped or abstained.

    tier  of the card it was on, or would have been on
    """

    rule: str
    outcome: Literal["fired", "silent", "capped", "abstained"]
    cause: str = ""
    version: str = ""
    tier: str = ""


class Prediction(msgspec.Struct, frozen=True):
    """One calibrated probability in [0, 1] with its 5th and 95th percentile; None where the model abstained."""

    target: str
    probability: float | None
    low: float | None = None
    high: float | None = None


class Earlier(msgspec.Struct, frozen=True):
    """A Prediction of an earlier call, with its moment."""

    target: str
    at: datetime
    probability: float | None
    low: float | None = None
    high: float | None = None


class ShownCard(msgspec.Struct, frozen=True):
    """A card as far as feedback and silence need it.

    fingerprint  same deciding facts for the same patient, rule and order: `Store.fingerprint`
    shadow       computed and kept, but not sent: feedback never matches it
    orders       keyed hashes of the orders it is about, to tell the same order from one that reappears
    """

    card: str
    rules: tuple[str, ...]
    indicator: Indicator
    fingerprint: str = ""
    suggestions: tuple[str, ...] = ()
    shadow: bool = False
    orders: tuple[str, ...] = ()


class AnswerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One answered call: its audit row, its predictions and its cards, stored together or not at all.

    id      stable, so that storing it twice (outbox) leaves one row
    inputs  keyed hashes of the references and versions of the resources the answer rests on: `Store.key`
    ms      milliseconds per stage
    setting and event_key (one user, patient and hook) are what the next call's silence is decided by
    details  what was noticed of the call for the console: where its evidence came from, codes nobody mapped
    """

    tenant: str
    hook: str
    hook_instance: str
    service: str
    at: datetime
    status: int
    service_version: str = ""
    config_digest: str = ""
    model: str = ""
    model_digest: str = ""
    input_digest: str = ""
    patient_key: str = ""
    user_key: str = ""
    encounter_key: str = ""
    setting: Setting = ""
    event_key: str = ""
    inputs: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    cards: tuple[ShownCard, ...] = ()
    ms: Mapping[str, int] = msgspec.field(default_factory=dict)
    details: Mapping[str, Any] = msgspec.field(default_factory=dict)
    id: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        _aware(self.at, "at")


class Reason(msgspec.Struct, frozen=True):
    """Why a card was overridden, as the EHR codes it; some send several."""

    code: str
    system: str = ""
    display: str = ""


class FeedbackItem(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one card, as the EHR reports it.

    suggestions  ids of accepted suggestions; each is a row of its own
    comment      free text of a clinician: health data, never used by any logic, never exported unasked
    """

    card: str
    outcome: Outcome
    outcome_at: datetime
    suggestions: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    comment: str = ""

    def __post_init__(self) -> None:
        _aware(self.outcome_at, "outcome_at")
        if self.outcome not in get_args(Outcome):
            raise ValueError("outcome is accepted or overridden")


class FeedbackResult(msgspec.Struct, frozen=True):
    """How many rows are new, were there already, or name a card this tenant was never sent (parked, never counted)."""

    stored: int
    repeated: int
    unmatched: int


class Broken(msgspec.Struct, frozen=True):
    """The first row at which a chain does not hold, and how."""

    tenant: str
    seq: int
    id: str
    why: str


class AuditVerdict(msgspec.Struct, frozen=True):
    """`heads` maps each tenant to the seq and hash its chain ends in, to be noted outside the database."""

    rows: int
    heads: Mapping[str, tuple[int, str]]
    broken: Broken | None

    @property
    def ok(self) -> bool:
        return self.broken is None


class Shown(msgspec.Struct, frozen=True):
    """A card as it was shown, its answer (None: nothing yet), and the codes of the reasons.

    hook_instance  of the last call that showed it; answered_at by the EHR's clock, never before the card or after now
    """

    card: str
    indicator: Indicator
    shown_at: datetime
    encounter_key: str
    outcome: Outcome | None
    reasons: tuple[str, ...]
    setting: Setting = ""
    orders: tuple[str, ...] = ()
    hook_instance: str = ""
    answered_at: datetime | None = None


class Silence(msgspec.Struct, frozen=True):
    """A fingerprint that stays unsaid for `user_key` ("" everybody) until then (None: for good)."""

    user_key: str
    until: datetime | None
    cause: str


class History(msgspec.Struct, frozen=True):
    """Of one fingerprint: its last card to this user, every answered card to anybody, and a silence that was set."""

    shown: Shown | None = None
    silence: Silence | None = None
    answered: tuple[Shown, ...] = ()


class Rival(msgspec.Struct, frozen=True):
    """A card that another service sent for the same hook event."""

    service: str
    indicator: Indicator


class Crowd(msgspec.Struct, frozen=True):
    """What a user has on the screen, and has been interrupted by.

    interruptions  warning and critical cards of the last week
    orders, order_interruptions  what the whole site signed lately, and its warning and critical cards about orders;
        known only for a warning about an order
    told  this user was told the same as info in the last week, about other orders
    """

    rivals: tuple[Rival, ...] = ()
    interruptions: int = 0
    orders: int = 0
    order_interruptions: int = 0
    told: bool = False


Settle = Callable[[AnswerRecord, Crowd], AnswerRecord]
"""Decides what of an answer is sent, once it is known what others have sent. Pure: it may run twice."""


class ReportRow(msgspec.Struct, frozen=True):
    """One rule's month.

    suppressed, capped  calls in which it would have spoken, by cause; they were not shown
    shadow    cards of a rule or service in shadow mode
    reasons   overridden cards per reason code; one card may have several
    answer_s  median of the seconds from card to answer; None without an answer
    """

    service: str
    rule: str
    indicator: Indicator
    shown: int
    accepted: int
    overridden: int
    unanswered: int
    reasons: Mapping[str, int]
    answer_s: float | None
    suppressed: Mapping[str, int] = {}
    capped: Mapping[str, int] = {}
    shadow: int = 0


class FeedbackReport(msgspec.Struct, frozen=True):
    """`calls` answered with 200 per hook, one for each service asked; `interruptions`: warning and critical cards."""

    rows: tuple[ReportRow, ...]
    unmatched: int
    calls: Mapping[str, int] = {}
    interruptions: int = 0


class Health(msgspec.Struct, frozen=True):
    """What readiness and metrics ask.

    wrote_s      seconds since the database last took a write durably
    outbox       answers waiting in the local file; `outbox_oldest_s` how long the first has waited
    outbox_free  share of the reserved file still free, 0 to 1
    switches_s   seconds since the switches were last read
    unsent_s     how long the oldest audit row has waited for the audit repository
    """

    wrote_s: float
    outbox: int
    outbox_oldest_s: float
    outbox_free: float
    switches_s: float
    unsent_s: float = 0.0
