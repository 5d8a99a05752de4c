"""A model's answer on a card: when it may be spoken, what it rested on, and how it is worded (CLINICAL 3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cds_service.advice.writing import Fact, missing_evidence, moment, probability, shown, taken
from cds_service.cards import DETAIL_LIMIT, Card
from fhir_mappers.record import Image, Lab
from models.contract import MODALITIES, Assessment, Estimate

if TYPE_CHECKING:
    from cds_service.consult import Case

WIDEST_ACROSS_A_THRESHOLD = 0.30
"""MX-2: an interval wider than this that holds the threshold is no answer."""
RESEARCH = "Research use: not cleared."
WORDS = {
    "imaging": "chest film",
    "labs": "laboratory results",
    "history": "history",
    "genomics": "genomic results",
}
TRAINED_ON = {
    "open": "trained on open data sets",
    "generated": "trained on generated patients: demonstration only",
    "credentialed": "trained on credentialed data sets",
}
EVIDENCE = {"studies": "imaging studies", "films": "chest film", "labs": "laboratory results"}


def answered(estimate: Estimate | None, threshold: float) -> float | None:
    """The probability, or None where the model abstains or is unsure about this threshold (MX-2)."""
    return None if estimate is None else sure(estimate.probability, estimate.interval, threshold)


def sure(p: float | None, interval: tuple[float, float] | None, threshold: float) -> float | None:
    """The same for a probability and its interval alone, as an earlier call left them."""
    if p is not None and interval is not None:
        low, high = interval
        if high - low > WIDEST_ACROSS_A_THRESHOLD and low < threshold <= high:
            return None
    return p


def rests_on_film(estimate: Estimate) -> bool:
    return "imaging" in estimate.rested_on


def films_used(case: Case) -> tuple[Image, ...]:
    """The films that went into the model, newest first."""
    used = frozenset(case.used.get("imaging", ()))
    return tuple(image for image in case.record.images if image.sop_uid in used)


def labs_used(case: Case) -> tuple[Lab, ...]:
    """The newest result of each analyte that went into the model: those out of range first, then by age."""
    used = frozenset(case.used.get("labs", ()))
    newest: dict[str, Lab] = {}
    for lab in case.record.labs:
        if lab.source.reference in used:
            newest.setdefault(lab.analyte, lab)
    return tuple(sorted(newest.values(), key=lambda lab: not out_of_range(lab)))


def out_of_range(lab: Lab) -> str:
    """`low`, `high`, or "" for within the range and for no range."""
    if lab.low is not None and lab.value < lab.low:
        return "low"
    return "high" if lab.high is not None and lab.value > lab.high else ""


def film_fact(film: Image) -> Fact:
    view = f"{film.view} view" if film.view != "unknown" else "view not stated"
    view = f"{view}, rendered" if film.rendered else view
    return Fact("Chest film", view, moment(film.at), "Imaging archive")


def lab_fact(lab: Lab) -> Fact:
    mark = out_of_range(lab)
    return Fact(lab.name, shown(lab) + (f", {mark}" if mark else ""), taken(lab), "Laboratory")


def without_modalities(case: Case, estimate: Estimate) -> tuple[str, ...]:
    """What the model could have used for this question and had not, with the reason where one is known."""
    fetched = missing_evidence(case.shortfalls, EVIDENCE)
    found = []
    for modality in MODALITIES:
        if modality not in estimate.target.modalities or modality in estimate.rested_on:
            continue
        name = WORDS[modality]
        told = next((text for text in fetched if text.startswith(name)), None)
        if told is not None:
            found.append(told)
        elif modality == "imaging":
            found.append(f"{name} ({_why_no_film(case)})")
        else:
            found.append(f"{name} (none found)")
    return tuple(found)


def _why_no_film(case: Case) -> str:
    if case.profile == "non_device":
        return "not used: image analysis is switched off here"
    if case.record.images:
        return "not used"
    return refused_film(case) or ("none readable" if case.record.studies else "none found")


def refused_film(case: Case) -> str:
    """Why a film that came is not believed to be the one asked for; empty where none was refused for that."""
    refused = {gap.code for gap in case.record.gaps if gap.subject == "film"}
    if "other-patient" in refused:
        return "refused: it came as another patient's"
    return "refused: not the film that was asked for" if "wrong-image" in refused else ""


def drivers(estimate: Estimate) -> str:
    """`chest film +18 points, laboratory results -3 points`: what masking each modality would take away."""
    if estimate.probability is None:
        return ""
    moved: Mapping[str, int] = {
        modality: round(100 * (estimate.probability - p)) for modality, p in estimate.without.items()
    }
    ordered = sorted(moved.items(), key=lambda item: (-abs(item[1]), item[0]))
    return ", ".join(f"{WORDS.get(m, m)} {points:+d} point{'' if abs(points) == 1 else 's'}" for m, points in ordered)


def with_licence(cards: list[Card], assessment: Assessment | None) -> list[Card]:
    """The cards with what the licence of the film network asks to be said, on each that rests on a film.

    Behind RESEARCH, which is on exactly those; on the source's label where the detail has no room left.
    """
    if assessment is None or not assessment.notice:
        return cards
    said: list[Card] = []
    for card in cards:
        detail = (card.detail or "").replace(RESEARCH, f"{RESEARCH} {assessment.notice}", 1)
        if detail == (card.detail or ""):
            said.append(card)
        elif len(detail) <= DETAIL_LIMIT:
            said.append(replace(card, detail=detail))
        else:
            said.append(replace(card, source=replace(card.source, label=f"{card.source.label}. {assessment.notice}")))
    return said


def model_line(assessment: Assessment, estimate: Estimate) -> str:
    """Probability, interval, what drove it, and what kind of model said so."""
    name = f"Model {assessment.model} ({TRAINED_ON[assessment.tier]})"
    research = f" {RESEARCH}" if rests_on_film(estimate) else ""
    if estimate.probability is None:
        return f"{name} gave no estimate: {(estimate.abstained or 'not known why').removesuffix('.')}."
    text = f"{name}: {estimate.target.title} {probability(estimate.probability)}"
    if estimate.interval is not None:
        text += f", 90% interval {probability(estimate.interval[0])} to {probability(estimate.interval[1])}"
    moved = drivers(estimate)
    text += f"; moved by {moved}" if moved else ""
    return f"{text}. Model estimate, not a diagnosis.{research}"
