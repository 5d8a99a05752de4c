"""imaging-timing: a nodule's CT ordered too early (TM-03), or due and not ordered (TM-04)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from embolism import actions, labels, text
from imaging_charts import coded, nodule, report, study
from r4 import validate_r4
from timing import CLINIC, CT, FILM, NAME, WARD, card_of, standing
from vignettes import ICD10CM, Chart, Resource, condition, encounter, imaging_order, observation, patient, service

from cds_service.evidence import Shortfall

MAN_52 = patient("male", "1973-05-05")
SEEN_AT = "2025-12-08T10:00:00Z"
SEEN = report("r1", "29252-4", SEEN_AT, "Nodule, see findings.")
SEVEN = nodule("n1", SEEN_AT, 7)
DAILY = coded("http://loinc.org", "LA18976-3")
SMOKER = observation("sm", "72166-2", "", "", "2026-01-10T10:00:00Z") | {
    "valueString": None,
    "valueCodeableConcept": DAILY,
}
MARCH_20 = CT | {"occurrenceDateTime": "2026-03-20"}
WORDS = SEEN | {"conclusion": "Solitary solid nodule right upper lobe 7 mm. Incidental."}


def chart(*resources: Resource, drafts: tuple[Resource, ...] = (MARCH_20,), **more: Any) -> Chart:
    who, visit = more.pop("who", MAN_52), more.pop("visit", CLINIC)
    return Chart((who, visit, *resources), drafts, **more)


def viewed(*resources: Resource, now: str = "2026-06-01T09:00:00Z", **more: Any) -> Chart:
    more = {"hook": "patient-view", **more}
    return chart(*resources, drafts=(), now=now, **more)


# --- TM-03 ----------------------------------------------------------------------------------------------------------


def test_a_ct_at_three_months_for_a_7_mm_solid_nodule_is_moved_to_six() -> None:
    # Vignette S07.
    card = card_of(chart(SEEN, SEVEN, SMOKER))
    assert card.indicator == "info"
    assert card.summary == "7 mm solid nodule: next CT due 2026-06-08 to 2026-12-08 (6-12 months)."
    (update,) = actions(card)
    assert update["type"] == "update"
    assert update["resource"] == MARCH_20 | {"occurrenceDateTime": "2026-06-08"}
    validate_r4(update["resource"])
    assert card.suggestions[0].is_recommended
    assert "Higher risk | smoking" in text(card)


@pytest.mark.parametrize(
    "given",
    [
        chart(SEEN, SEVEN, drafts=(CT | {"occurrenceDateTime": "2026-06-08"},)),
        chart(SEEN, SEVEN, drafts=(CT | {"occurrencePeriod": {"start": "2026-07-01"}},)),
        chart(SEEN, nodule("n1", SEEN_AT, 5)),  # no follow-up at low risk: nothing to be early for
        chart(SEEN, SEVEN, who=patient("male", "1993-05-05")),  # 32 years
        chart(SEEN, SEVEN, condition("c1", "C18.9")),
        chart(SEEN, SEVEN, condition("c1", "C18.9", "resolved")),
        chart(SEEN, SEVEN, condition("c1", "Z85.038")),
        chart(SEEN, SEVEN, condition("c1", "D80.1")),
        chart(SEEN, SEVEN, condition("c1", "Z12.2")),  # screening
        chart(SEEN, SEVEN, drafts=(FILM,)),
        chart(SEEN, SEVEN, drafts=(MARCH_20 | {"reasonCode": [coded(ICD10CM, "J18.9")]},)),  # for pneumonia
        chart(SEEN, SEVEN, visit=WARD),  # in hospital, for something else
        chart(SEEN, SEVEN, drafts=(MARCH_20 | {"priority": "stat"},)),
        chart(SEEN, SEVEN | {"status": "preliminary"}),
        chart(SEEN, SEVEN | {"status": "entered-in-error"}),
        chart(SEEN, SEVEN | {"subject": {"reference": "Patient/p2"}}),
        chart(SEEN, SEVEN | {"valueCodeableConcept": coded("http://radlex.org", "RID39110")}),  # of an unknown kind
        chart(SEEN, nodule("n0", "2025-06-08T10:00:00Z", 4), SEVEN),  # it grew
        chart(SEEN, SEVEN, drafts=(imaging_order("d1", "36813-4", "CT abdomen"),)),
        chart(SEEN),  # no nodule
    ],
)
def test_the_ct_is_left_where_it_is(given: Chart) -> None:
    assert given.cards(NAME) == []


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (nodule("n1", SEEN_AT, 9), "9 mm solid nodule: next CT due 2026-03-08 to 2026-03-08"),
        (nodule("n1", SEEN_AT, 7, count=3), "Several nodules, 7 mm solid nodule: next CT due 2026-03-08 to 2026-06-08"),
        (nodule("n1", SEEN_AT, 8, "ground_glass"), "8 mm ground-glass nodule: next CT due 2026-06-08 to 2026-12-08"),
        (nodule("n1", SEEN_AT, 8, "part_solid"), "8 mm part-solid nodule: next CT due 2026-03-08 to 2026-06-08"),
    ],
)
def test_each_kind_of_nodule_has_its_own_window(found: Resource, wanted: str) -> None:
    card = card_of(chart(SEEN, found, drafts=(CT | {"occurrenceDateTime": "2026-02-01"},), now="2026-01-10T09:00:00Z"))
    assert card.summary.startswith(wanted)


def test_above_8_mm_the_other_ways_are_named_and_nothing_is_recommended() -> None:
    card = card_of(chart(SEEN, nodule("n1", SEEN_AT, 12), drafts=(CT,), now="2026-01-10T09:00:00Z"))
    assert "PET-CT or tissue sampling" in text(card)
    assert not card.suggestions[0].is_recommended


def test_of_several_nodules_the_one_due_first_decides() -> None:
    solid, part = nodule("n1", SEEN_AT, 7), nodule("n2", SEEN_AT, 6, "part_solid")
    given = chart(SEEN, solid, part, drafts=(CT,), now="2026-01-10T09:00:00Z")
    assert "(3-6 months)" in card_of(given).summary
    assert "(6-12 months)" in card_of(chart(SEEN, solid, drafts=(CT,), now="2026-01-10T09:00:00Z")).summary


def test_in_hospital_the_ct_of_the_nodule_is_known_by_its_coded_reason() -> None:
    reason = MARCH_20 | {"reasonCode": [coded(ICD10CM, "R91.1")]}
    assert len(chart(SEEN, SEVEN, drafts=(reason,), visit=WARD).cards(NAME)) == 1


def test_the_words_of_a_report_propose_quote_their_sentence_and_recommend_nothing() -> None:
    card = card_of(chart(WORDS))
    assert card.indicator == "info"
    assert card.summary == "7 mm solid nodule: next CT due 2026-06-08 to 2026-12-08 (6-12 months)."
    assert '"Solitary solid nodule right upper lobe 7 mm."' in text(card)
    assert "Not known: a structured report of the nodule" in text(card)
    assert not card.suggestions[0].is_recommended


def test_a_structured_report_goes_before_words() -> None:
    assert card_of(chart(WORDS, nodule("n1", SEEN_AT, 8))).summary.startswith("8 mm solid nodule")
    # The structured report says 5 mm; the words do not bring back a card it does not ask for.
    assert chart(WORDS | {"conclusion": "Solid nodule 7 mm."}, nodule("n1", SEEN_AT, 5)).cards(NAME) == []


def test_a_preliminary_report_proposes_nothing() -> None:
    assert chart(WORDS | {"status": "preliminary"}).cards(NAME) == []


def test_another_occurrence_of_the_draft_is_replaced_whole() -> None:
    period = CT | {"occurrencePeriod": {"start": "2026-03-20", "end": "2026-03-30"}, "note": [{"text": "keep me"}]}
    (update,) = actions(card_of(chart(SEEN, SEVEN, drafts=(period,))))
    assert "occurrencePeriod" not in update["resource"]
    assert update["resource"]["note"] == [{"text": "keep me"}]


def test_the_day_a_nodule_was_seen_is_that_of_its_ct_and_not_of_its_report() -> None:
    late = nodule("n1", "2025-12-20T10:00:00Z", 7, derivedFrom=[{"reference": "ImagingStudy/s1"}])
    card = card_of(chart(study("s1", "29252-4", SEEN_AT), late))
    assert "2026-06-08 to 2026-12-08" in card.summary


# --- TM-04 ----------------------------------------------------------------------------------------------------------


def test_a_ct_that_was_due_and_is_not_ordered_is_offered() -> None:
    card = card_of(viewed(SEEN, SEVEN, now="2027-01-10T09:00:00Z"))
    assert card.indicator == "info"
    assert card.summary == "Nodule follow-up CT was due 2026-12-08; no order found."
    (create,) = actions(card)
    validate_r4(create["resource"])
    assert create["resource"]["code"]["coding"][0]["code"] == "29252-4"
    assert create["resource"]["occurrenceDateTime"] == "2027-01-10"
    assert card.suggestions[0].is_recommended


def test_a_ct_due_within_a_month_is_offered_for_its_day() -> None:
    card = card_of(viewed(SEEN, SEVEN, now="2026-05-20T09:00:00Z"))
    assert card.summary == "Nodule follow-up CT is due 2026-06-08 to 2026-12-08; no order found."
    assert labels(card) == ["Order CT chest without contrast for 2026-06-08"]


@pytest.mark.parametrize(
    "given",
    [
        viewed(SEEN, SEVEN, now="2026-05-01T09:00:00Z"),  # 38 days ahead
        viewed(SEEN, SEVEN, now="2032-06-01T09:00:00Z"),  # five and a half years over
        viewed(SEEN, SEVEN, standing("x1", "29252-4", "CT chest", "2026-04-01T08:00:00Z")),
        viewed(SEEN, SEVEN, standing("x1", "24628-0", "CT chest", "2026-04-01T08:00:00Z", status="on-hold")),
        viewed(SEEN, SEVEN, report("r2", "29252-4", "2026-05-20T10:00:00Z", "Unchanged.")),  # done, three weeks early
        viewed(SEEN, SEVEN, report("r2", "36147-7", "2026-05-20T10:00:00Z", "No embolism.")),
        viewed(SEEN, SEVEN, visit=WARD),
        viewed(SEEN, nodule("n1", SEEN_AT, 9)),  # only to be considered
        viewed(SEEN, nodule("n1", SEEN_AT, 5), SMOKER),  # only optional
        viewed(SEEN, SEVEN, who=patient("male", "1993-05-05")),
        viewed(SEEN, SEVEN, condition("c1", "C34.11")),
        viewed(SEEN, SEVEN, condition("c1", "Z33.1"), who=patient("female", "1986-05-05")),
        viewed(SEEN, SEVEN, shortfalls=(Shortfall("orders", "timeout"),)),
        viewed(SEEN, SEVEN, shortfalls=(Shortfall("reports", "timeout"),)),
        viewed(SEEN, SEVEN, shortfalls=(Shortfall("history", "timeout"),)),
        viewed(SEEN, SEVEN, user="Patient/p1"),
        viewed(SEEN),
    ],
)
def test_no_ct_is_asked_for(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_at_discharge_it_is_asked_for_in_hospital_too() -> None:
    given = viewed(SEEN, SEVEN, visit=encounter("IMP"), hook="encounter-discharge")
    assert card_of(given).summary.startswith("Nodule follow-up CT is due")


def test_an_order_that_was_withdrawn_is_no_order() -> None:
    assert len(viewed(SEEN, SEVEN, standing("x1", "29252-4", "CT chest", status="revoked")).cards(NAME)) == 1


def test_after_the_first_ct_the_second_is_due_firmly_only_at_higher_risk() -> None:
    first = report("r2", "29252-4", "2026-08-01T10:00:00Z", "Unchanged.")
    now = "2027-07-01T09:00:00Z"
    assert viewed(SEEN, SEVEN, first, now=now).cards(NAME) == []
    card = card_of(viewed(SEEN, SEVEN, first, SMOKER, now=now))
    assert card.summary == "Nodule follow-up CT is due 2027-06-08 to 2027-12-08; no order found."


def test_words_may_remind_too_and_recommend_nothing() -> None:
    card = card_of(viewed(WORDS))
    assert "to be checked" in text(card)
    assert not card.suggestions[0].is_recommended


def test_a_site_moves_how_far_ahead_it_wants_to_be_reminded() -> None:
    manifest = service(NAME)
    wider = msgspec.structs.replace(manifest, settings={**manifest.settings, "due_within_days": 60})
    assert len(viewed(SEEN, SEVEN, now="2026-05-01T09:00:00Z").cards(NAME, wider)) == 1


@pytest.mark.parametrize("risk", ["F17.210", "Z87.891", "J43.9", "J84.112", "Z80.1"])
def test_what_makes_cancer_likelier_is_named(risk: str) -> None:
    assert "Higher risk |" in text(card_of(chart(SEEN, SEVEN, condition("c1", risk))))
    assert "none on record" in text(card_of(chart(SEEN, SEVEN)))
