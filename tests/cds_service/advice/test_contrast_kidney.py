"""IS-01 and IS-03: every card, and beside each the same patient with one fact changed who gets none."""

from __future__ import annotations

import dataclasses

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
    written,
)
from fhir.resources.R4B.medicationrequest import MedicationRequest
from fhir.resources.R4B.servicerequest import ServiceRequest
from fhir.resources.R4B.task import Task
from vignettes import (
    Chart,
    concept,
    condition,
    imaging_order,
    medication,
    observation,
    patient,
    service,
)

from cds_service.evidence import Shortfall

MODELS = {"ServiceRequest": ServiceRequest, "MedicationRequest": MedicationRequest, "Task": Task}

# --- IS-01 and IS-03 ------------------------------------------------------------------------------------------------


def test_stable_egfr_below_30_warns_with_fluids_and_a_study_without_contrast() -> None:
    card = card_of(chart(LOW, STEADY))
    assert card.indicator == "warning"
    assert card.summary == (
        "eGFR 26 (2026-03-10): plan fluid prophylaxis or non-contrast CT; contrast is not forbidden."
    )
    assert labels(card) == [
        "Change to CT chest without contrast",
        "Order saline before contrast and creatinine 48 h after contrast",
    ]
    assert card.source.label == "ACR-NKF 2020"
    assert card.source.url == "https://www.ncbi.nlm.nih.gov/pmc/articles/PMC7525144/"


@pytest.mark.parametrize(
    "given",
    [
        chart(NORMAL),
        chart(creatinine("o1", 2.2, "2026-03-10T06:10:00Z")),  # eGFR 32 as a man of 67
        chart(LOW, STEADY, condition("c1", "N18.6")),  # on dialysis
        chart(LOW, STEADY, drafts=(imaging_order("d1", "29252-4", "CT chest"),)),  # no contrast
        chart(LOW, STEADY, drafts=(imaging_order("d1", "24627-2", "CT chest"),)),  # contrast not stated
        chart(LOW, STEADY, drafts=(imaging_order("d1", "30657-1", "MR brain"),)),
        chart(LOW, STEADY, drafts=(imaging_order("d1", "24628-0", "CT", priority="stat"),)),
        chart(LOW, STEADY, observation("v1", "8480-6", 84, "mm[Hg]", "2026-03-10T13:50:00Z")),
        chart(LOW, STEADY, drafts=()),
        chart(LOW, STEADY, user="Patient/p1"),
        chart(LOW, STEADY, user="https://ehr.example.org/fhir/RelatedPerson/r1"),
        chart(LOW, STEADY, who=patient(deceasedBoolean=True)),
    ],
)
def test_the_same_patient_with_one_fact_changed_gets_no_card(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_comfort_care_recorded_as_consent_silences_the_card_and_a_refusal_of_it_does_not() -> None:
    goal = {"resourceType": "Consent", "id": "g1", "status": "active", "patient": {"reference": "Patient/p1"}}
    code = [concept("http://snomed.info/sct", "133918004")]
    assert chart(LOW, STEADY, {**goal, "provision": {"type": "permit", "code": code}}).cards(NAME) == []
    assert len(chart(LOW, STEADY, {**goal, "provision": {"type": "deny", "code": code}}).cards(NAME)) == 1


def test_do_not_resuscitate_is_stated_and_silences_nothing() -> None:
    assert "do not resuscitate" in text(card_of(chart(LOW, STEADY, condition("c1", "Z66"))))


def test_egfr_is_shown_rounded_and_compared_unrounded() -> None:
    # by hand: 142 x (2.316/0.9)^-1.2 x 0.9938^67 = 30.06; with 2.33 it is 29.85, shown as 30 and below 30
    assert chart(creatinine("o1", 2.31, "2026-03-10T06:10:00Z")).cards(NAME) == []
    card = card_of(chart(creatinine("o1", 2.33, "2026-03-10T06:10:00Z")))
    assert card.summary.startswith("eGFR 30 (")
    assert "before rounding" in text(card)


def test_acute_kidney_injury_prints_the_creatinine_trend_and_no_egfr() -> None:
    card = card_of(chart(creatinine("o1", 2.0, "2026-03-10T06:00:00Z"), creatinine("o2", 1.1, "2026-03-08T06:00:00Z")))
    assert card.indicator == "warning"
    assert card.summary == (
        "Creatinine 1.1 to 2.0 mg/dL in 2 d (acute kidney injury): give fluids and recheck, or use non-contrast CT."
    )
    assert "eGFR" not in text(card)


def test_the_same_rise_spread_over_a_longer_time_is_no_injury() -> None:
    before = creatinine("o2", 1.1, "2026-03-08T06:00:00Z")
    assert chart(creatinine("o1", 1.35, "2026-03-10T06:00:00Z"), before).cards(NAME) == []


def test_a_rise_above_the_usual_value_of_the_year_is_named_as_such() -> None:
    usual = creatinine("o2", 1.0, "2026-01-10T06:00:00Z")
    card = card_of(chart(creatinine("o1", 1.8, "2026-03-10T06:00:00Z"), usual))
    assert "Creatinine 1.8 mg/dL, usually 1.00 mg/dL (acute kidney injury)" in card.summary


def test_a_falling_creatinine_informs_and_does_not_warn() -> None:
    card = card_of(chart(creatinine("o1", 2.9, "2026-03-10T06:00:00Z"), creatinine("o2", 3.4, "2026-03-09T06:00:00Z")))
    assert card.indicator == "info"
    assert "still changing" in card.summary
    assert labels(card)[-1] == "Order creatinine now"


def test_metformin_joins_the_kidney_warning_on_one_card_and_its_hold_is_recommended() -> None:
    card = card_of(chart(LOW, STEADY, METFORMIN))
    assert (card.indicator, len(card.suggestions)) == ("warning", 3)
    hold = next(s for s in card.suggestions if s.label == "Hold metformin for 48 h")
    assert hold.is_recommended
    assert "Rule IS-01+IS-03 v1" in text(card)


def test_metformin_already_on_hold_is_not_held_again() -> None:
    card = card_of(chart(LOW, STEADY, medication("a1", "6809", "metformin", "on-hold")))
    assert "metformin" not in text(card).lower()


def test_a_site_whose_ehr_cannot_update_signed_orders_gets_a_task() -> None:
    manifest = service(NAME)
    changed = msgspec.structs.replace(manifest, settings={**manifest.settings, "update_signed_orders": False})
    tasks = [r for r in written(card_of(chart(LOW, STEADY, METFORMIN), changed)) if r["resourceType"] == "Task"]
    assert [t["focus"]["reference"] for t in tasks] == ["MedicationRequest/a1"]
    assert tasks[0]["code"]["text"] == "hold medication"


def test_metformin_alone_informs_when_the_prophylaxis_rule_is_switched_off() -> None:
    manifest = service(NAME)
    off = msgspec.structs.replace(manifest.rules["IS-01"], on=False)
    changed = msgspec.structs.replace(manifest, rules={**manifest.rules, "IS-01": off})
    card = card_of(chart(LOW, STEADY, METFORMIN), changed)
    assert card.indicator == "info"
    assert "Rule IS-03 v1" in text(card)
    assert chart(LOW, STEADY).cards(NAME, changed) == []


def test_the_fda_policy_holds_metformin_up_to_60_with_heart_failure_and_the_acr_policy_does_not() -> None:
    manifest = service(NAME)
    fda = msgspec.structs.replace(manifest, settings={**manifest.settings, "metformin_policy": "FDA"})
    mild = creatinine("o1", 1.6, "2026-03-10T06:10:00Z")  # eGFR 47
    given = chart(mild, METFORMIN, condition("c1", "I50.22"))
    card = card_of(given, fda)
    assert (card.indicator, card.summary) == (
        "info",
        "eGFR 47 (2026-03-10), on metformin: hold metformin from the scan for 48 h.",
    )
    assert given.cards(NAME) == []
    assert chart(mild, METFORMIN).cards(NAME, fda) == []


@pytest.mark.parametrize("code", ["I50.22", "J81.0", "R34"])
def test_saline_is_not_offered_in_heart_failure_lung_oedema_or_anuria(code: str) -> None:
    card = card_of(chart(LOW, STEADY, condition("c1", code)))
    assert labels(card) == ["Change to CT chest without contrast", "Order creatinine 48 h after contrast"]
    assert "fluid" not in card.summary
    assert "Saline is not offered" in text(card)


def test_saline_and_creatinine_already_ordered_are_not_offered_again() -> None:
    saline = medication("a2", "9863", "sodium chloride 0.9 %")
    due = {
        "resourceType": "ServiceRequest",
        "id": "s2",
        "status": "active",
        "intent": "order",
        "code": concept("http://loinc.org", "2160-0"),
        "subject": {"reference": "Patient/p1"},
        "occurrenceDateTime": "2026-03-12T08:00:00Z",
    }
    assert labels(card_of(chart(LOW, STEADY, saline, due))) == ["Change to CT chest without contrast"]


def test_ct_pulmonary_angiography_is_changed_to_a_lung_scan() -> None:
    card = card_of(chart(LOW, STEADY, drafts=(imaging_order("d1", "36147-7", "CT pulmonary angiogram"),)))
    assert written(card)[0]["code"]["coding"][0]["code"] == "39943-6"
    assert "non-contrast" not in card.summary


@pytest.mark.parametrize(
    ("ordered", "plain"),
    # CLINICAL 4.1, the siblings a draft may be changed to
    [("24628-0", "29252-4"), ("36813-4", "36424-0"), ("30599-5", "36424-0"), ("24727-0", "30799-1")],
)
def test_each_contrast_study_has_the_sibling_of_the_table(ordered: str, plain: str) -> None:
    card = card_of(chart(LOW, STEADY, drafts=(imaging_order("d1", ordered, "CT"),)))
    assert written(card)[0]["code"]["coding"][0]["code"] == plain


def test_several_contrast_orders_of_one_call_share_one_card() -> None:
    drafts = (CT, imaging_order("d2", "36813-4", "CT abdomen and pelvis with IV contrast"))
    card = card_of(chart(LOW, STEADY, drafts=drafts))
    updated = [r["id"] for r in written(card) if r.get("id")]
    assert sorted(updated) == ["d1", "d2"]
    assert "CT chest with IV contrast and CT abdomen" in text(card)


def test_an_update_sends_the_whole_draft_back_with_only_code_and_note_changed() -> None:
    local = {"system": "urn:site:catalogue", "code": "CTCHC"}
    draft = {
        **CT,
        "code": {"coding": [local, *CT["code"]["coding"]], "text": "CT chest with IV contrast"},
        "requester": {"reference": "Practitioner/u1"},
        "reasonCode": [{"text": "cough"}],
        "note": [{"text": "via port"}],
        "extension": [{"url": "https://ehr.example.org/x", "valueString": "kept"}],
    }
    card = card_of(chart(LOW, STEADY, drafts=(draft,)))
    changed = written(card)[0]
    assert {k: v for k, v in changed.items() if k not in ("code", "note")} == {
        k: v for k, v in draft.items() if k not in ("code", "note")
    }
    assert changed["note"] == [{"text": "via port"}, {"text": f"changed by CDS card {card.uuid}"}]
    assert [c["code"] for c in changed["code"]["coding"]] == ["29252-4"]


def test_a_metformin_hold_sends_the_whole_order_back_with_only_status_and_reason_changed() -> None:
    order = {**METFORMIN, "dosageInstruction": [{"text": "1000 mg twice daily"}], "groupIdentifier": {"value": "7"}}
    (held,) = [r for r in written(card_of(chart(LOW, STEADY, order))) if r.get("id") == "a1"]
    assert {k: v for k, v in held.items() if k not in ("status", "statusReason")} == {
        k: v for k, v in order.items() if k != "status"
    }
    assert held["status"] == "on-hold"


def test_a_study_whose_code_does_not_say_counts_with_a_contrast_drug_beside_it() -> None:
    unsure = imaging_order("d1", "24627-2", "CT chest")
    iohexol = medication("d2", "5956", "iohexol 350 mg/mL", "draft")
    card = card_of(chart(LOW, STEADY, drafts=(unsure, iohexol)))
    assert card.indicator == "warning"
    # the code of the study says nothing of contrast, so changing it would change nothing
    assert not any(label.startswith("Change") for label in labels(card))
    detailed = {**unsure, "orderDetail": [concept("http://www.whocc.no/atc", "V08AB02")]}
    assert len(chart(LOW, STEADY, drafts=(detailed,)).cards(NAME)) == 1


def test_on_order_select_only_a_touched_contrast_order_is_spoken_about() -> None:
    other = medication("d9", "2193", "ceftriaxone 2 g", "draft")
    drafts = (CT, other)
    touched = chart(LOW, STEADY, drafts=drafts, hook="order-select", selections=("ServiceRequest/d1",))
    elsewhere = dataclasses.replace(touched, selections=("MedicationRequest/d9",))
    assert len(touched.cards(NAME)) == 1
    assert elsewhere.cards(NAME) == []


def test_a_preliminary_creatinine_informs_and_is_labelled() -> None:
    card = card_of(chart(creatinine("o1", 2.6, "2026-03-10T06:10:00Z", status="preliminary")))
    assert card.indicator == "info"
    assert "preliminary" in text(card)
    assert not any(s.is_recommended for s in card.suggestions)


def test_a_single_creatinine_says_that_it_is_not_known_whether_it_is_new() -> None:
    assert "Not known: creatinine in the week before" in text(card_of(chart(LOW)))
    assert "Not known" not in text(card_of(chart(LOW, STEADY)))


def test_a_medication_list_that_did_not_arrive_is_named() -> None:
    given = chart(LOW, STEADY, shortfalls=(Shortfall("meds", "timeout"),))
    assert "Not known: medication list (did not arrive in time)" in text(card_of(given))
