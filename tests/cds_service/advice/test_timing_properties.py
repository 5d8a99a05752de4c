"""imaging-timing: what changes nothing, what every card keeps, and how a report is read."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from embolism import actions, without_uuids
from imaging_charts import nodule, report, study
from r4 import validate_r4
from timing import ADULT, CLINIC, CT, DONE, FILM, FINE, NAME, WARD, chart, standing
from vignettes import Chart, Resource, condition, imaging_order, observation, patient

from cds_service.advice.prior_studies import asks_for_more, says_clear
from cds_service.cards import to_json
from fhir_mappers.codes import imaging_orders

STRANGER = {"reference": "Patient/p2"}
STANDING = standing("x1", "36643-5", "Chest X-ray", requester={"display": "Dr Ada Byron"})


# --- what changes nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [(DONE,), (STANDING, DONE)])
def test_the_order_of_the_resources_changes_nothing(extra: tuple[Resource, ...]) -> None:
    resources = (ADULT, WARD, *FINE, condition("c1", "J18.9"), *extra)
    cards = {
        without_uuids(Chart(tuple(order), (FILM,)).cards(NAME))
        for order in itertools.islice(itertools.permutations(resources), 0, 720, 71)
    }
    assert len(cards) == 1


def test_another_patients_resources_change_nothing() -> None:
    others: list[Resource] = [
        {**STANDING, "subject": STRANGER},
        {**report("x2", "36643-5", "2026-03-10T13:00:00Z", "Pneumothorax."), "subject": STRANGER},
        {**study("x3", "36643-5", "2026-03-10T13:00:00Z"), "subject": STRANGER},
        {**condition("x4", "R07.1", onsetDateTime="2026-03-10T12:00:00Z"), "subject": STRANGER},
        {**observation("x5", "9279-1", 32, "/min", "2026-03-10T13:00:00Z"), "subject": STRANGER},
    ]
    assert without_uuids(chart(DONE).cards(NAME)) == without_uuids(chart(DONE, *others).cards(NAME))
    assert chart(DONE, drafts=({**FILM, "subject": STRANGER},)).cards(NAME) == []


def test_a_resource_entered_in_error_changes_nothing() -> None:
    wrong: list[Resource] = [
        {**STANDING, "status": "entered-in-error"},
        report("x2", "36643-5", "2026-03-10T13:00:00Z", "Pneumothorax.", "entered-in-error"),
        study("x3", "36643-5", "2026-03-10T13:00:00Z", status="entered-in-error"),
        {**observation("x5", "9279-1", 32, "/min", "2026-03-10T13:00:00Z"), "status": "entered-in-error"},
    ]
    assert without_uuids(chart(DONE).cards(NAME)) == without_uuids(chart(DONE, *wrong).cards(NAME))


def test_a_report_from_the_future_or_without_a_time_changes_nothing() -> None:
    later = report("x2", "36643-5", "2026-03-10T15:00:00Z", "Pneumothorax.")
    timeless = {k: v for k, v in later.items() if k != "effectiveDateTime"}
    assert without_uuids(chart(DONE).cards(NAME)) == without_uuids(chart(DONE, later, timeless).cards(NAME))


def test_a_size_in_centimetres_gives_the_same_card() -> None:
    seen = report("r1", "29252-4", "2025-12-08T10:00:00Z", "See findings.")
    seven = nodule("n1", "2025-12-08T10:00:00Z", 7)
    size = {"value": 0.7, "unit": "cm", "system": "http://unitsofmeasure.org", "code": "cm"}
    in_cm = {**seven, "component": [{**seven["component"][0], "valueQuantity": size}]}
    one, other = (chart(seen, n, visit=CLINIC, drafts=(CT,)).cards(NAME) for n in (seven, in_cm))
    assert one
    assert without_uuids(one) == without_uuids(other)


GARBAGE: tuple[Any, ...] = (
    None,
    7,
    "x",
    [],
    [7],
    {},
    [{}],
    [None],
    {"reference": 7},
    [{"coding": 7}],
    [{"reference": []}],
)


@pytest.mark.parametrize(
    "member",
    ["orderDetail", "replaces", "basedOn", "requester", "bodySite", "reasonCode", "reasonReference", "occurrencePeriod",
     "occurrenceTiming", "occurrenceDateTime", "authoredOn", "supportingInfo", "contained", "priority", "id"],
)  # fmt: skip
def test_a_draft_damaged_in_any_member_is_answered(member: str) -> None:
    for value in GARBAGE:
        given = chart(DONE, STANDING, drafts=({**FILM, member: value}, imaging_order("d2", "29252-4", "CT chest")))
        assert len(given.cards(NAME)) <= 1


# --- every card -----------------------------------------------------------------------------------------------------

LIVE = "Removed because of | a pipe, <b>bold</b>, [a link](https://evil.example) and https://evil.example " * 4
NAMED = {"code": {"coding": [{"system": "http://loinc.org", "code": "36643-5"}], "text": LIVE}}
MAN = patient("male", "1973-05-05")
SEEN_AT = "2025-12-08T10:00:00Z"
LONG_WORDS = "Solitary solid nodule of 7 mm " + "in the right upper lobe near the apex " * 12 + "."
EVERY_CARD = {
    "TM-01": chart(DONE | {"conclusion": LIVE}, drafts=(FILM | NAMED,)),
    "TM-02": chart(
        STANDING | NAMED | {"requester": {"display": LIVE}},
        standing("x2", "29252-4", LIVE, requester={"display": LIVE}),
        standing("x3", "30799-1", LIVE, requester={"display": LIVE}),
        drafts=(
            FILM | NAMED,
            imaging_order("d2", "24628-0", LIVE),
            imaging_order("d3", "24726-2", LIVE),
            imaging_order("d4", "24726-2", LIVE),
        ),
    ),
    "TM-03": chart(
        report("r1", "29252-4", SEEN_AT, LONG_WORDS),
        condition("c1", "F17.210"),
        condition("c2", "J43.9"),
        condition("c3", "Z80.1"),
        visit=CLINIC,
        who=MAN,
        drafts=(CT,),
    ),
    "TM-04": chart(
        report("r1", "29252-4", SEEN_AT, LONG_WORDS), visit=CLINIC, who=MAN, drafts=(), hook="patient-view",
        now="2026-06-01T09:00:00Z",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", EVERY_CARD)
def test_with_the_longest_texts_every_card_keeps_its_limits_and_nothing_of_a_record_is_live(rule: str) -> None:
    (card,) = EVERY_CARD[rule].cards(NAME)
    assert card.detail is not None
    assert f"Rule {rule} v1" in card.detail
    assert len(card.summary) < 140
    assert len(card.detail) <= 1200
    assert "<b>" not in card.detail
    assert not re.search(r"(?<!\\)\]\(", card.detail)
    assert not re.search(r"https?://", card.detail)
    assert len(card.suggestions) <= 3
    assert len(card.override_reasons) == 6
    assert card.source.topic is not None
    assert card.source.topic.code == NAME
    assert to_json([card])


@pytest.mark.parametrize("rule", EVERY_CARD)
def test_every_suggestion_is_valid_fhir_in_codes_of_the_tables(rule: str) -> None:
    (card,) = EVERY_CARD[rule].cards(NAME)
    made: list[dict[str, Any]] = actions(card)
    assert made
    drafted = {f"ServiceRequest/{d['id']}" for d in EVERY_CARD[rule].drafts}
    for action in made:
        if action["type"] == "delete":
            assert action["resourceId"] in drafted
            continue
        validate_r4(action["resource"])
        assert {c["code"] for c in action["resource"]["code"]["coding"]} <= set(imaging_orders())
        assert action["resource"]["subject"] == {"reference": "Patient/p1"}


# --- how a report is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "conclusion",
    [
        "No acute cardiopulmonary process.",
        "Lungs are clear. No pleural effusion or pneumothorax. Heart size normal.",
        "NO ACUTE CARDIOPULMONARY ABNORMALITY",
        "Normal chest radiograph.",
        "There is no evidence of acute pulmonary disease.",
    ],
)
def test_a_report_that_says_nothing_is_there_is_clear(conclusion: str) -> None:
    assert says_clear(conclusion)


@pytest.mark.parametrize(
    "conclusion",
    [
        "",
        "No acute cardiopulmonary process. Stable cardiomegaly.",
        "Lungs are clear except for the left base.",
        "No change.",
        "Small effusion. No pneumothorax.",
        "No acute cardiopulmonary process is excluded.",
        "Clear lungs were seen in 2019",
    ],
)
def test_a_report_with_any_other_sentence_is_not(conclusion: str) -> None:
    assert not says_clear(conclusion)


def test_a_report_that_asks_for_another_study_is_no_reason_to_remove_one() -> None:
    assert asks_for_more("Right basal opacity. Follow-up film is recommended.")
    assert asks_for_more("Rotated film.")
    assert not asks_for_more("No acute cardiopulmonary process.")
