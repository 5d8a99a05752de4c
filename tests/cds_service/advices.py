"""Advice of a plug-in package, installed for the tests as any other package would install its own."""

from __future__ import annotations

import time

from cds_service.advice.writing import card, missing_evidence, rule_on
from cds_service.cards import Action, Card, Coding, Source, Suggestion, new_uuid
from cds_service.consult import Case


def _card(summary: str, **members: object) -> Card:
    return Card(summary, "info", Source("Test", topic=Coding("probe", "urn:test")), **members)  # type: ignore[arg-type]


def probe(case: Case) -> list[Card]:
    """One card that says what it saw, with a suggestion on the first draft."""
    drafts = case.request.drafts()
    summary = f"{case.service.id} {case.request.hook}: {len(drafts)} drafts, {len(case.record.labs)} labs"
    if not drafts or "id" not in drafts[0]:
        return [_card(summary)]
    update = Action("update", "Make it urgent", resource={**drafts[0], "priority": "urgent"})
    return [_card(summary, suggestions=(Suggestion("Urgent", (update,)),), selection_behavior="at-most-one")]


def other(case: Case) -> list[Card]:
    return [_card("the other service")]


def silent(case: Case) -> list[Card]:
    return []


def broken(case: Case) -> list[Card]:
    raise ValueError(f"unexpected {case.request.context} {case.record} {bytes(case.request.prefetch['note'])!r}")


def slow(case: Case) -> list[Card]:
    time.sleep(float(case.service.settings["seconds"]))
    return [_card("late but here")]


def thoughts(case: Case) -> list[Card]:
    """One card that says what the model said and what is missing."""
    said = "no estimate"
    if case.assessment is not None:
        estimate = next(iter(case.assessment.estimates.values()))
        said = f"{estimate.target.name} {estimate.probability:.2f}, moved by {len(estimate.without)}"
    missing = missing_evidence(case.shortfalls, {"model": "model estimate", "labs": "labs", "films": "films"})
    return [_card(said, detail="Not known: " + "; ".join(missing) if missing else None)]


def films(case: Case) -> list[Card]:
    """One card that says which films could be read."""
    sizes = ", ".join(f"{i.pixels.shape[0]}x{i.pixels.shape[1]}" for i in case.record.images) or "none"
    missing = missing_evidence(case.shortfalls, {"films": "films", "studies": "studies"})
    refused = sorted(f"{g.code} {g.subject}" for g in case.record.gaps if g.subject.startswith("film"))
    return [_card(f"films: {sizes}", detail="; ".join((*missing, *refused)) or None)]


def finding(case: Case) -> list[Card]:
    """A card for each rule that is on, in the rule's tier, about the drafts that concern the service.

    The deciding band is what the first draft says in its note, without a draft the patient's name: both are the test's.
    """
    time.sleep(float(case.service.settings.get("seconds", 0.0)))
    found = []
    for name, rule in case.service.rules.items():
        drafts = case.record.drafts()
        notes = [note["text"] for order in drafts for note in order.resource.get("note", ())]
        if rule_on(case.service, name) is None or (drafts and "quiet" in notes):
            continue
        uuid = new_uuid()
        update = [
            Action("update", "Change it", {**order.resource, "note": [{"text": f"changed by {uuid}"}]})
            for order in drafts[:1]
        ]
        found.append(
            card(
                case.service,
                name,
                uuid=uuid,
                indicator=rule.tier,
                summary=f"{name} at {notes[0] if notes else 'chart'}",
                detail=f"Rule {name} v1",
                suggestions=[Suggestion("Change it", tuple(update)), Suggestion("Leave it")],
                orders=drafts,
                deciding=(notes[0] if notes else "chart",),
            )
        )
    return found
