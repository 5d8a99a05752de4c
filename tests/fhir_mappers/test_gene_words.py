"""What laboratories write about genes: a whole answer in a known vocabulary is read, anything else is no answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.gene_words import activity_score, diplotype, hla_answer, phenotype
from fhir_mappers.read import read_record
from fhir_mappers.record import GeneResult

AS_OF = datetime(2026, 3, 10, 14, tzinfo=UTC)
LOINC = "http://loinc.org"


@pytest.mark.parametrize(
    ("gene", "text", "term"),
    [
        ("CYP2C19", "Poor Metabolizer", "Poor Metabolizer"),
        ("CYP2C19", "CYP2C19 poor metaboliser", "Poor Metabolizer"),
        ("CYP2C19", "Likely Intermediate Metabolizer", "Likely Intermediate Metabolizer"),
        ("CYP2D6", "extensive metabolizer", "Normal Metabolizer"),
        ("SLCO1B1", "Decreased Function", "Decreased Function"),
        ("SLCO1B1", "possible decreased function", "Possible Decreased Function"),
        ("G6PD", "Deficient", "Deficient"),
        ("MT-RNR1", "increased risk of aminoglycoside-induced hearing loss", "increased risk"),
        ("RYR1", "Malignant Hyperthermia Susceptibility", "Malignant Hyperthermia Susceptible"),
        ("TPMT", "Indeterminate", "Indeterminate"),
    ],
)
def test_a_term_of_cpic_is_read_whatever_its_spelling(gene: str, text: str, term: str) -> None:
    assert phenotype(gene, text) == term


@pytest.mark.parametrize(
    ("gene", "text"),
    [
        ("CYP2C19", "not a poor metabolizer"),
        ("CYP2C19", "Poor metabolizer cannot be excluded"),
        ("CYP2C19", "normal"),
        ("CYP2C19", "deficient"),
        ("G6PD", "Poor Metabolizer"),
        ("CYP2C19", ""),
        ("CYP2C19", "CYP2D6 poor metabolizer"),
    ],
)
def test_a_term_among_other_words_is_no_answer(gene: str, text: str) -> None:
    assert phenotype(gene, text) == ""


@pytest.mark.parametrize(
    ("gene", "text", "alleles"),
    [
        ("CYP2D6", "CYP2D6 *1/*41", "*1/*41"),
        ("CYP2D6", "*1/*1x2", "*1/*1x2"),
        ("DPYD", "Reference/c.1905+1G>A (*2A)", "Reference/*2A"),
        ("DPYD", "c.2846A>T/c.1129-5923C>G, c.1236G>A (HapB3)", "c.2846A>T/HapB3"),
        ("HLA-B", "HLA-B*57:01/HLA-B*08:01", "*57:01/*08:01"),
        ("HLA-B", "*57:01:01/*08:01:01", "*57:01/*08:01"),
        ("VKORC1", "-1639 A/G", "-1639 GA"),
        ("VKORC1", "-1639 GG", "-1639 GG"),
        ("MT-RNR1", "NC_012920.1:m.1555A>G", "m.1555A>G"),
        ("CYP2C19", "*2/*2 (by sequencing)", ""),
        ("HLA-B", "*57/*08", ""),
        ("CYP2C19", "see report", ""),
        ("CYP2C19", "*2/*2/*2", ""),
    ],
)
def test_two_alleles_are_read_in_every_usual_writing(gene: str, text: str, alleles: str) -> None:
    assert diplotype(gene, text) == alleles


def test_one_allele_of_an_hla_gene_may_be_reported_by_itself() -> None:
    assert hla_answer("HLA-B", "*58:01 positive") == ("HLA-B*58:01", "positive")
    assert hla_answer("HLA-A", "HLA-A*31:01 not detected") == ("HLA-A*31:01", "negative")
    assert hla_answer("HLA-B", "*58 positive") == ("", "")
    assert hla_answer("CYP2C19", "*58:01 positive") == ("", "")


def test_an_activity_score_is_a_number_with_its_name() -> None:
    assert activity_score("DPYD", "DPYD activity score 1.0") == "1.0"
    assert activity_score("CYP2D6", "Activity score: ≥3.0") == "3.0"
    assert activity_score("DPYD", "activity score 0.5") == "0.5"
    assert activity_score("DPYD", "1.0") == ""
    assert activity_score("DPYD", "activity score about 1") == ""


# --- through the reader ----------------------------------------------------------------------------------------------


def concept(code: str, system: str = LOINC) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def read(code: str, gene: str = "", **more: Any) -> tuple[tuple[GeneResult, ...], set[tuple[str, str]]]:
    parts = [{"code": concept("48018-6"), "valueCodeableConcept": {"text": gene}}] if gene else []
    parts += more.pop("component", [])
    resource = {
        "resourceType": "Observation",
        "id": "g1",
        "status": "final",
        "code": concept(code),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-01-01",
        "component": parts,
        **more,
    }
    record = read_record([resource], as_of=AS_OF, patient_id="p1")
    return record.genes, {(g.code, g.subject) for g in record.gaps if g.code != "no-patient"}


def test_a_genotype_its_phenotype_in_words_and_its_score_are_three_results() -> None:
    score = {"code": {"text": "Activity score"}, "valueQuantity": {"value": 1.0}}
    words = {"code": concept("53040-2"), "valueCodeableConcept": {"text": "DPYD Intermediate Metabolizer"}}
    found, _ = read("84413-4", "DPYD", valueString="Reference/*2A", component=[score, words])
    assert [(g.kind, g.value) for g in found] == [
        ("genotype", "Reference/*2A"),
        ("phenotype", "Intermediate Metabolizer"),
        ("activity", "1.0"),
    ]


def test_a_transporter_phenotype_is_read_from_the_interpretation() -> None:
    found, _ = read(
        "84413-4", "SLCO1B1", valueCodeableConcept={"text": "*1/*5"}, interpretation=[{"text": "Decreased Function"}]
    )
    assert [(g.kind, g.value) for g in found] == [("genotype", "*1/*5"), ("phenotype", "Decreased Function")]


def test_an_hla_screen_may_answer_in_one_word_and_not_in_a_sentence() -> None:
    found, _ = read("50956-2", valueString="Negative")
    assert [(g.gene, g.value) for g in found] == [("HLA-B*57:01", "negative")]
    found, gaps = read("50956-2", valueString="not negative")
    assert not found
    assert gaps == {("no-value", "genomics HLA-B*57:01")}


def test_an_unreadable_result_is_named_with_its_gene_so_that_it_is_not_taken_for_untested() -> None:
    assert read("84413-4", "DPYD", valueString="see attachment")[1] == {("no-value", "genomics DPYD")}
    assert read("79719-1", valueString="pending")[1] == {("no-value", "genomics DPYD")}


def test_a_phenotype_code_beats_the_words_beside_it_and_two_codes_say_nothing() -> None:
    two = {"coding": [{"system": LOINC, "code": c} for c in ("LA9657-3", "LA25391-6")], "text": "Poor Metabolizer"}
    assert read("79714-2", valueCodeableConcept=two) == ((), {("no-value", "genomics CYP2C19")})
    one = {"coding": [{"system": LOINC, "code": "LA9657-3"}], "text": "Normal Metabolizer"}
    assert [g.value for g in read("79714-2", valueCodeableConcept=one)[0]] == ["Poor Metabolizer"]


def test_the_source_class_may_be_one_word_where_it_has_no_code() -> None:
    def origin(**answer: Any) -> str:
        source = {"code": concept("48002-0"), "valueCodeableConcept": answer}
        return read("84413-4", "CYP2C19", valueString="*2/*2", component=[source])[0][0].origin

    assert origin(text="Germline") == "germline"
    assert origin(text="somatic") == "somatic"
    assert origin(text="not germline") == "unknown"
    assert origin(**concept("LA6684-0"), text="germline") == "somatic"
    assert origin(**concept("LA0-0"), text="germline") == "unknown"
