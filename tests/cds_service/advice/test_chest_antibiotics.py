"""CT-04, CT-05 and CT-07: how long, whether, and when MRSA cover may stop."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from pneumonia_charts import (
    AIR,
    AMOXICILLIN,
    CONFUSED,
    DETECTED,
    ICD10CM,
    NAME,
    NO_GROWTH,
    NOT_DETECTED,
    STAPH_AUREUS,
    UREA,
    WELL,
    answered,
    at_home,
    card_of,
    chart,
    drug,
    instead,
    lab,
    rules,
    text,
    vital,
    without,
)
from r4 import validate_r4
from vignettes import Chart, Resource, concept, condition, encounter, medication, patient

from cds_service.evidence import Shortfall

CLINIC = encounter("AMB")
DAY = {"system": "http://unitsofmeasure.org", "code": "d", "unit": "d"}


def for_days(order: Resource, days: float, **dispense: Any) -> Resource:
    timing = {"repeat": {"frequency": 3, "period": 1, "periodUnit": "d", "boundsDuration": {"value": days, **DAY}}}
    more = {"dispenseRequest": {"expectedSupplyDuration": {"value": days, **DAY}, **dispense}} if dispense else {}
    return {**order, "dosageInstruction": [{"timing": timing}], **more}


# --- CT-04 ----------------------------------------------------------------------------------------------------------


def course(*resources: Resource, order: Resource = for_days(AMOXICILLIN, 10), **more: Any) -> Chart:
    return chart(*resources, drafts=(order,), **more)


def test_ten_days_for_stable_non_severe_pneumonia_can_be_five() -> None:
    card = card_of(course(*WELL))
    assert card.indicator == "info"
    assert card.summary == "Stable non-severe pneumonia: 3 to 5 days is enough; 10 days ordered."
    (action,) = [msgspec.to_builtins(a) for s in card.suggestions for a in s.actions]
    validate_r4(action["resource"])
    assert action["type"] == "update"
    assert action["resource"]["id"] == "d1"
    assert action["resource"]["dosageInstruction"][0]["timing"]["repeat"]["boundsDuration"]["value"] == 5
    unchanged = {k: v for k, v in action["resource"].items() if k != "dosageInstruction"}
    assert unchanged == {k: v for k, v in for_days(AMOXICILLIN, 10).items() if k != "dosageInstruction"}


def test_the_supply_shrinks_with_the_course_or_nothing_is_changed() -> None:
    tablets = for_days(AMOXICILLIN, 10, quantity={"value": 30, "unit": "tablet"})
    (action,) = [msgspec.to_builtins(a) for s in card_of(course(*WELL, order=tablets)).suggestions for a in s.actions]
    assert action["resource"]["dispenseRequest"]["quantity"]["value"] == 15
    assert action["resource"]["dispenseRequest"]["expectedSupplyDuration"]["value"] == 5
    odd = for_days(AMOXICILLIN, 10, quantity={"value": 21, "unit": "tablet"})
    assert card_of(course(*WELL, order=odd)).suggestions == ()


@pytest.mark.parametrize(
    "given",
    [
        course(*WELL, order=for_days(AMOXICILLIN, 5)),
        course(*WELL, order=AMOXICILLIN),  # no duration said
        course(*instead(WELL, vital("8310-5", 38.1, "Cel"))),  # not stable
        course(*instead(WELL, vital("8867-4", 104, "/min"))),
        course(*instead(WELL, vital("3151-8", 2, "L/min"))),
        course(*without(WELL, AIR)),  # not known whether on oxygen
        course(*instead(WELL, CONFUSED)),
        course(*WELL, condition("c2", "E84.0")),
        course(*WELL, condition("c2", "J86.9")),
        course(*WELL, answered("31870-9", DETECTED)),  # Legionella
        course(*WELL, answered("600-7", STAPH_AUREUS)),
        course(*WELL, order={**for_days(AMOXICILLIN, 10), "reasonCode": [concept(ICD10CM, "L03.115")]}),
        dataclasses.replace(course(*WELL), shortfalls=(Shortfall("conditions", "timeout"),)),
    ],
)
def test_short_unstable_complicated_or_otherwise_meant_courses_are_left_alone(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_a_sterile_culture_does_not_lengthen_a_course() -> None:
    assert rules(course(*WELL, answered("600-7", NO_GROWTH))) == ["CT-04"]


def test_two_durations_that_disagree_are_not_read() -> None:
    order = for_days(AMOXICILLIN, 10, quantity={"value": 30})
    order["dispenseRequest"]["expectedSupplyDuration"]["value"] = 7
    assert course(*WELL, order=order).cards(NAME) == []


def test_weeks_are_days_times_seven() -> None:
    order = for_days(AMOXICILLIN, 1)
    bounds = order["dosageInstruction"][0]["timing"]["repeat"]["boundsDuration"]
    bounds.update({"value": 1, "code": "wk", "unit": "week"})
    assert card_of(course(*WELL, order=order)).summary.endswith("7 days ordered.")


# --- CT-05 ----------------------------------------------------------------------------------------------------------


def viral(*resources: Resource, order: Resource | None = None, visit: Resource = CLINIC, **more: Any) -> Chart:
    drafts = (order or at_home(AMOXICILLIN),)
    return chart(answered("92142-9", DETECTED), *resources, drafts=drafts, visit=visit, **more)


def test_influenza_in_an_outpatient_without_comorbidity_questions_the_antibiotic() -> None:
    card = card_of(viral())
    assert card.indicator == "info"
    assert card.summary == (
        "Influenza A positive (2026-03-10), outpatient without comorbidity: pneumonia may need no antibiotic."
    )
    assert "very low certainty" in text(card)
    assert "procalcitonin (none found)" in text(card)
    (suggestion,) = card.suggestions
    assert not suggestion.is_recommended
    assert suggestion.actions[0].resource_id == "MedicationRequest/d1"


@pytest.mark.parametrize(
    "given",
    [
        viral(condition("c2", "E11.9")),
        viral(condition("c2", "J44.9")),
        viral(condition("c2", "N18.30")),
        viral(condition("c2", "Z90.81")),
        viral(visit=encounter("IMP", period={"start": "2026-03-09T08:00:00Z"})),
        viral(visit=encounter("EMER"), order=AMOXICILLIN),  # not going home
        viral(lab("33959-8", 1.2, "ng/mL")),
        viral(answered("24027-5", DETECTED)),  # pneumococcal antigen
        viral(answered("624-7", STAPH_AUREUS)),
        viral(vital("8480-6", 84, "mm[Hg]")),
        chart(answered("92142-9", NOT_DETECTED), drafts=(at_home(AMOXICILLIN),), visit=CLINIC),
        chart(answered("92142-9", DETECTED, "2026-03-01T12:00:00Z"), drafts=(at_home(AMOXICILLIN),), visit=CLINIC),
        viral(who=patient("male", "2010-04-04")),
        viral(medication("a1", "1547545", "pembrolizumab")),
        dataclasses.replace(viral(), shortfalls=(Shortfall("labs", "timeout"),)),
    ],
)
def test_comorbidity_hospital_bacteria_or_no_virus_leave_the_antibiotic_alone(given: Chart) -> None:
    assert "CT-05" not in rules(given)


def test_from_the_emergency_department_home_counts_as_outpatient() -> None:
    assert rules(viral(visit=encounter("EMER"))) == ["CT-05"]


# --- CT-07 ----------------------------------------------------------------------------------------------------------

VANCOMYCIN = medication("a1", "11124", "vancomycin 1 g IV", authoredOn="2026-03-08T08:00:00Z")
RENEWAL = drug("d1", "11124", "vancomycin 1 g IV")
SCREEN = answered("13317-3", NOT_DETECTED)
LONG_STAY = encounter("IMP", period={"start": "2026-03-08T07:00:00Z"})


def cover(*resources: Resource, drafts: tuple[Resource, ...] = (RENEWAL,), **more: Any) -> Chart:
    return chart(*resources, drafts=drafts, visit=LONG_STAY, **more)


def test_vancomycin_for_two_days_with_a_negative_screen_and_no_culture_can_stop() -> None:
    card = card_of(cover(VANCOMYCIN, SCREEN, answered("600-7", NO_GROWTH)))
    assert card.indicator == "info"
    assert card.summary == (
        "MRSA screen negative (2026-03-10), vancomycin for 2 d, no positive culture: stop vancomycin."
    )
    removal, held = (msgspec.to_builtins(a) for s in card.suggestions for a in s.actions)
    assert removal["resourceId"] == "MedicationRequest/d1"
    assert held["resource"]["id"] == "a1"
    assert held["resource"]["status"] == "on-hold"
    validate_r4(held["resource"])


@pytest.mark.parametrize(
    "given",
    [
        cover(VANCOMYCIN),
        cover(VANCOMYCIN, answered("13317-3", DETECTED)),
        cover({**VANCOMYCIN, "authoredOn": "2026-03-09T08:00:00Z"}, SCREEN),
        cover(SCREEN),  # nothing running
        cover(VANCOMYCIN, SCREEN, answered("600-7", STAPH_AUREUS)),
        cover(VANCOMYCIN, SCREEN, condition("c2", "L03.115")),
        cover({**VANCOMYCIN, "reasonCode": [concept(ICD10CM, "I33.0")]}, SCREEN),
        cover({**VANCOMYCIN, "status": "stopped"}, SCREEN),
        dataclasses.replace(cover(VANCOMYCIN, SCREEN), shortfalls=(Shortfall("labs", "timeout"),)),
    ],
)
def test_a_positive_missing_or_too_early_sign_keeps_mrsa_cover(given: Chart) -> None:
    assert "CT-07" not in rules(given)


def test_cultures_that_were_not_found_are_named() -> None:
    assert "culture results (none found)" in text(card_of(cover(VANCOMYCIN, SCREEN)))


def test_a_warning_comes_before_any_information() -> None:
    steroid = drug("d2", "8640", "prednisone 50 mg daily")
    both = chart(*WELL, drafts=(for_days(AMOXICILLIN, 10), steroid))
    assert rules(both) == ["CT-02"]
    assert rules(chart(*without(WELL, UREA), drafts=(for_days(AMOXICILLIN, 10),))) == ["CT-04"]  # 0 to 1
