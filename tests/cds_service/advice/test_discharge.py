"""DT-04: what a planned discharge runs into; each problem with its twin, and nothing is ever deleted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.servicerequest import ServiceRequest
from fhir.resources.R4B.task import Task
from vignettes import Chart, Resource, concept, condition, encounter, film, imaging_order, patient
from ward_charts import (
    HOME,
    LACTATE,
    NAME,
    PNEUMONIA,
    card_of,
    chart,
    codes,
    discharge,
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

LOW = lab("2823-3", 2.8, "mmol/L", "2026-03-10T06:00:00Z")
STUDY = {**film(1, "2026-03-10T08:00:00Z", "AP")[0]}


def creatinine(value: float, at: str, id_: str, unit: str = "mg/dL", **more: Any) -> Resource:
    return lab("2160-0", value, unit, at, id_, **more)


NOW_2 = creatinine(2.0, "2026-03-10T06:00:00Z", "k1")
BEFORE = creatinine(1.3, "2026-03-07T06:00:00Z", "k2")
"""2.0 is 1.54 times 1.3."""
YEAR_AGO = creatinine(1.0, "2025-09-01T06:00:00Z", "k3")


def test_a_low_potassium_stops_no_discharge_but_warns_and_orders_a_repeat() -> None:
    card = card_of(discharge(LOW, *vitals()))
    assert card.indicator == "warning"
    assert card.summary == ("Discharge planned with potassium (2.8 mmol/L, 2026-03-10 06:00): resolve or follow up.")
    assert [s.label for s in card.suggestions] == ["Order repeat potassium"]
    assert codes(card) == ["2823-3"]
    ServiceRequest.model_validate(made(card)[0])


def level(code: str, value: float, unit: str) -> tuple[Resource, ...]:
    return (lab(code, value, unit, "2026-03-10T06:00:00Z"),)


READ = report(
    "36643-5", "final", "2026-03-10T10:00:00Z", "rad1", "RAD", imagingStudy=[{"reference": "ImagingStudy/study1"}]
)
SIGNED = {**READ, "conclusion": "No pneumothorax."}
EARLY = {**READ, "status": "preliminary"}
CULTURE = ordered("600-7", "2026-03-09T20:00:00Z", "Blood culture")
UNDER_WAY = report("600-7", "partial", "2026-03-09T20:00:00Z", "lab1")
DONE = report("600-7", "final", "2026-03-10T12:00:00Z", "lab2")
ON_AIR = vitals("2026-03-09T08:00:00Z")
OXYGEN_AT_HOME = condition("h1", "Z99.81")


@pytest.mark.parametrize(
    ("fires", "silent"),
    [
        (vitals(rr=22, hr=112, temp=38.4), vitals(rr=22, hr=112)),  # NEWS2 2 + 2 + 1 = 5; 4
        ((*ON_AIR, *vitals(o2=2)), (*ON_AIR, *vitals())),
        (vitals(o2=2), (*vitals(o2=2), OXYGEN_AT_HOME)),
        (level("2823-3", 2.9, "mmol/L"), level("2823-3", 3.0, "mmol/L")),
        (level("2823-3", 6.1, "mmol/L"), level("2823-3", 6.0, "mmol/L")),
        (level("6301-6", 5.1, "{INR}"), level("6301-6", 5.0, "{INR}")),
        ((NOW_2, BEFORE), (creatinine(1.9, "2026-03-10T06:00:00Z", "k1"), BEFORE)),  # 1.54 and 1.46 times
        ((NOW_2, YEAR_AGO), (creatinine(1.4, "2026-03-10T06:00:00Z", "k1"), YEAR_AGO)),
        # A week of injured kidneys is no baseline: 2.0 is 1.05 times the week's lowest and twice last year's.
        (
            (NOW_2, creatinine(1.9, "2026-03-05T06:00:00Z", "k2"), YEAR_AGO),
            (NOW_2, creatinine(1.9, "2026-03-05T06:00:00Z", "k2")),
        ),
        ((NOW_2, BEFORE), (NOW_2, BEFORE, condition("d", "Z99.2"))),
        ((CULTURE,), (ordered("2345-7", text="Glucose"),)),
        ((CULTURE,), (CULTURE, DONE)),
        ((UNDER_WAY,), (UNDER_WAY, DONE)),
        ((lab("2345-7", 1.6, "mmol/L", status="preliminary"),), (lab("2345-7", 5.0, "mmol/L", status="preliminary"),)),
        ((STUDY,), (STUDY, SIGNED)),
        ((STUDY, EARLY), (STUDY, {**SIGNED, "status": "amended"})),
        ((STUDY,), ({**STUDY, "started": "2026-03-03T13:00:00Z"},)),  # a week and an hour ago
        ((STUDY,), ({**STUDY, "status": "registered"},)),
    ],
)
def test_each_problem_of_a_discharge_decides(fires: tuple[Resource, ...], silent: tuple[Resource, ...]) -> None:
    assert rules(discharge(*fires)) == ("DT-04",)
    assert "DT-04" not in rules(discharge(*silent))


@pytest.mark.parametrize("resources", [(LOW,), (STUDY,), (NOW_2, BEFORE), (CULTURE,)])
def test_without_a_discharge_none_of_them_is_said(resources: tuple[Resource, ...]) -> None:
    assert rules(chart(*resources)) == ()


def test_the_rule_speaks_when_an_order_that_discharges_is_selected_and_not_for_another_beside_it() -> None:
    film_order = imaging_order("d2", "36643-5", "Chest X-ray")
    both: dict[str, Any] = {"hook": "order-select", "drafts": (HOME, film_order)}
    card = card_of(chart(LOW, **both, selections=("ServiceRequest/out",)))
    assert card.basis is not None
    assert (card.basis.rules, card.basis.orders) == (("DT-04",), ("ServiceRequest/out",))
    assert rules(chart(LOW, **both, selections=("ServiceRequest/d2",))) == ()
    assert rules(chart(LOW, hook="order-select", drafts=(film_order,))) == ()


def test_all_problems_are_on_one_card_with_one_button_for_tests_and_one_for_tasks() -> None:
    given = discharge(
        *vitals(rr=22, hr=112, temp=38.4), LOW, *level("6301-6", 5.4, "{INR}"), NOW_2, BEFORE, CULTURE, STUDY
    )
    card = card_of(given)
    assert [s.label for s in card.suggestions] == [
        "Order urgent clinician review",
        "Order repeat potassium, repeat international normalised ratio, creatinine for 2026-03-17",
        "Add a task for pending result, unread imaging",
    ]
    assert "6 things may have to come first" in text(card)
    assert "NEWS2 (5, 2026-03-10 13:40)" in card.summary
    assert card.summary.endswith("more: resolve or follow up.")
    kinds = {action.type for s in card.suggestions for action in s.actions}
    assert kinds == {"create"}
    for resource in made(card):
        (Task if resource["resourceType"] == "Task" else ServiceRequest).model_validate(resource)
    tasks = [r["focus"]["reference"] for r in made(card) if r["resourceType"] == "Task"]
    assert tasks == ["ServiceRequest/sr600-7", "ImagingStudy/study1"]
    (later,) = [r for r in made(card) if r["code"]["coding"][0]["code"] == "2160-0"]
    assert later["occurrenceDateTime"].startswith("2026-03-17")


def test_a_repeat_that_is_on_order_is_not_ordered_twice() -> None:
    again = ordered("6298-4", "2026-03-10T13:00:00Z", "Potassium, blood")
    assert codes(card_of(discharge(LOW, again))) == ["result-follow-up"]  # and its result is waited for


def test_oxygen_that_is_new_shows_when_the_patient_was_on_air() -> None:
    card = card_of(discharge(*ON_AIR, *vitals(o2=2)))
    assert card.summary.startswith("Discharge planned with new oxygen (2 L/min, 2026-03-10 13:40)")
    assert "| On air | 0 L/min | 2026-03-09 08:00 | Vital signs |" in text(card)
    assert codes(card) == ["home-oxygen-assessment"]
    home = "urn:oid:2.999.7|HOME-O2"
    supply = imaging_order("o2", "0", "Home oxygen", status="active", code=concept("urn:oid:2.999.7", "HOME-O2"))
    assert rules(discharge(*ON_AIR, *vitals(o2=2), supply), site(home_oxygen_codes=home)) == ()
    assert rules(discharge(*ON_AIR, *vitals(o2=2), supply)) == ("DT-04",)


def test_creatinine_is_shown_beside_its_baseline_in_the_laboratory_s_own_unit() -> None:
    """2.0 and 1.3 mg/dL as umol/L (x 88.4): 176.8 and 114.92; the ratio stays 1.54."""
    now = creatinine(176.8, "2026-03-10T06:00:00Z", "k1", "umol/L")
    before = creatinine(114.92, "2026-03-07T06:00:00Z", "k2", "umol/L")
    card = card_of(discharge(now, before))
    assert "1.54 times the baseline of 115 umol/L" in text(card)
    assert card.basis == card_of(discharge(NOW_2, BEFORE)).basis


def test_a_suspected_sepsis_joins_the_discharge_card() -> None:
    card = card_of(discharge(LOW, PNEUMONIA, LACTATE))
    assert card.basis is not None
    assert card.basis.rules == ("DT-04", "DT-03")
    assert card.summary.startswith("Discharge planned with suspected infection, lactate 3.1 mmol/L")
    assert [s.label for s in card.suggestions] == ["Order blood cultures", "Order repeat potassium"]


def test_a_discharge_of_somebody_well_gets_no_card() -> None:
    assert discharge(*vitals(), SIGNED, STUDY, DONE).cards(NAME) == []


# --- what is missing ------------------------------------------------------------------------------------------------


def test_what_could_not_be_judged_is_named() -> None:
    card = card_of(discharge(STUDY, who=patient("female", None)))
    said = text(card)
    assert "Not known: NEWS2 (no vital signs in 8 h); potassium (none in time); creatinine against its baseline" in said
    assert "age" in said


def test_a_study_is_called_unread_only_where_the_reports_were_read() -> None:
    lost = (Shortfall("reports", "timeout"),)
    assert rules(discharge(STUDY, shortfalls=lost)) == ()
    assert "radiology reports (did not arrive in time)" in text(card_of(discharge(STUDY, LOW, shortfalls=lost)))


@pytest.mark.parametrize(
    ("key", "named"), [("labs", "laboratory results (did not arrive"), ("tests", "laboratory reports (did not arrive")]
)
def test_a_result_is_called_pending_only_where_results_and_reports_were_read(key: str, named: str) -> None:
    lost = (Shortfall(key, "timeout"),)
    assert rules(discharge(CULTURE, shortfalls=lost)) == ()
    assert named in text(card_of(discharge(CULTURE, STUDY, shortfalls=lost)))


def test_oxygen_is_not_called_new_while_the_problem_list_is_missing() -> None:
    lost = (Shortfall("conditions", "timeout"),)
    assert rules(discharge(*vitals(o2=2), shortfalls=lost)) == ()
    assert rules(discharge(*ON_AIR, *vitals(o2=2), shortfalls=lost)) == ("DT-04",)
    card = card_of(discharge(*vitals(o2=2), LOW, shortfalls=lost))
    assert "whether there is oxygen at home" in text(card)


def test_preliminary_results_inform_and_stale_or_contradictory_ones_say_nothing() -> None:
    assert card_of(discharge({**LOW, "status": "preliminary"})).indicator == "info"
    assert rules(discharge(lab("2823-3", 2.8, "mmol/L", "2026-03-09T13:00:00Z"))) == ()  # labs.csv: P1D in hospital
    twin = lab("6298-4", 4.1, "mmol/L", "2026-03-10T06:10:00Z")
    assert rules(discharge(LOW, twin)) == ()
    assert "potassium (two results contradict each other)" in text(card_of(discharge(LOW, twin, STUDY)))


def test_the_longest_fillers_stay_within_the_limits() -> None:
    worst = "*|_<b>" * 60
    long_study = {**STUDY, "description": worst}
    lost = tuple(Shortfall(key, "unreachable") for key in ("given", "conditions", "encounter", "goals", "tests"))
    signs = vitals(rr=22, hr=112, temp=38.4, avpu=None)
    card = card_of(discharge(*signs, LOW, NOW_2, BEFORE, CULTURE, long_study, shortfalls=lost))
    assert len(card.summary) < 140
    assert len(card.detail or "") <= 1200
    assert "NEWS2 at least 5" in text(card)


# --- same facts, same card -------------------------------------------------------------------------------------------


def test_the_order_of_resources_other_patients_and_errors_change_nothing() -> None:
    everything = (*ON_AIR, *vitals(o2=2, rr=22), LOW, NOW_2, BEFORE, CULTURE, STUDY)
    stranger = {**SIGNED, "id": "x1", "subject": {"reference": "Patient/p2"}}
    errors = [{**SIGNED, "id": "x2", "status": "entered-in-error"}, {**DONE, "status": "entered-in-error"}]
    plain, beside = discharge(*everything), discharge(*everything, stranger, *errors)
    assert text(card_of(plain)) == text(card_of(beside)) == text(card_of(reversed_(beside)))
    assert rules(discharge({**LOW, "status": "entered-in-error"})) == ()


def test_milliequivalents_give_the_same_card_but_for_the_printed_unit() -> None:
    """Potassium is monovalent: 2.8 meq/L is 2.8 mmol/L."""
    same = lab("2823-3", 2.8, "meq/L", "2026-03-10T06:00:00Z")
    assert card_of(discharge(same)).basis == card_of(discharge(LOW)).basis


@pytest.mark.parametrize(
    "silent",
    [
        discharge(LOW, visit=encounter("AMB")),
        discharge(LOW, visit=encounter(serviceType=concept("urn:x", "ICU"))),
        discharge(LOW, who=patient("female", "2011-01-01")),  # 15 years
        discharge(LOW, condition("g", "G93.82")),
        discharge(LOW, user="Patient/p1"),
    ],
)
def test_in_settings_with_their_own_watch_the_rule_is_silent(silent: Chart) -> None:
    assert silent.cards(NAME) == []


def test_a_site_moves_the_limits_and_switches_the_rule() -> None:
    assert rules(discharge(*level("2823-3", 3.2, "mmol/L")), site(potassium_low=3.5)) == ("DT-04",)
    assert rules(discharge(LOW), site(potassium_low=2.5)) == ()
    manifest = site()
    off = msgspec.structs.replace(manifest.rules["DT-04"], on=False)
    changed = msgspec.structs.replace(manifest, rules={**manifest.rules, "DT-04": off})
    assert rules(discharge(LOW), changed) == ()
    assert rules(discharge(*vitals(rr=22, hr=112, temp=38.4)), changed) == ("DT-02",)
