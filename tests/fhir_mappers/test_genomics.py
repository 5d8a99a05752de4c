"""Genomic results: what is said is read, what is not said stays unknown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from gene_observations import GERMLINE, HGNC, LOINC, SOMATIC, concept, observation, part

from fhir_mappers.fhir import codes_of
from fhir_mappers.genomics import is_genomic, normal_protein, read_genes
from fhir_mappers.read import read_record
from fhir_mappers.record import Gap, GeneResult

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)


def results(resource: dict[str, Any]) -> list[GeneResult]:
    assert is_genomic(codes_of(resource["code"]))
    items = list(read_genes(resource, AS_OF))
    assert all(isinstance(i, GeneResult) for i in items), items
    return [i for i in items if isinstance(i, GeneResult)]


def gap(resource: dict[str, Any]) -> str:
    (item,) = read_genes(resource, AS_OF)
    assert isinstance(item, Gap)
    return item.code


EGFR = part("48018-6", (HGNC, "HGNC:3236"))
CYP2C19 = part("48018-6", (HGNC, "HGNC:2621"))


def test_a_somatic_variant_is_read_with_its_protein_change_fraction_and_significance() -> None:
    (variant,) = results(
        observation(
            "69548-6",
            EGFR,
            part("48005-3", ("http://varnomen.hgvs.org", "p.L858R")),
            part("48004-6", ("http://varnomen.hgvs.org", "NM_005228.5:c.2573T>G")),
            part("81258-6", valueQuantity={"value": 31, "unit": "%", "code": "%"}),
            part("53037-8", (LOINC, "LA6668-3")),
            part("48002-0", SOMATIC),
            answer=(LOINC, "LA9633-4"),
        )
    )
    assert (variant.gene, variant.kind, variant.value, variant.origin) == ("EGFR", "variant", "p.Leu858Arg", "somatic")
    assert (variant.allele_fraction, variant.significance) == (0.31, "pathogenic")
    assert variant.concepts == {"EGFR:p.Leu858Arg"}
    assert variant.at is not None
    assert variant.at.date().isoformat() == "2026-03-02"


def test_a_variant_without_a_protein_change_has_its_coding_change_and_no_concept() -> None:
    (variant,) = results(observation("69548-6", EGFR, part("48004-6", valueString="c.2573T>G")))
    assert (variant.value, variant.concepts, variant.origin) == ("c.2573T>G", frozenset(), "unknown")


def test_an_absent_variant_speaks_only_of_the_region_and_is_no_result() -> None:
    resource = observation("69548-6", EGFR, part("48005-3", ("", "p.L858R")), answer=(LOINC, "LA9634-2"))
    assert gap(resource) == "no-value"


def test_a_variant_of_no_named_gene_is_no_result() -> None:
    assert gap(observation("69548-6", part("48005-3", ("", "p.L858R")))) == "no-value"


@pytest.mark.parametrize(
    ("unit", "value", "fraction"), [("1", 0.31, 0.31), ("%", 31, 0.31), ("%", 310, None), ("mg", 0.3, None)]
)
def test_an_allele_fraction_is_between_nought_and_one_or_not_said(
    unit: str, value: float, fraction: float | None
) -> None:
    quantity = {"value": value, "code": unit}
    (variant,) = results(
        observation("69548-6", EGFR, part("48005-3", ("", "p.L858R")), part("81258-6", valueQuantity=quantity))
    )
    assert variant.allele_fraction == fraction


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("p.L858R", "p.Leu858Arg"),
        ("L858R", "p.Leu858Arg"),
        ("NP_005219.2:p.(Leu858Arg)", "p.Leu858Arg"),
        ("p.E746_A750del", "p.Glu746_Ala750del"),
        ("p.D770_N771insSVD", "p.Asp770_Asn771insSerValAsp"),
        ("p.Glu746_Ala750delinsAla", "p.Glu746_Ala750delinsAla"),
        ("p.R213*", "p.Arg213Ter"),
        ("p.K23Efs*17", "p.Lys23GlufsTer17"),
        ("p.Val1822Asp", "p.Val1822Asp"),
        ("c.2573T>G", ""),
        ("NC_000001.10:25:A:G", ""),
        ("p.B23Z", ""),
        ("p.=", ""),
    ],
)
def test_protein_changes_are_written_with_three_letters(written: str, normal: str) -> None:
    # HGVS nomenclature (varnomen): three-letter amino acids, Ter for a stop.
    assert normal_protein(written) == normal


def test_a_genotype_keeps_its_stars_and_the_phenotype_beside_it() -> None:
    found = results(
        observation(
            "84413-4",
            CYP2C19,
            part("53040-2", (LOINC, "LA9657-3")),
            part("48002-0", GERMLINE),
            answer=("https://www.pharmvar.org", "CYP2C19 *2/*2"),
        )
    )
    assert [(g.kind, g.value, g.origin) for g in found] == [
        ("genotype", "*2/*2", "germline"),
        ("phenotype", "Poor Metabolizer", "germline"),
    ]
    assert found[1].concepts == {"CYP2C19:Poor Metabolizer"}


@pytest.mark.parametrize(
    ("code", "gene"), [("79714-2", "CYP2C19"), ("79715-9", "CYP2D6"), ("79716-7", "CYP2C9"), ("79719-1", "DPYD")]
)
@pytest.mark.parametrize(
    ("answer", "value"),
    # LOINC answer list LL3856-3
    [
        ("LA9657-3", "Poor Metabolizer"),
        ("LA10317-8", "Intermediate Metabolizer"),
        ("LA25391-6", "Normal Metabolizer"),
        ("LA25390-8", "Rapid Metabolizer"),
        ("LA10315-2", "Ultrarapid Metabolizer"),
    ],
)
def test_a_laboratory_phenotype_is_read_by_its_answer_code(code: str, gene: str, answer: str, value: str) -> None:
    (result,) = results(observation(code, answer=(LOINC, answer)))
    assert (result.gene, result.value, result.origin) == (gene, value, "unknown")


def test_an_unclear_phenotype_is_never_taken_as_normal() -> None:
    assert gap(observation("79714-2", answer=(LOINC, "LA0-0"))) == "no-value"
    two = observation("79714-2")
    two["valueCodeableConcept"] = concept((LOINC, "LA9657-3"), (LOINC, "LA25391-6"))
    assert gap(two) == "no-value"


@pytest.mark.parametrize(
    ("answer", "value"), [("LA6576-8", "positive"), ("LA6577-6", "negative"), ("LA9634-2", "negative")]
)
def test_hla_presence_is_kept_positive_and_negative(answer: str, value: str) -> None:
    (result,) = results(observation("50956-2", answer=(LOINC, answer)))
    assert (result.gene, result.kind, result.value) == ("HLA-B*57:01", "presence", value)


@pytest.mark.parametrize(
    ("codes", "origin"),
    [
        ([GERMLINE], "germline"),
        ([SOMATIC], "somatic"),
        ([], "unknown"),
        ([GERMLINE, SOMATIC], "unknown"),
        ([(LOINC, "LA6807-7")], "unknown"),
    ],
)
def test_germline_somatic_and_unknown_are_never_confused(codes: list[tuple[str, str]], origin: str) -> None:
    source = part("48002-0", *codes)
    (variant,) = results(observation("69548-6", EGFR, part("48005-3", ("", "p.L858R")), source))
    assert variant.origin == origin


def test_a_preliminary_or_withdrawn_genotype_is_not_used() -> None:
    for status in ("preliminary", "entered-in-error", "cancelled"):
        assert gap(observation("79714-2", answer=(LOINC, "LA9657-3"), status=status)) == "bad-status"
    assert gap(observation("79714-2", answer=(LOINC, "LA9657-3"), effectiveDateTime="2027-01-01")) == "future"


def test_a_result_without_a_date_is_read_because_genes_do_not_age() -> None:
    resource = observation("79714-2", answer=(LOINC, "LA9657-3"))
    del resource["effectiveDateTime"]
    (result,) = results(resource)
    assert result.at is None


def implication(significance: str, **more: Any) -> dict[str, Any]:
    code = concept(("http://hl7.org/fhir/uv/genomics-reporting/CodeSystem/tbd-codes-cs", "diagnostic-implication"))
    derived = {"id": significance, "code": code, "derivedFrom": [{"reference": "Observation/g1"}]}
    return observation("x", part("53037-8", (LOINC, significance))) | derived | more


def test_the_significance_of_a_variant_may_stand_in_an_implication_derived_from_it() -> None:
    variant = observation("69548-6", EGFR, part("48005-3", ("", "p.L858R")))

    def significance(*implications: dict[str, Any]) -> str:
        record = read_record([variant, *implications], as_of=AS_OF, patient_id="p1")
        assert [g.code for g in record.gaps] == ["no-patient"]
        (gene,) = record.genes
        return gene.significance

    assert significance() == ""
    assert significance(implication("LA26333-7")) == "uncertain significance"
    assert significance(implication("LA26333-7"), implication("LA6668-3")) == ""


@pytest.mark.parametrize(
    ("system", "code", "gene"), [(HGNC, "HGNC:2621", "CYP2C19"), (HGNC, "2621", "CYP2C19"), ("urn:x", "2621", "")]
)
def test_a_gene_is_named_by_its_hgnc_id_with_or_without_the_prefix(system: str, code: str, gene: str) -> None:
    studied = part("48018-6", (system, code))
    found = list(read_genes(observation("84413-4", studied, valueCodeableConcept={"text": "*2/*2"}), AS_OF))
    assert [g.gene for g in found if isinstance(g, GeneResult)] == ([gene] if gene else [])


# --- open data ---------------------------------------------------------------------------------------------------


def observations(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        own = [value] if value.get("resourceType") == "Observation" else []
        return own + [o for v in value.values() for o in observations(v)]
    return [o for v in value for o in observations(v)] if isinstance(value, list) else []


def patient_of(found: list[dict[str, Any]]) -> str:
    return str(found[0]["subject"]["reference"]).rsplit("/", 1)[-1]


@pytest.mark.parametrize(
    ("name", "gene", "genotype"),
    [
        ("genops_find_subject_haplotypes_1.json", "CYP2D6", "*1/*41"),
        ("genops_find_subject_specific_haplotypes_1.json", "CYP2C19", "*1/*1"),
    ],
)
def test_public_genotypes_are_read_and_their_source_stays_unknown(
    shared: Path, name: str, gene: str, genotype: str
) -> None:
    found = observations(json.loads((shared / "data" / "fhir_genomics" / name).read_text()))
    record = read_record(found, as_of=AS_OF, patient_id=patient_of(found))
    assert [(g.gene, g.kind, g.value, g.origin) for g in record.genes] == [(gene, "genotype", genotype, "unknown")]


def test_every_public_genomics_file_is_read_or_its_observations_are_named(shared: Path) -> None:
    files = sorted((shared / "data" / "fhir_genomics").glob("*.json"))
    assert len(files) >= 9
    for path in files:
        whole = json.loads(path.read_text())
        found = observations(whole)
        given = [whole] if whole["resourceType"] == "DiagnosticReport" else found
        record = read_record(given, as_of=AS_OF, patient_id=patient_of(found))
        # These variants name no gene, and the implications say what they mean in words: neither is guessed at.
        assert {g.code for g in record.gaps} <= {"no-patient", "no-value", "unknown-code"}, path.name
        accounted = len(record.genes) + sum(g.subject.startswith(("genomics", "Observation")) for g in record.gaps)
        implied = sum("diagnostic-implication" in json.dumps(o["code"]) for o in found)
        assert accounted >= len(found) - implied, path.name


def test_an_annotated_report_with_its_gene_gives_the_variant_it_describes(shared: Path) -> None:
    report = json.loads((shared / "data" / "fhir_genomics" / "report_annotation.json").read_text())
    variant = next(o for o in report["contained"] if o["code"]["coding"][0]["code"] == "69548-6")
    variant["component"].append(part("48018-6", (HGNC, "HGNC:11998")))
    record = read_record([report], as_of=AS_OF, patient_id="NB6TK328")
    assert [(g.gene, g.value, g.origin) for g in record.genes] == [("TP53", "p.Val1822Asp", "germline")]
