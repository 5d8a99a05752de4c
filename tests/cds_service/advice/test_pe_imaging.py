"""pe-imaging: no scan where D-dimer rules embolism out (PE-01), D-dimer first (PE-02), PERC (PE-06), and silences."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from embolism import (
    ALL_NO,
    CTPA,
    LOW,
    LUNG_SCAN,
    MAN_40,
    NAME,
    UNLIKELY,
    WOMAN_30,
    WOMAN_68,
    actions,
    card_of,
    chart,
    ddimer,
    pulse,
    rule_of,
    saturation,
    text,
)
from imaging_charts import answered, report
from vignettes import Chart, concept, condition, encounter, imaging_order, medication, observation, patient, service

from cds_service.evidence import Shortfall

SNOMED = "http://snomed.info/sct"


def procedure(at: str, category: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Procedure",
        "id": "pr",
        "status": "completed",
        "code": concept(SNOMED, "80146002", "Appendectomy"),
        "subject": {"reference": "Patient/p1"},
        "performedDateTime": at,
        **({"category": concept(SNOMED, category)} if category else {}),
        **more,
    }


# --- PE-01 ----------------------------------------------------------------------------------------------------------


def test_a_d_dimer_below_the_limit_for_the_age_offers_to_remove_the_scan() -> None:
    # Vignette S04: 68 years, limit 680; leg signs (3) and haemoptysis (1) were never answered.
    card = card_of(chart(LOW))
    assert card.indicator == "warning"
    assert card.summary == (
        "D-dimer 640 ng/mL FEU is below the limit 680 for this patient and Wells is at most 4: CTPA not needed."
    )
    assert actions(card) == [
        {
            "type": "delete",
            "description": "Removes the draft order: CT pulmonary angiogram",
            "resourceId": "ServiceRequest/d1",
        }
    ]
    assert card.suggestions[0].is_recommended
    assert "leg signs (counted as present); haemoptysis (counted as present)" in text(card)


@pytest.mark.parametrize(
    "given",
    [
        chart(ddimer(680)),  # at the limit
        chart(LOW, who=patient("female", "1966-01-01")),  # 60 years: limit 600
        chart(LOW, drafts=(CTPA,)),  # nobody asked whether embolism is the likeliest: Wells may be 7
        chart(LOW, pulse(101)),  # Wells may be 5.5
        chart(LOW, pulse(88, at="2026-03-10T05:00:00Z")),  # nine hours old: counts as fast
        chart(LOW, condition("c1", "Z86.711")),  # earlier embolism
        chart(LOW, condition("c1", "C50.911")),  # active cancer
        chart(LOW, procedure("2026-03-01T08:00:00Z", "387713003")),
        chart(LOW, procedure("2026-03-01T08:00:00Z")),  # of no category: it may have been surgery
        chart(LOW, condition("c1", "Z74.01")),  # confined to bed
        chart(LOW, visit=encounter("IMP", period={"start": "2026-03-06T10:00:00Z"})),  # who knows about bed rest
        chart(ddimer(640, at="2026-03-09T13:00:00Z")),  # 25 hours old
    ],
)
def test_one_fact_more_and_the_scan_is_not_called_needless(given: Chart) -> None:
    assert rule_of(given) != "PE-01"


@pytest.mark.parametrize(
    "resource",
    [
        pulse(100),  # not above 100
        condition("c1", "C44.91"),  # skin cancer is none for Wells
        condition("c1", "Z86.711", verificationStatus=concept("", "entered-in-error")),
        procedure("2026-01-20T08:00:00Z", "387713003"),  # seven weeks ago
        procedure("2026-03-01T08:00:00Z", "103693007"),  # diagnostic
        procedure("2026-03-01T08:00:00Z", status="not-done"),
    ],
)
def test_what_is_no_wells_item_changes_nothing(resource: dict[str, Any]) -> None:
    assert rule_of(chart(LOW, resource)) == "PE-01"


def test_an_answer_that_a_sign_is_absent_lowers_the_worst_case() -> None:
    assert "Wells is at most 0" in card_of(chart(LOW, drafts=(ALL_NO,))).summary


def test_with_no_years_item_the_limit_is_1000() -> None:
    card = card_of(chart(ddimer(900), drafts=(ALL_NO,)))
    assert "below the limit 1000" in card.summary
    assert "The YEARS limit with no items is 1000 ng/mL FEU." in text(card)
    haemoptysis = answered(CTPA, pe_most_likely=False, dvt_signs=False, haemoptysis=True)
    assert chart(ddimer(900), drafts=(haemoptysis,)).cards(NAME) == []


def test_d_dimer_units_are_judged_against_half_the_limit() -> None:
    ddu = {"code": "48066-5", "unit": "ng/mL DDU"}
    assert "below the limit 340" in card_of(chart(ddimer(320, **ddu))).summary
    assert chart(ddimer(345, **ddu)).cards(NAME) == []


@pytest.mark.parametrize(
    ("value", "unit"), [(0.64, "mg/L FEU"), (0.64, "ug/mL FEU"), (640, "ug/L FEU"), (640, "ng/mL"), (640, "ng/mL FEU")]
)
def test_the_same_result_in_another_unit_gives_the_same_answer(value: float, unit: str) -> None:
    card = card_of(chart(ddimer(value, unit)))
    assert card.summary.startswith(f"D-dimer {value} {unit} is below the limit {'0.68' if value < 1 else '680'}")


@pytest.mark.parametrize(
    "result",
    [
        ddimer(640, "mmol/L"),
        ddimer(640, "ng/mL DDU"),  # the code says FEU
        {k: v for k, v in ddimer(640).items() if k != "valueQuantity"} | {"valueQuantity": {"value": 640}},
        ddimer(640, code="7799-0"),  # FEU or DDU is not known
        ddimer(640, note=[{"text": "Sample haemolysed"}]),
    ],
)
def test_a_d_dimer_of_unknown_unit_or_kind_silences_the_service(result: dict[str, Any]) -> None:
    assert chart(result).cards(NAME) == []
    assert chart(result, drafts=(ALL_NO,)).cards(NAME) == []


def test_a_d_dimer_known_only_as_below_a_number_is_used_where_the_number_is_below_the_limit() -> None:
    below = ddimer(270) | {"valueQuantity": {"value": 270, "comparator": "<", "unit": "ng/mL FEU"}}
    assert card_of(chart(below)).summary.startswith("D-dimer <270 ng/mL FEU")
    open_ = below | {"valueQuantity": {"value": 1000, "comparator": "<", "unit": "ng/mL FEU"}}
    assert chart(open_).cards(NAME) == []


def test_a_preliminary_d_dimer_informs_and_recommends_nothing() -> None:
    card = card_of(chart(ddimer(640, status="preliminary")))
    assert (card.indicator, card.suggestions[0].is_recommended) == ("info", False)
    assert "final D-dimer (this one is preliminary)" in text(card)


def test_a_positive_result_of_the_same_day_is_not_talked_away_by_a_later_one() -> None:
    assert chart(LOW, ddimer(900, id="d0", at="2026-03-10T08:00:00Z")).cards(NAME) == []


def test_two_results_that_contradict_each_other_silence_the_service() -> None:
    assert chart(LOW, ddimer(1400, id="d0", at="2026-03-10T12:30:00Z")).cards(NAME) == []


def test_a_partial_birth_date_is_taken_at_the_youngest_age_it_allows() -> None:
    assert "below the limit 680" in card_of(chart(LOW, who=patient("female", "1957"))).summary  # 68 or 69
    assert chart(ddimer(685), who=patient("female", "1957")).cards(NAME) == []


def test_what_could_not_be_fetched_takes_its_worst_case() -> None:
    for key in ("conditions", "procedures", "vitals"):
        short = (Shortfall(key, "timeout"),)
        resources = [LOW]
        given = chart(*resources, shortfalls=short)
        if key == "vitals":
            given = Chart((WOMAN_68, encounter("EMER"), LOW), (UNLIKELY,), shortfalls=short)
        assert rule_of(given) is None, key
        answered_no = answered(CTPA, pe_most_likely=False, dvt_signs=False, haemoptysis=False)
        again = Chart(given.resources, (answered_no,), shortfalls=short)
        card = card_of(again)
        assert not card.suggestions[0].is_recommended, key
        assert "did not arrive in time" in text(card)


def test_a_lung_scan_is_held_to_the_same_rules() -> None:
    card = card_of(chart(LOW, drafts=(answered(LUNG_SCAN, pe_most_likely=False),)))
    assert card.summary.endswith("lung scan not needed.")
    assert actions(card)[0]["resourceId"] == "ServiceRequest/d2"


def test_a_site_takes_its_own_order_for_embolism_by_adding_its_code() -> None:
    order = answered(imaging_order("d1", "30804-9", "CT angiogram of the chest"), pe_most_likely=False)
    given = chart(LOW, drafts=(order,))
    assert given.cards(NAME) == []
    manifest = service(NAME)
    sign = manifest.applies_to["order-sign"]
    wider = msgspec.structs.replace(sign, codes=(*sign.codes, "http://loinc.org|30804-9"))
    assert len(given.cards(NAME, msgspec.structs.replace(manifest, applies_to={"order-sign": wider}))) == 1


def test_a_site_maps_the_link_ids_of_its_own_questions() -> None:
    order = answered(CTPA, **{"local.q1": False})
    assert rule_of(chart(LOW, drafts=(order,))) is None
    manifest = service(NAME)
    settings = {**manifest.settings, "question_pe_most_likely": "pe_most_likely local.q1"}
    assert rule_of(chart(LOW, drafts=(order,)), msgspec.structs.replace(manifest, settings=settings)) == "PE-01"


# --- PE-02 ----------------------------------------------------------------------------------------------------------


def test_without_a_d_dimer_one_suggestion_orders_it_and_removes_the_scan() -> None:
    card = card_of(chart())
    assert card.indicator == "warning"
    assert card.summary == "Wells at most 4, no D-dimer in 24 h: order D-dimer before CTPA."
    (suggestion,) = card.suggestions
    assert suggestion.label == "Order D-dimer and remove CTPA"
    assert suggestion.is_recommended
    create, delete = actions(card)
    assert create["resource"]["code"]["coding"][0]["code"] == "48065-7"
    assert delete["resourceId"] == "ServiceRequest/d1"


def test_an_old_d_dimer_is_shown_with_its_age_and_counts_as_none() -> None:
    card = card_of(chart(ddimer(640, at="2026-03-08T12:00:00Z")))
    assert "D-dimer, older than 24 h | 640 ng/mL FEU | 2026-03-08 12:00" in text(card)
    assert "no D-dimer in 24 h" in card.summary


IN_THREE_DAYS = encounter("IMP", period={"start": "2026-03-08T10:00:00Z"})
ORDERED = {**imaging_order("x1", "48065-7", "D-dimer"), "status": "active"}


@pytest.mark.parametrize(
    "given",
    [
        chart(drafts=(CTPA,)),  # embolism may be the likeliest
        chart(drafts=(ALL_NO,), visit=encounter("IMP", period={"start": "2026-03-06T10:00:00Z"})),  # in hospital > 3 d
        chart(drafts=(ALL_NO,), visit=encounter("IMP")),  # since when, nobody says
        chart(condition("c1", "C34.11"), drafts=(ALL_NO,)),
        chart(procedure("2026-03-01T08:00:00Z", "387713003"), drafts=(ALL_NO,)),
        chart(procedure("2026-03-01T08:00:00Z"), drafts=(ALL_NO,)),
        chart(who=WOMAN_30),  # pregnancy is not known
        chart(ORDERED),  # a D-dimer is on its way
        chart(drafts=(UNLIKELY, {**ORDERED, "status": "draft"})),  # or about to be
    ],
)
def test_d_dimer_first_is_not_said_where_it_would_not_help_or_is_done_already(given: Chart) -> None:
    assert rule_of(given) is None


@pytest.mark.parametrize(
    "given", [chart(who=MAN_40), chart(visit=IN_THREE_DAYS), chart(who=WOMAN_30 | {"gender": "male"})]
)
def test_d_dimer_first_is_said_where_it_helps(given: Chart) -> None:
    assert rule_of(given) == "PE-02"


# --- PE-06 ----------------------------------------------------------------------------------------------------------

STATED = answered(CTPA, low_suspicion=True, dvt_signs=False, haemoptysis=False, pe_most_likely=False)


def test_with_a_stated_low_suspicion_and_no_perc_criterion_no_test_is_needed() -> None:
    card = card_of(chart(who=MAN_40, drafts=(STATED,)))
    assert card.indicator == "info"
    assert card.summary == "Low suspicion stated and PERC negative: CTPA and D-dimer not needed."
    assert [a["type"] for a in actions(card)] == ["delete"]
    assert not card.suggestions[0].is_recommended


@pytest.mark.parametrize(
    "given",
    [
        chart(who=MAN_40, drafts=(ALL_NO,)),  # the suspicion is not stated
        chart(who=MAN_40, drafts=(answered(CTPA, low_suspicion=True, haemoptysis=False),)),  # legs never looked at
        chart(who=patient("male", "1976-03-10"), drafts=(STATED,)),  # fifty today
        chart(pulse(100), who=MAN_40, drafts=(STATED,)),
        chart(saturation(94), who=MAN_40, drafts=(STATED,)),
        chart(observation("o2", "3151-8", 2, "L/min", "2026-03-10T13:30:00Z"), who=MAN_40, drafts=(STATED,)),
        chart(medication("m1", "4124", "ethinyl estradiol"), who=MAN_40, drafts=(STATED,)),
        chart(medication("m1", "99999999", "a product"), who=MAN_40, drafts=(STATED,)),  # it may hold oestrogen
        chart(condition("c1", "Z86.718"), who=MAN_40, drafts=(STATED,)),
        chart(condition("c1", "S82.201A", onsetDateTime="2026-03-01"), who=MAN_40, drafts=(STATED,)),
    ],
)
def test_one_perc_criterion_present_or_open_and_perc_says_nothing(given: Chart) -> None:
    assert rule_of(given) != "PE-06"


def test_a_broken_bone_of_last_year_is_no_recent_trauma() -> None:
    old = condition("c1", "S82.201A", onsetDateTime="2025-03-01")
    assert rule_of(chart(old, who=MAN_40, drafts=(STATED,))) == "PE-06"


# --- PE-03 ----------------------------------------------------------------------------------------------------------


def switched_on() -> Any:
    manifest = service(NAME)
    rule = msgspec.structs.replace(manifest.rules["PE-03"], on=True)
    return msgspec.structs.replace(manifest, rules={**manifest.rules, "PE-03": rule})


DONE = report("r1", "36147-7", "2026-03-05T10:00:00Z", "No pulmonary embolism. Small effusion.")
CANCER = condition("c0", "C34.11")  # so that D-dimer first does not speak before


def test_a_scan_of_the_week_is_shown_where_the_site_has_no_service_for_repeats() -> None:
    card = card_of(chart(DONE, CANCER, drafts=(ALL_NO,)), switched_on())
    assert card.summary == "CT pulmonary angiogram done 2026-03-05 10:00: No pulmonary embolism."
    assert card.suggestions == ()


@pytest.mark.parametrize(
    "resources",
    [
        (DONE | {"status": "preliminary"},),
        (DONE | {"effectiveDateTime": "2026-03-02T10:00:00Z"},),  # eight days ago
        (DONE, condition("c1", "R07.1", onsetDateTime="2026-03-09T10:00:00Z")),  # chest pain since
        (DONE, procedure("2026-03-06T08:00:00Z", "387713003")),
    ],
)
def test_an_older_or_unfinished_scan_or_something_new_since_is_not_shown(resources: tuple[Any, ...]) -> None:
    assert chart(*resources, CANCER, drafts=(ALL_NO,)).cards(NAME, switched_on()) == []


def test_the_repeat_is_left_to_imaging_timing_as_shipped() -> None:
    assert not service(NAME).rules["PE-03"].on
    assert chart(DONE, CANCER, drafts=(ALL_NO,)).cards(NAME) == []
