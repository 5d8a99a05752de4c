"""pe-imaging: another test in pregnancy (PE-04) and where contrast cannot be given (PE-05)."""

from __future__ import annotations

from typing import Any

import pytest
from embolism import (
    ALL_NO,
    CTPA,
    MAN_40,
    NAME,
    UNLIKELY,
    WOMAN_30,
    actions,
    card_of,
    chart,
    ddimer,
    labels,
    rule_of,
    text,
)
from imaging_charts import answered, report
from r4 import validate_r4
from vignettes import Answers, Chart, Resource, concept, condition, film, imaging_order, observation, service

DUE = {  # 2026-06-16: 280 days minus 98 days is 26 weeks
    **observation("edd", "11778-8", "", None, "2025-12-01T09:00:00Z"),
    "valueDateTime": "2026-06-16",
}
DUE.pop("valueString")
CLEAR = report("r1", "36643-5", "2026-03-10T11:00:00Z", "No acute cardiopulmonary process.")
LEGS = answered(CTPA, pe_most_likely=False, dvt_signs=True)


def pregnant(*resources: Resource, drafts: tuple[Resource, ...] = (UNLIKELY,)) -> Chart:
    return chart(DUE, *resources, who=WOMAN_30, drafts=drafts)


# --- PE-04 ----------------------------------------------------------------------------------------------------------


def test_in_pregnancy_open_items_are_answered_before_the_scan() -> None:
    card = card_of(pregnant(ddimer(640)))
    assert card.indicator == "info"
    assert card.summary == (
        "Pregnant 26 weeks, D-dimer 640 ng/mL FEU: YEARS limit is 1000 with no items; answer items before CTPA."
    )
    assert labels(card) == ["Remove the order: CTPA"]
    assert not any(s.is_recommended for s in card.suggestions)


def test_in_pregnancy_with_leg_signs_ultrasound_comes_first() -> None:
    card = card_of(pregnant(ddimer(1500), drafts=(LEGS,)))
    assert card.summary == "Pregnant 26 weeks with leg signs: leg vein ultrasound comes before CTPA."
    assert labels(card) == ["Order leg vein ultrasound", "Remove the order: CTPA"]
    assert actions(card)[0]["resource"]["code"]["coding"][0]["code"] == "30881-7"


def test_in_pregnancy_without_a_d_dimer_it_is_offered() -> None:
    card = card_of(pregnant())
    assert card.summary == "Pregnant 26 weeks, no D-dimer in 24 h: YEARS needs D-dimer and three answers before CTPA."
    assert labels(card) == ["Order D-dimer", "Remove the order: CTPA"]


def test_in_pregnancy_a_clear_film_offers_a_lung_scan_in_place_of_the_angiogram() -> None:
    card = card_of(pregnant(ddimer(640), CLEAR))
    assert labels(card) == ["Order a lung scan in place of CTPA", "Remove the order: CTPA"]
    create, delete, _ = actions(card)
    assert create["resource"]["code"]["coding"][0]["code"] == "39943-6"
    assert delete["resourceId"] == "ServiceRequest/d1"
    assert card.selection_behavior == "at-most-one"


@pytest.mark.parametrize(
    "given",
    [
        pregnant(ddimer(1000)),  # at the limit
        pregnant(ddimer(1400), drafts=(ALL_NO,)),
        pregnant(ddimer(700), drafts=(answered(CTPA, pe_most_likely=True, dvt_signs=False, haemoptysis=False),)),
        chart(ddimer(640), who=WOMAN_30),  # not known to be pregnant: limit 500, and D-dimer is above it
    ],
)
def test_with_a_positive_d_dimer_pregnancy_asks_for_the_scan(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_in_pregnancy_with_every_item_answered_no_the_limit_is_1000_and_nothing_is_recommended() -> None:
    # Van der Pol, N Engl J Med 2019;380:1139: no criterion and below 1000 rules embolism out.
    card = card_of(pregnant(ddimer(900), drafts=(ALL_NO,)))
    assert (rule_of(pregnant(ddimer(900), drafts=(ALL_NO,))), card.indicator) == ("PE-01", "warning")
    assert card.summary == (
        "D-dimer 900 ng/mL FEU is below the limit 1000 for this patient and YEARS in pregnancy counts at most 0 items: "
        "CTPA not needed."
    )
    assert "Wells" not in text(card)
    assert not card.suggestions[0].is_recommended


def test_in_pregnancy_nothing_is_ruled_out_before_somebody_looked_at_the_legs() -> None:
    assert rule_of(pregnant(ddimer(400))) == "PE-04"


def test_after_delivery_the_older_due_date_makes_nobody_pregnant() -> None:
    delivered = condition("c1", "Z39.2", onsetDateTime="2026-03-01T08:00:00Z")
    assert chart(DUE, delivered, ddimer(640), who=WOMAN_30).cards(NAME) == []


def test_the_week_may_come_from_the_problem_list() -> None:
    card = card_of(chart(condition("c1", "Z3A.20"), ddimer(640), who=WOMAN_30))
    assert card.summary.startswith("Pregnant 20 weeks, ")
    unsaid = card_of(chart(condition("c1", "O26.892"), ddimer(640), who=WOMAN_30))
    assert unsaid.summary.startswith("Pregnant, D-dimer 640 ng/mL FEU")


# --- PE-05 ----------------------------------------------------------------------------------------------------------

CANCER = condition("c0", "C34.11")  # so that D-dimer first does not speak before
INJURY = (
    observation("k1", "2160-0", 1.0, "mg/dL", "2026-03-09T06:00:00Z"),
    observation("k2", "2160-0", 2.1, "mg/dL", "2026-03-10T06:00:00Z"),
)
ALLERGY = {
    "resourceType": "AllergyIntolerance",
    "id": "a1",
    "clinicalStatus": concept("http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "active"),
    "code": concept("http://www.nlm.nih.gov/research/umls/rxnorm", "5956", "iohexol"),
    "patient": {"reference": "Patient/p1"},
    "reaction": [{"severity": "severe", "manifestation": [{"text": "shock"}]}],
}


def unlikely_but_scanned(*resources: Resource, **more: Any) -> Chart:
    return chart(CANCER, *resources, who=MAN_40, drafts=(ALL_NO,), **more)


def test_a_kidney_injury_and_a_clear_film_offer_a_lung_scan_instead() -> None:
    card = card_of(unlikely_but_scanned(*INJURY, CLEAR))
    assert card.indicator == "info"
    assert card.summary == (
        "Creatinine 2.1 mg/dL (acute kidney injury), chest film clear: a lung scan can replace CTPA."
    )
    (update,) = actions(card)
    assert update["type"] == "update"
    assert update["resource"]["id"] == "d1"
    assert update["resource"]["code"]["coding"] == [
        {"system": "http://loinc.org", "code": "39943-6", "display": "Lung ventilation-perfusion scan"}
    ]
    assert update["resource"]["supportingInfo"] == ALL_NO["supportingInfo"]
    validate_r4(update["resource"])
    assert "No acute cardiopulmonary process." in text(card)


def test_a_severe_contrast_allergy_does_the_same() -> None:
    assert card_of(unlikely_but_scanned(ALLERGY, CLEAR)).summary == (
        "Severe contrast allergy, chest film clear: a lung scan can replace CTPA."
    )


@pytest.mark.parametrize(
    "resources",
    [
        (CLEAR,),  # nothing against contrast
        INJURY,  # no film
        (*INJURY, CLEAR | {"conclusion": "No acute cardiopulmonary process. Small left effusion."}),
        (*INJURY, CLEAR | {"conclusion": "Right lower lobe consolidation."}),
        (*INJURY, CLEAR | {"status": "preliminary"}),
        (*INJURY, CLEAR | {"effectiveDateTime": "2026-03-07T11:00:00Z"}),
        (INJURY[0], CLEAR),
        (ALLERGY | {"reaction": [{"severity": "mild", "manifestation": [{"text": "hives"}]}]}, CLEAR),
        (ALLERGY | {"verificationStatus": concept("", "refuted")}, CLEAR),
        (*INJURY, CLEAR, {**imaging_order("x1", "39943-6", "Lung scan"), "status": "active"}),
    ],
)
def test_without_a_reason_against_contrast_or_a_clear_film_nothing_is_replaced(resources: tuple[Resource, ...]) -> None:
    assert unlikely_but_scanned(*resources).cards(NAME) == []


def by_model(p: float, profile: Any = "research_imaging") -> Chart:
    study, dicom = film(1, "2026-03-10T11:00:00Z")
    names = service(NAME).thresholds
    model = Answers({n: (p, max(0.0, p - 0.02), p + 0.02) for n in names}, modalities=("imaging",))
    given = unlikely_but_scanned(*INJURY, study)
    return Chart(given.resources, given.drafts, (dicom,), model=model, profile=profile)


def test_an_unreported_film_is_clear_by_the_model_only_where_the_site_lets_it_speak() -> None:
    card = card_of(by_model(0.03))
    assert card.indicator == "info"
    assert "film clear by model" in card.summary
    assert "none of 6 findings above 0.03 on the film of 2026-03-10 11:00" in text(card)
    assert "Model estimate, not a diagnosis. Research use: not cleared." in text(card)
    assert by_model(0.03, profile="non_device").cards(NAME) == []
    assert by_model(0.40).cards(NAME) == []


def test_a_report_outranks_the_model_on_the_same_film() -> None:
    given = by_model(0.03)
    said = report(
        "r1", "36643-5", "2026-03-10T11:00:00Z", "Left effusion.", imagingStudy=[{"reference": "ImagingStudy/study1"}]
    )
    assert Chart((*given.resources, said), given.drafts, given.films, model=given.model).cards(NAME) == []


def test_a_pre_test_estimate_is_one_line_and_changes_no_rule() -> None:
    manifest = service(NAME)
    estimate = Answers(
        {"pulmonary_embolism": (0.31, 0.22, 0.40)},
        modalities=("labs",),
        titles={"pulmonary_embolism": "Pulmonary embolism"},
    )
    crp = observation("crp", "1988-5", 12, "mg/L", "2026-03-10T12:00:00Z")
    given = chart(ddimer(640), crp)
    with_model = card_of(Chart(given.resources, given.drafts, model=estimate), manifest)
    alone = card_of(given, manifest)
    assert "Pulmonary embolism 0.31, 90% interval 0.22 to 0.40" in text(with_model)
    assert "Model estimate, not a diagnosis." in text(with_model)
    assert (with_model.summary, with_model.indicator, labels(with_model)) == (
        alone.summary,
        alone.indicator,
        labels(alone),
    )
