"""The gene-drug cards, and beside each the patient with one fact changed who gets none."""

from __future__ import annotations

import pytest
from genetics import chart, drug_order, gene
from prescribing import CAPECITABINE, CLOPIDOGREL, POOR, STENT, WEIGHT, actions, card_of, cards, labels, rxcuis
from vignettes import LOINC, Chart, Resource, concept, condition, imaging_order, medication, patient

from cds_service.evidence import Shortfall


def test_the_consequence_comes_before_the_action_and_the_alternative_is_on_the_card() -> None:
    card = card_of(chart(POOR, STENT, drafts=(CLOPIDOGREL,)))
    assert card.indicator == "critical"
    assert card.summary == "CYP2C19 poor metabolizer: clopidogrel will not be activated; use ticagrelor."
    assert labels(card)[0] == "Replace clopidogrel with ticagrelor"
    remove, create = actions(card, "Replace clopidogrel with ticagrelor")
    assert remove == {"type": "delete", "description": remove["description"], "resourceId": "MedicationRequest/m1"}
    drug = create["resource"]
    assert drug["medicationCodeableConcept"]["coding"][0]["code"] == "1116632"
    assert drug["status"] == "draft"
    assert drug["subject"] == {"reference": "Patient/p1"}
    assert "id" not in drug
    assert card.source.url == "https://pubmed.ncbi.nlm.nih.gov/35034351/"
    assert [r.display for r in card.override_reasons][:2] == ["Tolerated before at this dose", "Specialist decision"]


def test_the_new_draft_keeps_the_reason_and_the_priority_of_the_one_it_replaces() -> None:
    reason = [{"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "I21.4"}]}]
    given = drug_order("32968", "clopidogrel", priority="urgent", reasonCode=reason)
    card = card_of(chart(POOR, STENT, drafts=(given,)))
    drug = actions(card, "Replace clopidogrel with ticagrelor")[1]["resource"]
    assert (drug["priority"], drug["reasonCode"]) == ("urgent", reason)


@pytest.mark.parametrize(
    "given",
    [
        chart(STENT, drafts=(CLOPIDOGREL,)),
        chart(gene("CYP2C19", genotype="*1/*1"), STENT, drafts=(CLOPIDOGREL,)),
        chart(gene("CYP2C19", phenotype="Indeterminate"), STENT, drafts=(CLOPIDOGREL,)),
        chart(gene("CYP2C19", genotype="*2/*2", origin="somatic"), STENT, drafts=(CLOPIDOGREL,)),
        chart({**POOR, "status": "preliminary"}, STENT, drafts=(CLOPIDOGREL,)),
        chart({**POOR, "subject": {"reference": "Patient/other"}}, STENT, drafts=(CLOPIDOGREL,)),
        chart(POOR, STENT, drafts=(drug_order("1116632", "ticagrelor"),)),
        chart(POOR, STENT, drafts=()),
        chart(POOR, STENT, drafts=(CLOPIDOGREL,), user="Patient/p1"),
        chart(POOR, STENT, drafts=(CLOPIDOGREL,), who=patient("male", "1976-03-01", deceasedBoolean=True)),
        chart(POOR, STENT, condition("r", "Z00.6"), drafts=(CLOPIDOGREL,)),  # in a trial: its protocol decides
        chart(POOR, STENT, drafts=(CLOPIDOGREL,), hook="order-select", selections=("MedicationRequest/other",)),
    ],
)
def test_the_same_patient_with_one_fact_changed_gets_no_card(given: Chart) -> None:
    assert cards(given) == []


def implied(origin: str) -> tuple[Resource, ...]:
    """What HL7's guide makes of one result: its source stands with the variant, its gene with the genotype."""
    variant = gene("CYP2C19", origin=origin, id_="v1") | {"code": concept(LOINC, "69548-6")}
    genotype = gene("CYP2C19", genotype="*2/*2", origin="", id_="gt", derivedFrom=[{"reference": "Observation/v1"}])
    said = "http://hl7.org/fhir/uv/genomics-reporting/CodeSystem/tbd-codes-cs"
    effect = {"code": concept(said, "therapeutic-implication"), "derivedFrom": [{"reference": "Observation/gt"}]}
    poor = {"code": concept(LOINC, "53040-2"), "valueCodeableConcept": concept(LOINC, "LA9657-3")}
    return variant, genotype, {**genotype, "id": "i1", **effect, "component": [poor], "valueCodeableConcept": None}


@pytest.mark.parametrize(("origin", "tiers"), [("germline", ["critical"]), ("somatic", []), ("", ["info"])])
def test_a_result_told_by_an_implication_is_as_germline_as_the_variant_behind_it(origin: str, tiers: list[str]) -> None:
    found = cards(chart(*implied(origin), STENT, drafts=(CLOPIDOGREL,)))
    assert [card.indicator for card in found] == tiers


@pytest.mark.parametrize(("rxcui", "name"), [("283821", "rasburicase"), ("1011650", "pegloticase")])
def test_what_makes_the_risk_higher_is_named_where_a_card_rests_on_it_and_nobody_reads_it(
    rxcui: str, name: str
) -> None:
    card = card_of(chart(drafts=(drug_order(rxcui, name),)))
    assert card.indicator == "warning"
    assert "where risk is higher" in card.summary
    assert "ancestry is not read here" in (card.detail or "")
    assert not any(s.is_recommended for s in card.suggestions)


def test_an_earlier_stroke_takes_prasugrel_off_the_card_and_says_why() -> None:
    stroke = condition("s", "I63.9", "inactive", onsetDateTime="2019-01-01")
    card = card_of(chart(POOR, STENT, stroke, WEIGHT, drafts=(CLOPIDOGREL,)))
    assert rxcuis(card) == {"1116632"}
    assert "Prasugrel is not offered: earlier stroke or TIA." in (card.detail or "")
    without = card_of(chart(POOR, STENT, WEIGHT, drafts=(CLOPIDOGREL,)))
    assert rxcuis(without) == {"613391", "1116632"}
    assert without.selection_behavior == "at-most-one"


def test_when_no_alternative_is_safe_the_draft_may_still_be_removed() -> None:
    bleed = condition("b", "I61.9", "inactive")
    card = card_of(chart(POOR, STENT, bleed, drafts=(CLOPIDOGREL,)))
    assert labels(card) == ["Remove clopidogrel"]
    assert card.summary.endswith("use another antiplatelet drug.")


def test_a_draft_without_an_id_cannot_be_deleted_so_nothing_is_offered() -> None:
    nameless = {k: v for k, v in CLOPIDOGREL.items() if k != "id"}
    assert card_of(chart(POOR, STENT, drafts=(nameless,))).suggestions == ()


def test_something_is_recommended_only_when_it_is_strong_firm_and_wholly_checked() -> None:
    def recommended(given: Chart) -> list[str]:
        return [s.label for s in card_of(given).suggestions if s.is_recommended]

    assert recommended(chart(POOR, STENT, drafts=(CLOPIDOGREL,))) == ["Replace clopidogrel with ticagrelor"]
    assert recommended(chart(POOR, drafts=(CLOPIDOGREL,))) == []  # moderate, population open
    older = gene("CYP2C19", genotype="*1/*1", at="2019-01-01")
    assert recommended(chart(POOR, older, STENT, drafts=(CLOPIDOGREL,))) == []
    short = (Shortfall("allergies", "timeout"),)
    given = chart(POOR, STENT, drafts=(CLOPIDOGREL,), shortfalls=short)
    assert recommended(given) == []
    assert "allergies (did not arrive in time)" in (card_of(given).detail or "")


def test_two_reports_that_differ_are_both_shown() -> None:
    older = gene("CYP2C19", genotype="*1/*1", at="2019-01-01")
    card = card_of(chart(POOR, older, STENT, drafts=(CLOPIDOGREL,)))
    assert card.indicator == "warning"
    assert "2024-08-01" in (card.detail or "")
    assert "2019-01-01" in (card.detail or "")
    assert "Reports of CYP2C19 differ: both are shown." in (card.detail or "")


def test_a_genotype_against_a_reported_phenotype_informs_and_shows_both() -> None:
    given = gene("CYP2C19", genotype="*2/*2", phenotype="Normal Metabolizer")
    card = card_of(chart(given, STENT, drafts=(CLOPIDOGREL,)))
    assert card.indicator == "info"
    assert "Normal Metabolizer" in (card.detail or "")


def test_a_transplant_makes_the_result_informative_only_and_says_why() -> None:
    card = card_of(chart(POOR, STENT, condition("t", "Z94.4"), drafts=(CLOPIDOGREL,)))
    assert card.indicator == "info"
    assert "transplant" in (card.detail or "")


def test_half_the_dose_is_offered_as_the_whole_draft_with_its_dose_halved() -> None:
    card = card_of(chart(gene("DPYD", score=1.0), drafts=(CAPECITABINE,)))
    assert card.indicator == "critical"
    assert card.summary.startswith("DPYD activity score 1.0: capecitabine is cleared slowly")
    (label,) = labels(card)
    assert label == "Start capecitabine at 50%: 900 mg instead of 1800 mg"
    (update,) = actions(card, label)
    assert update["type"] == "update"
    resource = update["resource"]
    assert resource["id"] == "m1"
    dosage = resource["dosageInstruction"][0]
    assert dosage["doseAndRate"][0]["doseQuantity"] == {"value": 900.0, "unit": "mg"}
    assert dosage["timing"] == CAPECITABINE["dosageInstruction"][0]["timing"]
    assert "1800 mg twice daily" not in dosage["text"]
    assert CAPECITABINE["dosageInstruction"][0]["doseAndRate"][0]["doseQuantity"]["value"] == 1800


def test_without_a_dose_in_numbers_half_of_it_is_said_and_not_offered() -> None:
    card = card_of(chart(gene("DPYD", score=1.0), drafts=(drug_order("194000", "capecitabine"),)))
    assert card.suggestions == ()
    assert "50%" in card.summary


def test_a_phenotype_that_leaves_the_score_open_warns_by_the_milder_row_and_says_what_is_open() -> None:
    card = card_of(chart(gene("DPYD", phenotype="Intermediate Metabolizer"), drafts=(CAPECITABINE,)))
    assert card.indicator == "warning"
    assert "Rule PGX-024 v1" in (card.detail or "")
    assert "activity score 1 or 1.5" in (card.detail or "")
    assert "Not known: the exact activity score of DPYD" in (card.detail or "")
    assert "exact" not in (card_of(chart(gene("DPYD", score=1.5), drafts=(CAPECITABINE,))).detail or "")


def test_an_untested_gene_gets_the_test_offered_and_a_pending_one_does_not() -> None:
    card = card_of(chart(drafts=(CAPECITABINE,)))
    assert card.indicator == "warning"
    assert card.summary.startswith("DPYD not tested: capecitabine can be fatal")
    (create,) = actions(card, "Order DPYD genotype with metabolic activity")
    assert create["resource"]["code"]["coding"][0] == {
        "system": "http://loinc.org",
        "code": "79719-1",
        "display": "DPYD genotype with metabolic activity",
    }
    pending = imaging_order("l1", "79719-1", "DPYD", status="active")
    waiting = card_of(chart(pending, drafts=(CAPECITABINE,)))
    assert (waiting.indicator, waiting.suggestions) == ("info", ())
    assert "The test is ordered already." in (waiting.detail or "")


@pytest.mark.parametrize(
    "given",
    [
        chart(gene("DPYD", score=2.0), drafts=(CAPECITABINE,)),
        chart(drafts=({**CAPECITABINE, "priority": "stat"},)),  # treatment that cannot wait for a test
        chart(drafts=(CAPECITABINE,), shortfalls=(Shortfall("genes", "timeout"),)),  # nobody could ask
        chart(medication("old", "194000", "capecitabine"), drafts=(CAPECITABINE,)),
        chart(
            drafts=(drug_order("4492", "fluorouracil 5% cream", dosageInstruction=[{"route": {"text": "topical"}}]),)
        ),
    ],
)
def test_no_test_is_asked_for_when_it_changes_nothing(given: Chart) -> None:
    assert cards(given) == []


def test_a_statin_in_palliative_care_is_nobodys_business() -> None:
    slow, simvastatin = gene("SLCO1B1", genotype="*1/*5"), drug_order("36567", "simvastatin 40 mg nightly")
    assert cards(chart(slow, drafts=(simvastatin,)))
    assert cards(chart(slow, condition("p", "Z51.5"), drafts=(simvastatin,))) == []


def test_the_cap_of_tacrolimus_is_given_in_milligrams_where_the_weight_is_known() -> None:
    expresser, tacrolimus = gene("CYP3A5", genotype="*1/*1"), drug_order("42316", "tacrolimus")
    known = card_of(chart(expresser, WEIGHT, drafts=(tacrolimus,)))
    assert "At 80 kg that is at most 24 mg a day." in (known.detail or "")  # 0.3 mg/kg x 80 kg
    unknown = card_of(chart(expresser, drafts=(tacrolimus,)))
    assert "mg a day" not in (unknown.detail or "")
    assert "Not known: body weight" in (unknown.detail or "")


def test_warfarin_has_a_link_to_the_algorithm() -> None:
    genes = (gene("CYP2C9", genotype="*3/*3"), gene("VKORC1", genotype="-1639 AA"))
    card = card_of(chart(*genes, drafts=(drug_order("11289", "warfarin 5 mg daily"),)))
    assert "https://www.warfarindosing.org/" in [link.url for link in card.links]


def test_allopurinol_shows_the_guideline_and_the_softer_label() -> None:
    card = card_of(chart(gene("HLA-B", genotype="*58:01 positive"), drafts=(drug_order("519", "allopurinol"),)))
    assert "do not use" in (card.detail or "")
    assert "The US label is softer" in (card.detail or "")


def test_a_reported_phenotype_against_a_normal_genotype_is_shown_and_nothing_is_changed_for_it() -> None:
    given = gene("CYP2C19", genotype="*1/*1", phenotype="Poor Metabolizer")
    card = card_of(chart(given, STENT, drafts=(CLOPIDOGREL,)))
    assert card.indicator == "info"
    assert card.summary == ("CYP2C19 genotype and reported phenotype disagree: clarify before relying on clopidogrel.")
    assert card.suggestions == ()
    assert "Poor Metabolizer" in (card.detail or "")
    agreed = gene("CYP2C19", genotype="*1/*1", phenotype="Normal Metabolizer")
    assert cards(chart(agreed, STENT, drafts=(CLOPIDOGREL,))) == []
    untouched = drug_order("301542", "rosuvastatin")
    assert cards(chart(given, drafts=(untouched,))) == []
