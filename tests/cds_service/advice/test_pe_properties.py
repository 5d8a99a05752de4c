"""pe-imaging: when it is silent whatever the numbers say, what changes nothing, and what every card keeps."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from embolism import (
    ALL_NO,
    CTPA,
    EMERGENCY_ROOM,
    LOW,
    LUNG_SCAN,
    MAN_40,
    NAME,
    PULSE,
    SATURATION,
    UNLIKELY,
    WOMAN_30,
    WOMAN_68,
    actions,
    chart,
    ddimer,
    pulse,
    rule_of,
    without_uuids,
)
from imaging_charts import answered, form, report
from r4 import validate_r4
from vignettes import Chart, Resource, concept, condition, medication, observation, patient

from cds_service.cards import to_json
from fhir_mappers.codes import imaging_orders, lab_codes

STRANGER = {"reference": "Patient/p2"}


# --- silence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        chart(LOW, drafts=({**UNLIKELY, "priority": "stat"},)),
        chart(LOW, observation("bp", "8480-6", 82, "mm[Hg]", "2026-03-10T13:50:00Z")),
        chart(LOW, condition("c1", "R57.0", onsetDateTime="2026-03-10T13:00:00Z")),
        chart(LOW, condition("c1", "I26.99")),  # known embolism: the scan follows it
        chart(LOW, medication("m1", "1364430", "apixaban 10 mg twice daily")),
        chart(LOW, medication("m1", "67108", "enoxaparin")),
        chart(LOW, who=patient("female", "2010-01-01")),
        chart(LOW, who=patient("female", None)),
        chart(LOW, condition("c1", "G93.82")),  # brain death
        chart(LOW, user="Patient/p1"),
        chart(LOW, drafts=()),
        chart(LOW, hook="order-select", selections=("ServiceRequest/other",)),
    ],
)
def test_the_service_is_silent(given: Chart) -> None:
    assert given.cards(NAME) == []


@pytest.mark.parametrize(
    "given",
    [
        chart(LOW, observation("bp", "8480-6", 92, "mm[Hg]", "2026-03-10T13:50:00Z")),
        chart(LOW, condition("c1", "I26.99", "resolved"), drafts=(ALL_NO,)),  # an old embolism is 1.5 points
        chart(LOW, medication("m1", "1364430", "apixaban"), condition("c1", "I48.91")),  # for atrial fibrillation
        chart(LOW, medication("m1", "67108", "enoxaparin", "completed")),
        chart(LOW, hook="order-select"),
        chart(LOW, hook="order-select", selections=("d1",)),
    ],
)
def test_one_fact_less_and_it_speaks(given: Chart) -> None:
    assert rule_of(given) == "PE-01"


def test_embolism_that_is_likely_by_the_chart_alone_is_not_argued_with() -> None:
    likely = (condition("c1", "Z86.711"), condition("c2", "C50.911"), pulse(112))  # 1.5 + 1 + 1.5 = 4
    assert chart(*likely, drafts=(answered(CTPA, haemoptysis=True),)).cards(NAME) == []


# --- what changes nothing -------------------------------------------------------------------------------------------

RESOURCES = (WOMAN_68, EMERGENCY_ROOM, PULSE, SATURATION, LOW, condition("c1", "R06.02"))


def test_the_order_of_the_resources_changes_nothing() -> None:
    cards = {
        without_uuids(Chart(tuple(order), (UNLIKELY,)).cards(NAME))
        for order in itertools.islice(itertools.permutations(RESOURCES), 0, 720, 71)
    }
    assert len(cards) == 1


def test_another_patients_resources_change_nothing() -> None:
    others: list[Resource] = [
        {**ddimer(2000), "id": "x1", "subject": STRANGER},
        {**condition("x2", "I26.99"), "subject": STRANGER},
        {**medication("x3", "1364430", "apixaban"), "subject": STRANGER},
        {**pulse(140), "id": "x4", "subject": STRANGER},
        form({"dvt_signs": True}, "x5", subject=STRANGER),
    ]
    assert without_uuids(chart(LOW).cards(NAME)) == without_uuids(chart(LOW, *others).cards(NAME))
    assert chart(LOW, drafts=({**UNLIKELY, "subject": STRANGER},)).cards(NAME) == []


def test_a_resource_entered_in_error_changes_nothing() -> None:
    wrong: list[Resource] = [
        {**ddimer(2000), "id": "x1", "status": "entered-in-error"},
        condition("x2", "I26.99", verificationStatus=concept("", "entered-in-error")),
        medication("x3", "1364430", "apixaban", "entered-in-error"),
        {**pulse(140, at="2026-03-10T13:50:00Z"), "id": "x4", "status": "entered-in-error"},
    ]
    assert without_uuids(chart(LOW).cards(NAME)) == without_uuids(chart(LOW, *wrong).cards(NAME))


def test_a_result_from_the_future_changes_nothing() -> None:
    later = ddimer(2000, id="x1", at="2026-03-10T15:00:00Z")
    assert without_uuids(chart(LOW).cards(NAME)) == without_uuids(chart(LOW, later).cards(NAME))


def test_a_d_dimer_without_a_time_is_no_d_dimer() -> None:
    timeless = {k: v for k, v in LOW.items() if k != "effectiveDateTime"}
    assert rule_of(chart(timeless)) == "PE-02"


GARBAGE: tuple[Any, ...] = (None, 7, "x", [], [7], {}, [{}], [None], {"reference": 7}, [{"reference": "#q1"}])


@pytest.mark.parametrize(
    "member", ["supportingInfo", "contained", "code", "priority", "id", "reasonCode", "orderDetail"]
)
def test_a_draft_damaged_in_any_member_is_answered(member: str) -> None:
    for value in GARBAGE:
        assert len(chart(LOW, drafts=({**UNLIKELY, member: value},)).cards(NAME)) <= 1


# --- every card -----------------------------------------------------------------------------------------------------

LONG = "X" * 300
FILLED = "Removed because of | a pipe, <b>bold</b>, [a link](https://evil.example) and https://evil.example " * 4
DUE = {**observation("edd", "11778-8", "", None, "2025-12-01T09:00:00Z"), "valueDateTime": "2026-06-16"}
DUE.pop("valueString")
STATED = answered(CTPA, low_suspicion=True, dvt_signs=False, haemoptysis=False, pe_most_likely=False)
ALLERGY: Resource = {
    "resourceType": "AllergyIntolerance",
    "id": "a1",
    "code": concept("http://www.nlm.nih.gov/research/umls/rxnorm", "5956", FILLED),
    "patient": {"reference": "Patient/p1"},
    "criticality": "high",
}
CLEAR = report("r1", "36643-5", "2026-03-10T11:00:00Z", "Lungs are clear. " * 40)


def filled(order: Resource) -> Resource:
    return {**order, "code": {**order["code"], "text": FILLED}}


EVERY_CARD = {
    "PE-01": chart(
        ddimer(123.456789, "ng/mL FEU"),
        condition("c1", "Z66"),
        condition("c2", "R04.2"),
        drafts=(filled(UNLIKELY), filled(answered(LUNG_SCAN, pe_most_likely=False))),
    ),
    "PE-02": chart(
        ddimer(640.123456789, at="2026-03-01T12:00:00Z"), condition("c1", "Z66"), drafts=(filled(UNLIKELY),)
    ),
    "PE-04": chart(DUE, ddimer(640), CLEAR, who=WOMAN_30, drafts=(filled(answered(CTPA, dvt_signs=True)),)),
    "PE-05": chart(condition("c0", "C34.11"), ALLERGY, CLEAR, who=MAN_40, drafts=(filled(ALL_NO),)),
    "PE-06": chart(condition("c1", "Z66"), who=MAN_40, drafts=(filled(STATED),)),
}


@pytest.mark.parametrize("rule", EVERY_CARD)
def test_with_the_longest_texts_every_card_keeps_its_limits_and_nothing_of_a_record_is_live(rule: str) -> None:
    (card,) = EVERY_CARD[rule].cards(NAME)
    assert rule_of(EVERY_CARD[rule]) == rule
    assert len(card.summary) < 140
    assert card.detail is not None
    assert len(card.detail) <= 1200
    assert "<b>" not in card.detail
    assert not re.search(r"(?<!\\)\]\(", card.detail)
    assert len(card.suggestions) <= 3
    assert len(card.override_reasons) == 6
    assert card.source.topic is not None
    assert card.source.topic.code == NAME
    assert to_json([card])


@pytest.mark.parametrize("rule", EVERY_CARD)
def test_every_suggestion_is_valid_fhir_in_codes_of_the_tables_and_deletes_by_the_drafts_own_id(rule: str) -> None:
    (card,) = EVERY_CARD[rule].cards(NAME)
    known = set(lab_codes()) | set(imaging_orders())
    made: list[dict[str, Any]] = actions(card)
    assert made
    for action in made:
        if action["type"] == "delete":
            assert action["resourceId"] in ("ServiceRequest/d1", "ServiceRequest/d2")
            continue
        validate_r4(action["resource"])
        assert {c["code"] for c in action["resource"]["code"]["coding"]} <= known
        assert action["resource"]["subject"] == {"reference": "Patient/p1"}
        assert action["resource"]["status"] == "draft"


def test_a_draft_without_an_id_cannot_be_removed_and_no_action_pretends_to() -> None:
    nameless = {k: v for k, v in UNLIKELY.items() if k != "id"}
    given = chart(LOW, drafts=(nameless,))
    (card,) = given.cards(NAME)
    assert card.suggestions == ()
    assert card.selection_behavior is None
