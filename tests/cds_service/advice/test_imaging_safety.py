"""imaging-safety: IS-05 and IS-09, what changes nothing, and what every card of the service keeps."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import pytest
from contrast import (
    CT,
    LOW,
    METFORMIN,
    NAME,
    NORMAL,
    STEADY,
    card_of,
    chart,
    creatinine,
    labels,
    text,
    without_uuids,
    written,
)
from fhir.resources.R4B.medicationrequest import MedicationRequest
from fhir.resources.R4B.servicerequest import ServiceRequest
from fhir.resources.R4B.task import Task
from vignettes import (
    Chart,
    concept,
    condition,
    encounter,
    imaging_order,
    medication,
    observation,
    patient,
    service,
)

from cds_service.advice.writing import number
from cds_service.evidence import Shortfall

MODELS = {"ServiceRequest": ServiceRequest, "MedicationRequest": MedicationRequest, "Task": Task}

# --- IS-05 and IS-09 ------------------------------------------------------------------------------------------------


def test_no_creatinine_in_the_window_with_a_kidney_risk_asks_for_one() -> None:
    old = creatinine("o1", 1.4, "2026-03-01T06:00:00Z")
    card = card_of(chart(old, METFORMIN))
    assert card.indicator == "info"
    assert card.summary == "No usable creatinine in 2 days before contrast (last 1.4 mg/dL, 9 d ago): order one."
    assert labels(card) == ["Order creatinine now"]


@pytest.mark.parametrize(
    "given",
    [
        chart(creatinine("o1", 1.0, "2026-03-01T06:00:00Z")),  # no kidney risk
        chart(NORMAL, METFORMIN),
        chart(creatinine("o1", 1.0, "2026-03-01T06:00:00Z"), METFORMIN, visit=encounter("AMB")),  # fresh for a clinic
        chart(METFORMIN, condition("c1", "N18.6")),
        chart(condition("c1", "E11.9")),  # diabetes alone is no risk unless the site says so
        chart(condition("c1", "N17.9", onsetDateTime="2025-10-01")),  # injury more than three months ago
    ],
)
def test_without_a_kidney_risk_or_with_a_fresh_value_nothing_is_asked(given: Chart) -> None:
    assert given.cards(NAME) == []


@pytest.mark.parametrize("code", ["N18.32", "Z90.5", "Z94.0", "C90.00", "N17.9"])
def test_kidney_disease_one_kidney_transplant_myeloma_and_recent_injury_are_kidney_risks(code: str) -> None:
    card = card_of(chart(condition("c1", code, onsetDateTime="2026-01-15")))
    assert card.summary == "No usable creatinine in 2 days before contrast: order one."


def test_a_site_may_count_diabetes_as_a_kidney_risk() -> None:
    manifest = service(NAME)
    counted = {**manifest.settings, "diabetes_is_a_kidney_risk": True}
    given = chart(condition("c1", "E11.9"))
    assert len(given.cards(NAME, msgspec.structs.replace(manifest, settings=counted))) == 1


@pytest.mark.parametrize("unit", [None, "mmol", "mg"])
def test_a_creatinine_without_a_usable_unit_is_no_creatinine_and_is_named(unit: str | None) -> None:
    card = card_of(chart(creatinine("o1", 2.6, "2026-03-10T06:10:00Z", unit), METFORMIN))
    assert card.indicator == "info"
    assert "1 creatinine result without a usable value or unit" in text(card)


def test_a_haemolysed_sample_is_not_used() -> None:
    spoilt = creatinine("o1", 2.6, "2026-03-10T06:10:00Z", note=[{"text": "Sample haemolysed"}])
    assert card_of(chart(spoilt, METFORMIN)).summary.startswith("No usable creatinine")


def test_two_results_that_contradict_each_other_ask_for_a_repeat_and_warn_of_nothing() -> None:
    one, other = creatinine("o1", 2.6, "2026-03-10T06:10:00Z"), creatinine("o2", 1.1, "2026-03-10T05:50:00Z")
    card = card_of(chart(one, other, METFORMIN))
    assert card.indicator == "info"
    assert card.summary == (
        "Creatinine 1.1 mg/dL and 2.6 mg/dL within 20 min conflict: repeat before relying on either."
    )
    assert chart(one, other).cards(NAME) == []  # no kidney risk


# --- properties -----------------------------------------------------------------------------------------------------


def test_the_order_of_the_resources_changes_nothing() -> None:
    resources = (patient(), encounter(), LOW, STEADY, METFORMIN, condition("c1", "E11.9"))
    cards = {
        without_uuids(card_of(Chart(tuple(order), (CT,))))
        for order in itertools.islice(itertools.permutations(resources), 0, 720, 71)
    }
    assert len(cards) == 1


def test_another_patients_resources_change_nothing() -> None:
    stranger = {"reference": "Patient/p2"}
    others = [
        {**r, "id": f"x{i}", "subject": stranger} for i, r in enumerate((NORMAL, METFORMIN, condition("c", "N18.6")))
    ]
    alone, together = card_of(chart(LOW, STEADY)), card_of(chart(LOW, STEADY, *others))
    assert without_uuids(alone) == without_uuids(together)
    assert chart(NORMAL, *[{**LOW, "id": "x9", "subject": stranger}]).cards(NAME) == []
    assert chart(LOW, drafts=({**CT, "subject": stranger},)).cards(NAME) == []


def test_a_resource_entered_in_error_changes_nothing() -> None:
    wrong = {**LOW, "id": "o9", "status": "entered-in-error"}
    assert chart(NORMAL, wrong).cards(NAME) == []
    assert without_uuids(card_of(chart(LOW, STEADY, {**NORMAL, "id": "o9", "status": "entered-in-error"}))) == (
        without_uuids(card_of(chart(LOW, STEADY)))
    )


def test_a_result_from_the_future_changes_nothing() -> None:
    assert chart(NORMAL, creatinine("o9", 2.6, "2026-03-10T15:00:00Z")).cards(NAME) == []


def test_micromoles_give_the_same_card_but_for_the_printed_value() -> None:
    factor = 0.0113118
    twins = [
        creatinine(r["id"], round(r["valueQuantity"]["value"] / factor, 2), r["effectiveDateTime"], "umol/L")
        for r in (LOW, STEADY)
    ]
    given, twin = card_of(chart(LOW, STEADY, METFORMIN)), card_of(chart(*twins, METFORMIN))
    body = without_uuids(twin)
    for r, value in ((twins[0], 2.6), (twins[1], 2.5)):
        printed = f"{r['valueQuantity']['value']} umol/L [{number(value)} mg/dL]"
        assert printed in body
        body = body.replace(printed, f"{value} mg/dL")
    assert body == without_uuids(given)


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        chart(LOW, STEADY, METFORMIN),
        chart(creatinine("o1", 2.0, "2026-03-10T06:00:00Z"), creatinine("o2", 1.1, "2026-03-08T06:00:00Z")),
        chart(METFORMIN),
    ],
)
def test_every_resource_on_a_card_is_valid_r4_about_the_patient(given: Chart) -> None:
    resources = written(card_of(given))
    assert resources
    for resource in resources:
        MODELS[resource["resourceType"]].model_validate(resource)
        assert (resource.get("subject") or resource["for"]) == {"reference": "Patient/p1"}


def test_the_override_reasons_are_the_two_of_this_service_and_four_of_the_standard_set() -> None:
    reasons = card_of(chart(LOW, STEADY)).override_reasons
    assert [r.display for r in reasons[:2]] == ["Emergency, benefit clear", "Radiologist already agreed"]
    assert len(reasons) == 6
    assert len({r.code for r in reasons}) == 6


WORST = "*" * 200 + "|<b>[x](https://evil.example)</b>" * 5


@pytest.mark.parametrize("metformin_orders", [1, 6])
def test_the_longest_fillers_stay_within_the_limits(metformin_orders: int) -> None:
    drafts = tuple(imaging_order(f"d{i}", "24628-0", WORST) for i in range(9))
    meds = tuple(
        medication(f"a{i}", "6809", WORST, dosageInstruction=[{"text": WORST}]) for i in range(metformin_orders)
    )
    long_creatinine = creatinine("o1", 230.000000001, "2026-03-10T06:10:00.123456+14:00", "umol/L", status="final")
    given = chart(
        long_creatinine,
        STEADY,
        *meds,
        condition("c1", "I50.22", code=concept("http://hl7.org/fhir/sid/icd-10-cm", "I50.22", WORST)),
        condition("c2", "Z66"),
        drafts=drafts,
        who=patient("unknown", "1958"),
        shortfalls=tuple(Shortfall(key, "unreachable") for key in ("meds", "conditions", "vitals", "orders", "goals")),
    )
    card = card_of(given)
    assert len(card.summary) < 140
    assert len(card.detail or "") <= 1200
    assert "<b>" not in text(card)
    assert "Rule IS-01+IS-03 v1" in text(card)


def test_a_reported_egfr_is_shown_beside_a_missing_creatinine_and_decides_nothing() -> None:
    reported = observation("o3", "33914-3", 22, "mL/min/1.73m2", "2026-03-10T06:00:00Z")
    card = card_of(chart(reported, METFORMIN))
    assert card.indicator == "info"
    assert "eGFR as reported" in text(card)


def test_a_creatinine_already_on_order_is_not_ordered_again() -> None:
    pending = {
        "resourceType": "ServiceRequest",
        "id": "s2",
        "status": "active",
        "intent": "order",
        "code": concept("http://loinc.org", "2160-0"),
        "subject": {"reference": "Patient/p1"},
    }
    assert card_of(chart(METFORMIN, pending)).suggestions == ()


def test_a_draft_without_an_id_is_not_offered_as_an_update() -> None:
    nameless = {k: v for k, v in CT.items() if k != "id"}
    given = dataclasses.replace(chart(LOW, STEADY), drafts=(nameless,))
    assert labels(card_of(given)) == ["Order saline before contrast and creatinine 48 h after contrast"]
