"""DT-03: infection suspected, a sign of sepsis, no antibiotic in 6 h; each condition with its twin."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.servicerequest import ServiceRequest
from vignettes import Chart, Resource, concept, condition, encounter, medication, observation, patient
from ward_charts import (
    LACTATE,
    NAME,
    PNEUMONIA,
    antibiotic,
    card_of,
    chart,
    codes,
    dose,
    lab,
    made,
    ordered,
    report,
    reversed_,
    rules,
    site,
    text,
    vitals,
)

from cds_service.evidence import Shortfall

FIRES = chart(*vitals(), PNEUMONIA, LACTATE)
CULTURE = ordered("600-7", "2026-03-08T20:00:00Z", "Blood culture")
OLD = antibiotic("2026-03-09T13:00:00Z")
"""Ordered 25 h ago: with the culture it makes infection suspected, and it is no antibiotic of the last 6 h."""


def test_infection_with_a_lactate_above_2_and_no_antibiotic_warns_and_orders_what_is_missing() -> None:
    card = card_of(FIRES)
    assert card.indicator == "warning"
    assert card.summary == (
        "Suspected infection, lactate 3.1 mmol/L at 2026-03-10 13:00, no antibiotic in 6 h: assess for sepsis now."
    )
    assert "| Suspected infection | J18.9 | 2026-03-09 | Problem list |" in text(card)
    assert "| Antibiotic | none ordered or given | 2026-03-10 14:00 | Medication list |" in text(card)
    assert [s.label for s in card.suggestions] == ["Order blood cultures"]  # the lactate is an hour old
    for resource in made(card):
        ServiceRequest.model_validate(resource)


def test_an_old_lactate_is_ordered_again_with_the_cultures() -> None:
    card = card_of(chart(PNEUMONIA, lab("2524-7", 3.1, "mmol/L", "2026-03-10T11:00:00Z")))
    assert [s.label for s in card.suggestions] == ["Order lactate and blood cultures"]
    assert codes(card) == ["2524-7", "600-7"]


def test_cultures_on_order_are_not_ordered_twice() -> None:
    assert card_of(chart(PNEUMONIA, LACTATE, CULTURE)).suggestions == ()


def test_a_culture_of_sputum_stands_for_none_of_blood() -> None:
    sputum = ordered("624-7", "2026-03-08T20:00:00Z", "Respiratory culture")
    card = card_of(chart(PNEUMONIA, LACTATE, sputum))
    assert [s.label for s in card.suggestions] == ["Order blood cultures"]


def test_the_bundle_is_offered_where_a_site_names_one() -> None:
    card = card_of(FIRES, site(sepsis_bundle_code="urn:oid:2.999.7|SEPSIS-6"))
    bundle = card.suggestions[-1]
    assert (bundle.label, bundle.is_recommended) == ("Order the sepsis bundle", True)
    assert codes(card)[-1] == "SEPSIS-6"


def culture(at: str) -> tuple[Resource, ...]:
    return (LACTATE, OLD, ordered("600-7", at, "Blood culture"))


@pytest.mark.parametrize(
    ("fires", "silent"),
    [
        ((PNEUMONIA, LACTATE), (condition("c1", "S52.5"), LACTATE)),  # a broken arm is no infection
        ((PNEUMONIA, LACTATE), (condition("c1", "J18.9", "resolved"), LACTATE)),
        (culture("2026-03-08T20:00:00Z"), culture("2026-03-06T20:00:00Z")),  # 42 h and 90 h ago
        ((LACTATE, OLD, CULTURE), (LACTATE, CULTURE)),  # a culture alone is no suspicion
        ((LACTATE, OLD, report("600-7", "partial", "2026-03-09T20:00:00Z", "r1")), (LACTATE, OLD)),
        ((PNEUMONIA, lab("2524-7", 2.1, "mmol/L")), (PNEUMONIA, lab("2524-7", 2.0, "mmol/L"))),
        ((PNEUMONIA, *vitals(map=64)), (PNEUMONIA, *vitals(map=65))),
        ((PNEUMONIA, *vitals(sbp=111, dbp=41)), (PNEUMONIA, *vitals(sbp=111, dbp=42))),  # (111 + 2 x 41) / 3 = 64.3; 65
        ((PNEUMONIA, LACTATE, antibiotic("2026-03-10T07:59:00Z")), (PNEUMONIA, LACTATE, antibiotic())),  # 6 h 1 min
        ((PNEUMONIA, LACTATE, dose(at="2026-03-10T07:59:00Z")), (PNEUMONIA, LACTATE, dose())),
        ((PNEUMONIA, LACTATE, dose("161", "paracetamol")), (PNEUMONIA, LACTATE, dose("11124", "vancomycin"))),
    ],
)
def test_each_condition_of_the_rule_decides(fires: tuple[Resource, ...], silent: tuple[Resource, ...]) -> None:
    assert "DT-03" in rules(chart(*fires))
    assert "DT-03" not in rules(chart(*silent))


RISING = {"rr": 22, "hr": 112, "temp": 38.4}
RISEN = vitals(**RISING)
"""2 + 2 + 1 = 5 (RCP 2017, chart 1)."""


def earlier(at: str, **items: Any) -> Chart:
    return chart(PNEUMONIA, *vitals(at, **items), *RISEN)


def test_a_news2_of_5_that_rose_by_2_within_6_hours_is_a_sign() -> None:
    card = card_of(earlier("2026-03-10T09:00:00Z", rr=22, hr=95))  # 2 + 1 = 3
    assert card.indicator == "warning"
    assert card.basis is not None
    assert card.basis.rules == ("DT-03", "DT-02")
    assert "NEWS2 3 to 5 by 2026-03-10 13:40" in card.summary
    assert "| NEWS2 5 | from 3 at 2026-03-10 09:00 |" in text(card)
    partial = card_of(chart(PNEUMONIA, *vitals("2026-03-10T09:00:00Z", rr=22, hr=95), *vitals(**RISING, sbp=None)))
    assert "NEWS2 3 to at least 5 by 2026-03-10 13:40" in partial.summary


@pytest.mark.parametrize(
    "silent",
    [
        earlier("2026-03-10T09:00:00Z", rr=22, hr=112),  # 4: rose by 1
        earlier("2026-03-10T07:30:00Z"),  # 0, but 6 h 10 min before
        earlier("2026-03-10T09:00:00Z", rr=None),  # incomplete: what was not measured may have been abnormal
        chart(PNEUMONIA, *RISEN),  # never measured before
        chart(PNEUMONIA, *vitals("2026-03-10T09:00:00Z"), *vitals(rr=22, hr=112)),  # from 0 to 4
    ],
)
def test_a_news2_that_is_low_or_not_known_to_have_risen_is_no_sign(silent: Chart) -> None:
    assert "DT-03" not in rules(silent)


def test_with_a_news2_of_7_the_emergency_review_is_on_the_same_card() -> None:
    card = card_of(chart(*vitals(rr=24, spo2=93, o2=4, hr=116, temp=38.6), PNEUMONIA, LACTATE))
    assert card.basis is not None
    assert (card.basis.rules, card.indicator) == (("DT-01", "DT-03"), "warning")
    assert card.summary == (
        "NEWS2 9 at 2026-03-10 13:40, suspected infection, lactate 3.1 mmol/L at 2026-03-10 13:00, "
        "no antibiotic in 6 h: emergency review."
    )
    assert card.suggestions[0].is_recommended
    assert [s.label for s in card.suggestions] == ["Order rapid response review", "Order blood cultures"]
    assert "Rule DT-01+DT-03 v1" in text(card)
    assert "| NEWS2 9 |" in text(card)  # 2 + 2 + 2 + 2 + 1


# --- what is missing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "lost", "named"),
    [
        ((), "meds", "medication list (the server could not be reached)"),
        ((), "given", "doses given (the server could not be reached)"),
        ((antibiotic(None),), "", "when the antibiotic was ordered"),
        ((medication("m7", "999999", "Zyxomicin", authoredOn="2026-03-10T12:00:00Z"),), "", "what 1 drug order"),
    ],
)
def test_where_nobody_can_say_whether_an_antibiotic_is_on_its_way_the_card_informs_and_names_why(
    resources: tuple[Resource, ...], lost: str, named: str
) -> None:
    lost_keys = (Shortfall(lost, "unreachable"),) if lost else ()
    card = card_of(chart(PNEUMONIA, LACTATE, *resources, shortfalls=lost_keys))
    assert card.indicator == "info"
    assert "antibiotic in 6 h not known" in card.summary
    assert "Infection is suspected; antibiotic in 6 h not known." in text(card)
    assert named in text(card)
    assert not any(s.is_recommended for s in card.suggestions)


def test_an_unmapped_drug_of_yesterday_leaves_nothing_open() -> None:
    drug = medication("m7", "999999", "Zyxomicin", authoredOn="2026-03-09T12:00:00Z")
    assert card_of(chart(PNEUMONIA, LACTATE, drug)).indicator == "warning"


def test_a_preliminary_lactate_informs_and_a_stale_one_is_no_sign() -> None:
    assert card_of(chart(PNEUMONIA, lab("2524-7", 3.1, "mmol/L", status="preliminary"))).indicator == "info"
    stale = lab("2524-7", 3.1, "mmol/L", "2026-03-10T07:59:00Z")  # labs.csv: PT6H in hospital
    assert rules(chart(PNEUMONIA, stale)) == ()


def test_what_nobody_measured_is_named() -> None:
    card = card_of(chart(PNEUMONIA, LACTATE, who=patient("female", None)))
    assert "Not known: NEWS2 (no vital signs in 8 h); mean blood pressure (none in time); age" in text(card)
    assert "lactate (none in time)" in text(card_of(chart(PNEUMONIA, *vitals(map=60))))


def test_two_lactates_that_contradict_each_other_are_no_sign_and_are_named() -> None:
    """DQ-4: within 30 minutes, more than 25 % apart."""
    two = (LACTATE, lab("32693-4", 1.1, "mmol/L", "2026-03-10T13:10:00Z"))
    assert rules(chart(PNEUMONIA, *two)) == ()
    card = card_of(chart(PNEUMONIA, *two, *vitals(map=60)))
    assert "lactate (two results contradict each other)" in text(card)


# --- same facts, same card -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "unit"), [(27.93, "mg/dL"), (3.1, "meq/L")])
def test_an_equivalent_unit_gives_the_same_card_but_for_the_printed_value(value: float, unit: str) -> None:
    """lactate mg/dL x 0.111015 (clinical README): 27.93 is 3.10 mmol/L."""
    card, same = card_of(FIRES), card_of(chart(*vitals(), PNEUMONIA, lab("2524-7", value, unit)))
    assert (card.indicator, codes(card), card.basis) == (same.indicator, codes(same), same.basis)


def test_a_pressure_in_kilopascal_is_the_same_sign() -> None:
    """1 kPa is 7.50062 mmHg (clinical README): 8.53 kPa is 64.0 mmHg, 8.67 kPa is 65.03."""
    category = [concept("http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs")]

    def mean(value: float) -> Resource:
        return observation("m1", "8478-0", value, "kPa", "2026-03-10T13:40:00Z", category=category)

    assert rules(chart(PNEUMONIA, mean(8.53))) == ("DT-03",)
    assert "8.53 kPa [64.0 mmHg]" in text(card_of(chart(PNEUMONIA, mean(8.53))))
    assert rules(chart(PNEUMONIA, mean(8.67))) == ()


def test_a_lactate_without_a_unit_or_a_time_is_no_sign() -> None:
    assert rules(chart(PNEUMONIA, lab("2524-7", 3.1, ""))) == ()
    timeless = {k: v for k, v in LACTATE.items() if k != "effectiveDateTime"}
    assert rules(chart(PNEUMONIA, timeless)) == ()


def test_an_antibiotic_dated_today_without_a_time_counts_as_of_now() -> None:
    """DQ-9: a date without a time counts as the end of its day."""
    assert rules(chart(PNEUMONIA, LACTATE, antibiotic("2026-03-10"))) == ()
    assert rules(chart(PNEUMONIA, LACTATE, antibiotic("2026-03-09"))) == ("DT-03",)


def test_the_order_of_resources_other_patients_and_errors_change_nothing() -> None:
    stranger = {**dose(), "id": "x1", "subject": {"reference": "Patient/p2"}}
    wrong = [{**dose(), "id": "x2", "status": "entered-in-error"}, {**antibiotic(), "status": "entered-in-error"}]
    beside = chart(*vitals(), PNEUMONIA, LACTATE, stranger, *wrong)
    assert text(card_of(FIRES)) == text(card_of(beside)) == text(card_of(reversed_(beside)))
    error = {**PNEUMONIA, "verificationStatus": concept("urn:x", "entered-in-error")}
    assert rules(chart(error, LACTATE)) == ()
    assert rules(chart(PNEUMONIA, {**LACTATE, "status": "entered-in-error"})) == ()


@pytest.mark.parametrize(
    "silent",
    [
        chart(PNEUMONIA, LACTATE, visit=encounter("AMB")),
        chart(PNEUMONIA, LACTATE, visit=encounter(serviceType=concept("urn:x", "ICU"))),
        chart(PNEUMONIA, LACTATE, who=patient("female", "2011-01-01")),  # 15 years
        chart(PNEUMONIA, LACTATE, condition("p", "O09.90"), who=patient("female", "1996-01-01")),
        chart(PNEUMONIA, LACTATE, user="RelatedPerson/r1"),
    ],
)
def test_in_settings_with_their_own_watch_the_rule_is_silent(silent: Chart) -> None:
    assert silent.cards(NAME) == []


def test_switched_off_the_rule_leaves_news2_alone() -> None:
    manifest = site()
    off = msgspec.structs.replace(manifest.rules["DT-03"], on=False)
    changed = msgspec.structs.replace(manifest, rules={**manifest.rules, "DT-03": off})
    sick = chart(*vitals(rr=24, spo2=93, o2=4, hr=116, temp=38.6), PNEUMONIA, LACTATE)
    assert rules(sick, changed) == ("DT-01",)
    assert rules(FIRES, changed) == ()


def test_the_longest_fillers_stay_within_the_limits() -> None:
    worst = "*|_<b>" * 60
    named = condition("c1", "J18.9", code=concept("http://hl7.org/fhir/sid/icd-10-cm", "J18.9", worst))
    lost = tuple(Shortfall(key, "unreachable") for key in ("given", "conditions", "encounter", "goals", "orders"))
    drug = medication("abx", "2193", worst, authoredOn="2026-03-09T13:00:00Z")
    signs = vitals(rr=24, spo2=93, o2=4, hr=116, map=60, avpu=None)
    card = card_of(chart(*signs, named, LACTATE, drug, condition("z", "Z66"), shortfalls=lost))
    assert len(card.summary) < 140
    assert len(card.detail or "") <= 1200
    assert "| Lactate | 3.1 mmol/L |" in text(card)
    assert "Not known: consciousness" in text(card)
