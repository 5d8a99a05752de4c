"""CT-01 and CT-02: what the severity of pneumonia says about going home and about corticosteroids."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from pneumonia_charts import (
    ALERT,
    AMOXICILLIN,
    CEFTRIAXONE,
    CELLS,
    CONFUSED,
    DIASTOLIC,
    ICD10CM,
    NAME,
    OLD,
    PLATELETS,
    PREDNISONE,
    PRESSURE,
    RATE,
    SATURATION,
    UREA,
    WELL,
    at_home,
    card_of,
    chart,
    instead,
    lab,
    rules,
    text,
    vital,
    without,
)
from vignettes import (
    Answers,
    Chart,
    Resource,
    concept,
    condition,
    encounter,
    imaging_order,
    medication,
    patient,
    service,
)

from cds_service.advice.estimates import RESEARCH
from cds_service.cards import Action
from cds_service.evidence import Shortfall

ED = encounter("EMER")
ILL = instead(WELL, CONFUSED, lab("3094-0", 31, "mg/dL"), vital("9279-1", 32, "/min"))
"""Confusion, urea nitrogen 31 mg/dL, rate 32: CURB-65 3, and 4 at 65 or over."""


def home(*resources: Resource, who: Resource = OLD, visit: Resource = ED, drafts: tuple[Resource, ...] = ()) -> Chart:
    return chart(*resources, drafts=drafts or (at_home(AMOXICILLIN),), who=who, visit=visit)


# --- CT-01 ----------------------------------------------------------------------------------------------------------


def test_severe_pneumonia_sent_home_asks_for_a_review_for_admission() -> None:
    card = card_of(home(*ILL))
    assert card.indicator == "warning"
    assert card.summary == "CURB-65 4, treatment at home ordered: review for admission or observation first."
    assert "| CURB-65 4 | confusion, urea, respiratory rate, age; 5 of 5 items known |" in text(card)
    assert "31 mg/dL" in text(card)
    (action,) = card.suggestions[0].actions
    resource = msgspec.to_builtins(action)["resource"]
    assert (resource["resourceType"], resource["status"], resource["priority"]) == ("ServiceRequest", "draft", "urgent")
    assert resource["code"]["text"] == "review for admission or observation"


def test_a_saturation_of_89_percent_alone_keeps_a_patient_from_going_home() -> None:
    card = card_of(home(*instead(WELL, vital("59408-5", 89, "%")), who=patient("male", "1981-01-01")))
    assert card.summary.startswith("SpO2 89 %, treatment at home ordered")


def test_with_a_target_of_88_to_92_percent_89_percent_may_go_home_and_87_may_not() -> None:
    young, hypercapnia = patient("male", "1981-01-01"), condition("c9", "J96.12")
    assert home(*instead(WELL, vital("59408-5", 89, "%")), hypercapnia, who=young).cards(NAME) == []
    assert rules(home(*instead(WELL, vital("59408-5", 87, "%")), hypercapnia, who=young)) == ["CT-01"]


def test_a_discharge_order_sends_home_as_well_as_a_prescription_does() -> None:
    leaving = imaging_order("s1", "0", "Discharge to home")
    leaving["code"] = concept("http://snomed.info/sct", "306689006", "Discharge to home")
    assert rules(home(*ILL, drafts=(leaving, CEFTRIAXONE))) == ["CT-01"]
    assert rules(home(*ILL, drafts=(leaving,))) == ["CT-01"]


@pytest.mark.parametrize(
    "given",
    [
        home(*instead(ILL, RATE, UREA)),  # confusion and age only: 2
        home(*ILL, drafts=(CEFTRIAXONE,)),  # not going home
        home(*ILL, visit=encounter("IMP")),  # admitted already
        home(*ILL, condition("c2", "D84.9")),  # immunosuppressed
        home(*ILL, who=patient("male", "2009-05-05")),
        home(*ILL, drafts=({**at_home(AMOXICILLIN), "reasonCode": [concept(ICD10CM, "N39.0")]},)),
    ],
)
def test_less_severe_staying_or_treated_for_something_else_gets_no_discharge_card(given: Chart) -> None:
    assert "CT-01" not in rules(given)


def test_a_missing_item_leaves_a_minimum_that_must_qualify_by_itself() -> None:
    known = without(ILL, CONFUSED)
    card = card_of(home(*known))
    assert card.summary.startswith("CURB-65 at least 3")
    assert "CURB-65 item confusion" in text(card).partition("Not known: ")[2]
    assert "CT-01" not in rules(home(*known, who=patient("male", "1981-01-01")))  # 2 to 3: the range holds both


def test_urea_in_mmol_per_litre_gives_the_same_score() -> None:
    molar = lab("3094-0", 11.066, "mmol/L")  # 31 mg/dL divided by 2.8014
    assert card_of(home(*instead(ILL, molar))).summary == card_of(home(*ILL)).summary


def test_the_24_h_estimate_is_a_line_on_the_card_and_an_abstention_is_silence_of_that_line() -> None:
    model = Answers(
        {"deterioration_24h": (0.44, 0.37, 0.51)},
        titles={"deterioration_24h": "worsening within 24 h"},
        modalities=("labs",),
    )
    known = instead(ILL, lab("6690-2", 9.1, "10*3/uL"))
    card = card_of(dataclasses.replace(home(*known), model=model))
    assert "worsening within 24 h 0.44" in text(card)
    assert RESEARCH not in text(card)
    silent = card_of(dataclasses.replace(home(*known), model=dataclasses.replace(model, abstained="out of range")))
    assert "worsening" not in text(silent)
    assert silent.summary == card.summary


def test_a_preliminary_urea_that_decides_informs_and_does_not_warn() -> None:
    young = patient("male", "1981-01-01")
    early = instead(ILL, lab("3094-0", 31, "mg/dL", status="preliminary"))
    assert card_of(home(*ILL, who=young)).indicator == "warning"
    assert card_of(home(*early, who=young)).indicator == "info"


# --- CT-02 ----------------------------------------------------------------------------------------------------------


def steroid(*resources: Resource, who: Resource | None = None, draft: Resource = PREDNISONE, **more: object) -> Chart:
    return chart(*resources, drafts=(draft,), who=who or patient("male", "1981-01-01"), **more)  # type: ignore[arg-type]


def test_a_corticosteroid_for_non_severe_pneumonia_is_recommended_against() -> None:
    card = card_of(steroid(*WELL))
    assert card.indicator == "warning"
    assert card.summary == "Non-severe pneumonia (CURB-65 0): corticosteroid not recommended."
    assert "0 of 9 minor criteria met" in text(card)
    (suggestion,) = card.suggestions
    assert suggestion.is_recommended
    assert suggestion.actions == (
        Action("delete", "Removes the draft order: prednisone 50 mg daily", resource_id="MedicationRequest/d2"),
    )


@pytest.mark.parametrize(
    "given",
    [
        steroid(*instead(WELL, CONFUSED, vital("9279-1", 32, "/min"), lab("3094-0", 31, "mg/dL"))),  # severe
        steroid(*without(WELL, PRESSURE, DIASTOLIC, PLATELETS)),  # could be severe
        steroid(*WELL, condition("c2", "J44.1")),
        steroid(*WELL, condition("c2", "J45.901")),
        steroid(*WELL, condition("c2", "E27.40")),
        steroid(*WELL, condition("c2", "U07.1")),
        steroid(*WELL, medication("a1", "8640", "prednisone 5 mg daily")),  # taken for long already
        steroid(*WELL, medication("a1", "1547545", "pembrolizumab")),  # may be pneumonitis: lung-precision asks
        steroid(*WELL, condition("c2", "D84.9")),
        steroid(*WELL, who=patient("male", "2010-05-05")),
        steroid(*WELL, draft={**PREDNISONE, "reasonCode": [concept(ICD10CM, "M10.9")]}),
        steroid(*WELL, draft={**PREDNISONE, "dosageInstruction": [{"route": {"text": "topical"}}]}),
        steroid(
            *WELL,
            condition("c2", "Z34.90"),
            {**ALERT, "id": "preg", "code": concept("http://loinc.org", "82810-3"),
             "valueCodeableConcept": concept("http://loinc.org", "LA15173-0")},
            who=patient("female", "1995-01-01"),
        ),
        dataclasses.replace(steroid(*WELL), shortfalls=(Shortfall("conditions", "timeout"),)),
        dataclasses.replace(steroid(*WELL), user="Patient/p1"),
    ],
)  # fmt: skip
def test_severe_pneumonia_or_any_other_reason_for_a_corticosteroid_is_silent(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_without_pneumonia_on_record_a_corticosteroid_is_nobodys_business_here() -> None:
    given = steroid(*WELL)
    healthy = tuple(r for r in given.resources if r["id"] != "c1")
    assert dataclasses.replace(given, resources=healthy).cards(NAME) == []


def test_pneumonia_that_began_three_days_after_admission_is_not_community_acquired() -> None:
    late = encounter("IMP", period={"start": "2026-03-05T08:00:00Z"})
    assert steroid(*WELL, visit=late).cards(NAME) == []
    assert rules(steroid(*WELL, visit=encounter("IMP", period={"start": "2026-03-08T08:00:00Z"}))) == ["CT-02"]


def test_a_switched_off_rule_is_silent() -> None:
    manifest = service(NAME)
    off = msgspec.structs.replace(manifest.rules["CT-02"], on=False)
    given = steroid(*WELL)
    assert given.cards(NAME, msgspec.structs.replace(manifest, rules={**manifest.rules, "CT-02": off})) == []


def test_a_resource_entered_in_error_or_of_another_patient_changes_nothing() -> None:
    given = steroid(*WELL)
    wrong = {**lab("3094-0", 60, "mg/dL", "2026-03-10T13:30:00Z"), "id": "x1", "status": "entered-in-error"}
    other = {**condition("x2", "J44.1"), "subject": {"reference": "Patient/p2"}}
    mixed = dataclasses.replace(given, resources=(wrong, other, *given.resources[::-1]))
    assert text(card_of(mixed)) == text(card_of(given))


def test_vital_signs_of_yesterday_no_longer_say_that_pneumonia_is_not_severe() -> None:
    old = tuple(
        {**r, "effectiveDateTime": "2026-03-09T13:00:00Z"} for r in (RATE, PRESSURE, DIASTOLIC, SATURATION, CELLS)
    )
    assert steroid(*instead(WELL, *old)).cards(NAME) == []
