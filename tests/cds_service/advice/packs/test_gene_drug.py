"""The gene-drug engine: exact key and population, the mildest row where something is open, silence otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from genetics import ADULT, chart, drug_order, gene
from vignettes import Resource, condition, medication, observation, patient

from cds_service.advice.packs.gene_drug import GeneQuestion, Match, gene_match, lowered
from cds_service.advice.packs.populations import POPULATIONS
from fhir_mappers.pgx import pgx_rows

CLOPIDOGREL = drug_order("32968", "clopidogrel 75 mg daily")
POOR = gene("CYP2C19", genotype="*2/*2")
INTERMEDIATE = gene("CYP2C19", genotype="*1/*2")


def match(*resources: Resource, draft: Resource, who: Resource = ADULT, **more: Any) -> Match | None:
    record = chart(*resources, drafts=(draft,), who=who).record("precision-prescribing")
    (order,) = record.drafts()
    return gene_match(GeneQuestion(record, order, draft["medicationCodeableConcept"]["coding"][0]["code"], **more))


def row(*resources: Resource, draft: Resource, **more: Any) -> str:
    found = match(*resources, draft=draft, **more)
    return found.row.row_id if found else ""


def test_every_population_of_the_table_has_a_function() -> None:
    assert {r.population for r in pgx_rows()} == set(POPULATIONS)


def test_clopidogrel_is_judged_by_what_it_is_given_for() -> None:
    stent = condition("c", "Z95.5")
    stroke = condition("s", "I63.9", "inactive", onsetDateTime="2019-01-01")
    assert row(POOR, stent, draft=CLOPIDOGREL) == "PGX-010"
    assert row(POOR, condition("c", "I21.4"), draft=CLOPIDOGREL) == "PGX-010"
    assert row(POOR, stroke, draft=CLOPIDOGREL) == "PGX-012"
    assert row(POOR, stent, stroke, draft=CLOPIDOGREL) == "PGX-010"
    assert row(INTERMEDIATE, stent, draft=CLOPIDOGREL) == "PGX-004"
    assert row(INTERMEDIATE, stroke, draft=CLOPIDOGREL) == "PGX-005"


def test_without_evidence_of_the_population_the_mildest_row_counts() -> None:
    found = match(POOR, draft=CLOPIDOGREL)
    assert found is not None
    assert (found.indicator, found.population_open) == ("warning", True)
    assert row(INTERMEDIATE, draft=CLOPIDOGREL) == ""  # the mildest row is no recommendation


def test_an_old_infarction_that_is_no_longer_active_is_no_evidence() -> None:
    assert row(POOR, condition("c", "I21.4", "inactive"), draft=CLOPIDOGREL) != "PGX-010"


def procedure(at: str) -> Resource:
    code = {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "Z95.5"}]}
    return {
        "resourceType": "Procedure",
        "id": "p",
        "status": "completed",
        "code": code,
        "subject": {"reference": "Patient/p1"},
        "performedDateTime": at,
    }


def test_a_stent_procedure_counts_for_a_year() -> None:
    assert row(POOR, procedure("2025-09-01"), draft=CLOPIDOGREL) == "PGX-010"
    assert row(POOR, procedure("2024-09-01"), draft=CLOPIDOGREL) != "PGX-010"


def test_indeterminate_and_unlisted_results_are_silent() -> None:
    assert row(gene("CYP2C19", phenotype="Indeterminate"), condition("c", "Z95.5"), draft=CLOPIDOGREL) == ""
    assert row(gene("CYP2C19", genotype="*2/*35"), condition("c", "Z95.5"), draft=CLOPIDOGREL) == ""
    assert row(condition("c", "Z95.5"), draft=CLOPIDOGREL) == ""


CAPECITABINE = drug_order("194000", "capecitabine")


def test_a_phenotype_with_two_possible_scores_gives_the_milder_of_their_rows() -> None:
    assert row(gene("DPYD", phenotype="Intermediate Metabolizer"), draft=CAPECITABINE) == "PGX-024"
    assert row(gene("DPYD", score=1.0), draft=CAPECITABINE) == "PGX-025"
    phenytoin = drug_order("8183", "phenytoin")
    assert row(gene("CYP2C9", phenotype="Intermediate Metabolizer"), draft=phenytoin) == ""  # 1.5 is silent
    assert row(gene("CYP2C9", score=1.0), draft=phenytoin) == "PGX-104"


def test_a_score_between_the_rows_is_silent() -> None:
    assert row(gene("DPYD", score=1.75), draft=CAPECITABINE) == ""


def test_untested_means_asked_and_none_and_not_unreadable() -> None:
    assert row(draft=CAPECITABINE) == "PGX-028"
    assert row(draft=CAPECITABINE, asked=False) == ""
    assert row(gene("DPYD", genotype="see attachment"), draft=CAPECITABINE) == ""
    assert row(gene("EGFR", genotype="see attachment"), draft=CAPECITABINE) == "PGX-028"
    assert row(gene("DPYD", score=1.0, origin="somatic"), draft=CAPECITABINE) == "PGX-028"


def test_a_test_before_the_first_dose_is_not_asked_for_once_the_drug_was_given() -> None:
    given = medication("old", "194000", "capecitabine", authoredOn="2026-01-10")
    assert row(given, draft=CAPECITABINE) == ""
    assert row(draft=CAPECITABINE, refill=True) == ""
    abacavir = drug_order("190521", "abacavir 600 mg daily")
    assert row(draft=abacavir) == "PGX-031"
    assert row(medication("old", "190521", "abacavir", "completed"), draft=abacavir) == ""
    assert row(gene("HLA-B", genotype="*57:01/*08:01"), draft=abacavir) == "PGX-029"
    assert row(gene("HLA-B", genotype="*07:02/*08:01"), draft=abacavir) == ""


def test_a_drug_tolerated_for_three_months_is_silent_and_one_begun_lately_is_not() -> None:
    positive = gene("HLA-B", genotype="*15:02 positive")
    carbamazepine = drug_order("2002", "carbamazepine")
    assert row(positive, draft=carbamazepine) == "PGX-099"
    long = medication("old", "2002", "carbamazepine", authoredOn="2025-06-01")
    assert row(positive, long, draft=carbamazepine) == ""
    new = medication("old", "2002", "carbamazepine", authoredOn="2026-02-20")
    assert row(positive, new, draft=carbamazepine) == "PGX-099"


def test_the_hla_row_of_phenytoin_keeps_the_dose_row_out() -> None:
    positive, slow = gene("HLA-B", genotype="*15:02 positive"), gene("CYP2C9", score=0.0)
    phenytoin = drug_order("8183", "phenytoin")
    assert row(positive, slow, draft=phenytoin) == "PGX-103"
    assert row(slow, draft=phenytoin) == "PGX-105"
    # not naive any more: the contraindication is for the naive, and the dose row is not for carriers
    assert row(positive, slow, medication("old", "8183", "phenytoin"), draft=phenytoin) == ""


BOTH = (gene("TPMT", phenotype="Poor Metabolizer"), gene("NUDT15", phenotype="Normal Metabolizer"))
MERCAPTOPURINE = drug_order("103", "mercaptopurine")


def test_a_thiopurine_is_judged_by_its_indication() -> None:
    leukaemia, crohn = condition("c", "C91.00"), condition("d", "K50.90")
    assert row(*BOTH, leukaemia, draft=MERCAPTOPURINE) == "PGX-065"
    assert row(*BOTH, crohn, draft=MERCAPTOPURINE) == "PGX-066"
    assert row(*BOTH, draft=MERCAPTOPURINE) == "PGX-065"  # of two critical rows the milder action
    reason = {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "K50.90"}]}
    stated = {**MERCAPTOPURINE, "reasonCode": [reason]}
    assert row(*BOTH, leukaemia, draft=stated) == "PGX-066"


def test_one_gene_of_a_thiopurine_is_never_enough() -> None:
    assert row(BOTH[0], draft=MERCAPTOPURINE) == ""
    azathioprine = drug_order("1256", "azathioprine 50 mg daily")
    assert row(gene("TPMT", phenotype="Intermediate Metabolizer"), draft=azathioprine) == ""
    assert row(draft=azathioprine) == "PGX-085"
    assert row(gene("NUDT15", phenotype="Normal Metabolizer"), draft=azathioprine) == ""


def test_warfarin_is_judged_at_its_start_only_and_in_adults() -> None:
    genes = (gene("CYP2C9", genotype="*3/*3"), gene("VKORC1", genotype="-1639 AA"))
    warfarin = drug_order("11289", "warfarin 5 mg daily")
    assert row(*genes, draft=warfarin) == "PGX-088"
    assert row(*genes, medication("old", "11289", "warfarin"), draft=warfarin) == ""
    assert row(*genes, draft=warfarin, refill=True) == ""
    assert row(*genes, draft=warfarin, who=patient("male", "2012-01-01")) == ""
    assert row(*genes, draft=warfarin, who=patient("male", "2008")) == ""  # 17 or 18: it must hold for both


CODEINE = drug_order("2670", "codeine 30 mg daily")
PAROXETINE = medication("a", "32937", "paroxetine 20 mg daily")


def test_a_blocked_enzyme_has_no_activity_whatever_its_genes_and_only_for_opioids() -> None:
    assert row(PAROXETINE, draft=CODEINE) == "PGX-097"
    assert row(PAROXETINE, gene("CYP2D6", score=3.0), draft=CODEINE) == "PGX-097"
    assert row(PAROXETINE, gene("CYP2D6", score=2.0), draft=CODEINE) == "PGX-097"
    assert row(PAROXETINE, gene("CYP2D6", score=0.0), draft=CODEINE) == "PGX-090"
    assert row(gene("CYP2D6", score=2.0), draft=CODEINE) == ""
    assert row(medication("a", "36437", "sertraline"), gene("CYP2D6", score=2.0), draft=CODEINE) == ""
    ondansetron = drug_order("26225", "ondansetron 4 mg daily")
    assert row(PAROXETINE, gene("CYP2D6", score=3.0), draft=ondansetron) == "PGX-154"


def test_tricyclics_are_judged_for_depression_and_not_for_pain() -> None:
    slow, amitriptyline = gene("CYP2D6", score=0.0), drug_order("704", "amitriptyline")
    depression, pain = condition("c", "F32.9"), condition("d", "G89.29")
    assert row(slow, depression, draft=amitriptyline) == "PGX-165"
    assert row(slow, depression, pain, draft=amitriptyline) == ""
    assert row(slow, draft=amitriptyline) == ""


def test_a_result_that_two_reports_dispute_speaks_one_tier_lower() -> None:
    older = gene("CYP2C19", genotype="*1/*1", at="2019-01-01")
    found = match(POOR, older, condition("c", "Z95.5"), draft=CLOPIDOGREL)
    assert found is not None
    assert (found.row.row_id, found.indicator, found.firm) == ("PGX-010", "warning", False)


def test_a_row_switched_off_by_the_site_is_silent() -> None:
    assert row(draft=CAPECITABINE, skipped=frozenset({"PGX-028"})) == ""


def test_statins_are_silent_under_the_dose_of_their_row() -> None:
    slow = gene("SLCO1B1", genotype="*1/*5")
    assert row(slow, draft=drug_order("36567", "simvastatin 40 mg nightly")) == "PGX-033"
    assert row(slow, draft=drug_order("36567", "simvastatin 20 mg nightly")) == "PGX-033"
    assert row(slow, draft=drug_order("36567", "simvastatin 10 mg nightly")) == ""
    assert row(slow, draft=drug_order("83367", "atorvastatin 40 mg nightly")) == ""
    assert row(slow, draft=drug_order("83367", "atorvastatin 80 mg nightly")) == "PGX-035"
    assert row(slow, draft=drug_order("83367", "atorvastatin 80 mg nightly"), dosed=False) == ""


@pytest.mark.parametrize(
    ("tier", "by_one", "cap", "lower"),
    [
        ("critical", True, False, "warning"),
        ("warning", True, False, "info"),
        ("info", True, False, "info"),
        ("critical", False, True, "info"),
        ("critical", False, False, "critical"),
    ],
)
def test_lowering_never_goes_below_info(tier: Any, by_one: bool, cap: bool, lower: str) -> None:
    assert lowered(tier, by_one=by_one, cap=cap) == lower


def test_efavirenz_is_judged_in_adults_and_in_children_over_40_kg() -> None:
    slow, efavirenz = gene("CYP2B6", phenotype="Poor Metabolizer"), drug_order("195085", "efavirenz 600 mg daily")
    child = patient("male", "2016-01-01")

    def weighs(kg: float) -> Resource:
        return observation("w", "29463-7", kg, "kg", "2026-03-09T08:00:00Z")

    assert row(slow, draft=efavirenz) == "PGX-156"
    assert row(slow, weighs(41), draft=efavirenz, who=child) == "PGX-156"
    assert row(slow, weighs(40), draft=efavirenz, who=child) == ""
    assert row(slow, draft=efavirenz, who=child) == ""


def test_the_reason_of_the_order_counts_before_the_problem_list() -> None:
    def for_reason(rxcui: str, name: str, icd10: str) -> Resource:
        code = {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": icd10}]}
        return drug_order(rxcui, name, reasonCode=[code])

    slow = gene("CYP2D6", score=0.0)
    assert row(slow, draft=for_reason("10324", "tamoxifen", "C50.911")) == "PGX-153"
    assert row(slow, condition("c", "C50.911"), condition("m", "C79.51"), draft=drug_order("10324", "tamoxifen")) == ""
    assert row(slow, draft=for_reason("704", "amitriptyline", "F32.9")) == "PGX-165"
    assert row(slow, condition("c", "F32.9"), draft=for_reason("704", "amitriptyline", "G89.29")) == ""


def test_a_dose_by_surface_cannot_be_judged_without_height_or_weight() -> None:
    slow = (gene("TPMT", phenotype="Intermediate Metabolizer"), gene("NUDT15", phenotype="Normal Metabolizer"))
    leukaemia = condition("c", "C91.00")
    small = drug_order("103", "mercaptopurine 25 mg daily")
    height = observation("h", "8302-2", 170, "cm", "2026-03-09T08:00:00Z")
    weight = observation("w", "29463-7", 70, "kg", "2026-03-09T08:00:00Z")
    assert row(*slow, leukaemia, height, weight, draft=small) == ""
    assert row(*slow, leukaemia, weight, draft=small) == "PGX-053"
    assert row(*slow, leukaemia, draft=small) == "PGX-053"


def test_an_inhibitor_may_be_known_by_its_atc_code_alone() -> None:
    bupropion = medication("a", "0", "bupropion")
    bupropion["medicationCodeableConcept"]["coding"] = [{"system": "http://www.whocc.no/atc", "code": "N06AX12"}]
    assert row(bupropion, draft=CODEINE) == "PGX-097"
