"""The economy of cards: which of them a clinician sees now. Pure: cards and what was said before go in.

A card is known again by its fingerprint: patient, rules, order and deciding facts in bands. Shown once, it is silent
for its window; answered, for as long as the answer means. Critical is never silent before it is answered. Source:
CLINICAL.md 2.2 and 2.3 of the project's clinical specification; docs/safety.md has it as hazards F5 and F17.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from msgspec import structs

from cds_service.cards import Card, Indicator
from cds_service.state.records import (
    PER_ORDER,
    PER_USER_AND_WEEK,
    AnswerRecord,
    Crowd,
    Decision,
    History,
    Setting,
    Shown,
)

LOUDNESS: Mapping[Indicator, int] = {"info": 0, "warning": 1, "critical": 2}
PRIORITY = (
    "imaging-safety",
    "precision-prescribing",
    "lung-precision",
    "pe-imaging",
    "chest-treatment",
    "deterioration",
    "cxr-insight",
    "imaging-timing",
)
"""Who speaks first among equals in tier; a service that is not here comes after them."""
INFO_WINDOW = timedelta(days=7)
WARNING_WINDOW = timedelta(hours=24)
LASTING = timedelta(days=90)
SNOOZE = timedelta(hours=4)
VISIT = timedelta(hours=24)
"""How long a visit is taken to last where the EHR does not say which encounter it is."""
SAME_ORDER = timedelta(hours=24)
"""A draft is signed within a day; a draft of the same id later is another one."""
LASTING_REASONS = frozenset({"risk-benefit-ratio", "cds-not-applicable"})
LATER = "need-more-info"
PER_EVENT = 2
FEWEST_ORDERS = 1_000
"""A site that has signed fewer orders has the budget of so many, so that its first warning is not too many."""

Cause = Literal["silenced", "overridden", "accepted", "answered", "later", "shown"]


@dataclass(frozen=True, slots=True)
class Moment:
    """A call as far as silence depends on it."""

    at: datetime
    encounter_key: str
    setting: Setting
    hook_instance: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A card with what it is known by. `fingerprint` is "" where the advice did not say what it rests on."""

    card: Card
    rules: tuple[str, ...]
    fingerprint: str = ""
    orders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Speak, as a new card or (`again`) as the card of that uuid; or be silent for a cause."""

    cause: Cause | None = None
    again: str = ""


def judge(indicator: Indicator, orders: Sequence[str], history: History, now: Moment) -> Verdict:
    """Whether a finding is said now, given its fingerprint's history."""
    if history.silence is not None:
        return Verdict("silenced")
    for card in history.answered:
        lasting = card.outcome == "overridden" and LASTING_REASONS.intersection(card.reasons)
        if lasting and LOUDNESS[card.indicator] >= LOUDNESS[indicator] and _lasts(card, now):
            return Verdict("overridden")
    mine = history.shown
    if mine is None or LOUDNESS[mine.indicator] < LOUDNESS[indicator]:
        return Verdict()
    return _answered(indicator, orders, mine, now) if mine.outcome else _unanswered(indicator, orders, mine, now)


def _answered(indicator: Indicator, orders: Sequence[str], mine: Shown, now: Moment) -> Verdict:
    same = _same_order(orders, mine, now)
    if mine.outcome == "accepted":
        # Without an order there is nothing that could reappear: the answer holds as a lasting override does.
        holds = same if orders or mine.orders else _lasts(mine, now)
        return Verdict("accepted" if holds else None)
    if LATER in mine.reasons:
        return Verdict("later" if _snoozed(mine, now) else None)
    if indicator == "critical":
        return Verdict("answered" if mine.reasons and _same_encounter(mine, now) else None)
    return Verdict("answered" if same or _in_window(indicator, mine, now) else None)


def _unanswered(indicator: Indicator, orders: Sequence[str], mine: Shown, now: Moment) -> Verdict:
    if mine.hook_instance == now.hook_instance or _same_order(orders, mine, now):
        return Verdict(again=mine.card)
    return Verdict("shown" if indicator != "critical" and _in_window(indicator, mine, now) else None)


def _same_encounter(card: Shown, now: Moment) -> bool:
    return bool(card.encounter_key) and card.encounter_key == now.encounter_key


def _same_order(orders: Sequence[str], card: Shown, now: Moment) -> bool:
    other_visit = card.encounter_key and now.encounter_key and card.encounter_key != now.encounter_key
    return bool(set(orders) & set(card.orders)) and not other_visit and now.at - card.shown_at <= SAME_ORDER


def _lasts(card: Shown, now: Moment) -> bool:
    """For the stay it was said in; said in a clinic, for 90 days of clinics."""
    if _same_encounter(card, now):
        return True
    clinics = card.setting == "outpatient" and now.setting == "outpatient"
    return clinics and card.answered_at is not None and now.at - card.answered_at <= LASTING


def _snoozed(card: Shown, now: Moment) -> bool:
    """Four hours in hospital, and where the encounter could not be read; in a clinic until the next visit."""
    since = now.at - (card.answered_at or card.shown_at)
    if now.setting != "outpatient":
        return since <= SNOOZE
    known = card.encounter_key and now.encounter_key
    return _same_encounter(card, now) if known else since <= VISIT


def _in_window(indicator: Indicator, card: Shown, now: Moment) -> bool:
    since = now.at - card.shown_at
    if indicator != "info":
        return since <= WARNING_WINDOW
    if now.setting == "inpatient" and card.encounter_key and now.encounter_key:
        return _same_encounter(card, now)
    return since <= INFO_WINDOW


# What is left of an answer ------------------------------------------------------------------------------------------


def loudest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """A service says one thing at a time: the first of these."""
    return sorted(candidates, key=lambda c: -LOUDNESS[c.card.indicator])


def rank(indicator: Indicator, service: str) -> tuple[int, int]:
    """Smaller speaks first among services asked at once."""
    return -LOUDNESS[indicator], PRIORITY.index(service) if service in PRIORITY else len(PRIORITY)


def make_room(record: AnswerRecord, crowd: Crowd) -> AnswerRecord:
    """What is left of an answer beside what others have sent: at most two cards for a hook event, eight
    interruptions of a user a week, interruptions of one order in two hundred.

    A louder card is not cut by quieter ones that came first: what was sent cannot be called back. Critical passes.
    """
    card = next((c for c in record.cards if not c.shadow), None)
    if card is None or card.indicator == "critical":
        return record
    spent = _spent(crowd) if card.indicator == "warning" else ""
    crowded = sum(LOUDNESS[rival.indicator] >= LOUDNESS[card.indicator] for rival in crowd.rivals) >= PER_EVENT
    if crowded or (spent and crowd.told):
        # What may only inform by now is not said to the same user again for every further order.
        kept = tuple(c for c in record.cards if c is not card)
        cause = "two per event" if crowded else spent
        said = tuple(
            structs.replace(d, outcome="capped", cause=cause) if _is_of(d, card.rules) else d for d in record.decisions
        )
        return structs.replace(record, cards=kept, decisions=said)
    if spent:
        lowered = structs.replace(card, indicator="info")
        said = tuple(
            structs.replace(d, cause=spent, tier="info") if _is_of(d, card.rules) else d for d in record.decisions
        )
        return structs.replace(record, cards=tuple(lowered if c is card else c for c in record.cards), decisions=said)
    return record


def _spent(crowd: Crowd) -> str:
    """Which budget another interruption would exceed, "" for none."""
    if crowd.interruptions >= PER_USER_AND_WEEK:
        return "eight per week"
    if crowd.order_interruptions + 1 > PER_ORDER * max(FEWEST_ORDERS, crowd.orders):
        return "five per thousand orders"
    return ""


def _is_of(decision: Decision, rules: Sequence[str]) -> bool:
    return decision.outcome == "fired" and decision.cause == "" and decision.rule in (rules or ("",))
