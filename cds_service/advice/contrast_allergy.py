"""IS-04: an earlier immediate reaction to iodinated contrast, and iodinated contrast ordered again.

Another study, or another agent that radiology chooses, comes first; premedication is theirs to decide and no default of
ours. Shellfish and dietary iodine say nothing about contrast (ACR-AAAAI consensus 2025).
"""

from __future__ import annotations

from cds_service.advice.contrast_question import EVIDENCE, REASONS, Question, ask_radiology, code_status
from cds_service.advice.packs.safe_to_image import contrast_allergies
from cds_service.advice.writing import Fact, card, day, detail, fitting, missing_evidence, rule_line, rule_on
from cds_service.cards import Card, Indicator
from cds_service.markdown import plain_text
from fhir_mappers.record import Allergy

TIERS: dict[str, Indicator] = {"severe": "critical", "moderate": "warning", "unknown": "warning", "mild": "info"}
NOT_DATED = "date not recorded"
AGENT_CHARS, REACTION_CHARS = 30, 40
MOST_SHOWN = 3


def allergy_card(q: Question, *, emergency: bool) -> Card | None:
    """The card of the worst reaction on record; in an emergency only a severe one is said."""
    service, record = q.case.service, q.case.record
    rule, reactions = rule_on(service, "IS-04"), contrast_allergies(record)
    if rule is None or not reactions or (emergency and reactions[0].severity != "severe"):
        return None
    worst = reactions[0]
    # A site may lower the rule's tier; a milder reaction is never louder than it.
    tiers: tuple[Indicator, ...] = ("info", "warning", "critical")
    tier = min(TIERS[worst.severity], rule.tier, key=tiers.index)
    known = f"Prior {_what(worst)} to {_agent(worst)} ({day(worst.onset) or NOT_DATED})"
    do = (
        "ask radiology for another agent" if worst.severity == "mild" else "choose non-contrast study or call radiology"
    )
    suggestions = (
        q.other_study(),
        ask_radiology(
            q.case,
            "Ask radiology for another study or another agent",
            f"{known}. Alternative modality, or a different agent with premedication and monitoring?",
        ),
    )
    return card(
        service,
        "IS-04",
        uuid=q.uuid,
        orders=q.orders,
        deciding=(worst.severity, _agent(worst)),
        indicator=tier,
        summary=fitting(f"{known}: {do}."),
        detail=detail(
            why=q.why,
            facts=[*(_fact(a) for a in reactions[:MOST_SHOWN]), *code_status(record)],
            advice="A study without contrast avoids the risk. Where contrast is needed, an agent other than the one "
            "reacted to comes first; premedication and monitoring are for radiology to decide.",
            unknown=(
                *(("how severe the reaction was",) if worst.severity == "unknown" else ()),
                *missing_evidence(q.case.shortfalls, {"allergies": "rest of the allergy list", **EVIDENCE}),
            ),
            rule=rule_line(service, "IS-04"),
        ),
        suggestions=tuple(s for s in suggestions if s is not None),
        reasons=REASONS,
    )


def _agent(allergy: Allergy) -> str:
    """The agent by the record's name; a diagnosis (ICD-10 Z91.041) names none."""
    coded = "iodinated_contrast" in allergy.concepts
    return (plain_text(allergy.text, AGENT_CHARS) if coded else "") or "iodinated contrast"


def _what(allergy: Allergy) -> str:
    if allergy.reactions:
        words = plain_text(allergy.reactions[0], REACTION_CHARS)
        return words[:1].lower() + words[1:]
    return "reaction" if allergy.severity == "unknown" else f"{allergy.severity} reaction"


def _fact(allergy: Allergy) -> Fact:
    said = ", ".join(allergy.reactions) or "reaction not described"
    source = "Problem list" if allergy.source.reference.startswith("Condition/") else "Allergy list"
    severity = "severity not known" if allergy.severity == "unknown" else allergy.severity
    return Fact(f"Allergy, {severity}", f"{_agent(allergy)}: {said}", day(allergy.onset) or NOT_DATED, source)
