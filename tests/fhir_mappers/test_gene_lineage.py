"""What the guide says once in a chain of Observations holds for all that derives from it, and nothing is made up."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from gene_observations import GERMLINE, HGNC, LOINC, SOMATIC, concept, observation, part

from fhir_mappers.read import read_record

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
IMPLIED = concept(("http://hl7.org/fhir/uv/genomics-reporting/CodeSystem/tbd-codes-cs", "therapeutic-implication"))
CYP2C19 = part("48018-6", (HGNC, "HGNC:2621"))
POOR = part("53040-2", (LOINC, "LA9657-3"))


def derived(id_: str, code: Any, *components: dict[str, Any], of: str, **more: Any) -> dict[str, Any]:
    sources = [{"reference": f"Observation/{each}"} for each in of.split()]
    return observation("84413-4", *components, id=id_, derivedFrom=sources) | {"code": code} | more


def read_all(*given: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(gene, kind, value, origin) of every result but the variants."""
    record = read_record(given, as_of=AS_OF, patient_id="p1")
    return sorted((g.gene, g.kind, g.value, g.origin) for g in record.genes if g.kind != "variant")


def variant_of(origin: tuple[str, str], id_: str = "v1", **more: Any) -> dict[str, Any]:
    named = part("48004-6", ("", "NM_000769.4:c.681G>A"))
    return observation("69548-6", CYP2C19, named, part("48002-0", origin), id=id_, **more)


STARS = concept((LOINC, "84413-4")), {"valueCodeableConcept": {"text": "*2/*2"}}


def genotype_of(of: str, *components: dict[str, Any], id_: str = "gt") -> dict[str, Any]:
    return derived(id_, STARS[0], *(components or (CYP2C19,)), of=of, **STARS[1])


def test_an_implication_is_of_the_gene_and_the_source_of_the_genotype_it_derives_from() -> None:
    """As the guide's own example has it: the implication names drug and effect, the genotype the gene."""
    chain = (variant_of(GERMLINE), genotype_of("v1"), derived("i1", IMPLIED, POOR, of="gt"))
    assert read_all(*chain) == [
        ("CYP2C19", "genotype", "*2/*2", "germline"),
        ("CYP2C19", "phenotype", "Poor Metabolizer", "germline"),
    ]
    assert read_all(*reversed(chain)) == read_all(*chain)
    assert read_all(chain[0], chain[2]) == []


def test_what_was_found_in_a_tumour_stays_somatic_through_genotype_and_implication() -> None:
    chain = (variant_of(SOMATIC), genotype_of("v1"), derived("i1", IMPLIED, CYP2C19, POOR, of="gt"))
    assert {origin for *_, origin in read_all(*chain)} == {"somatic"}


def test_sources_of_two_classes_leave_what_derives_from_them_unknown() -> None:
    two = (variant_of(SOMATIC), variant_of(GERMLINE, "v2"), genotype_of("v1 v2"))
    assert read_all(*two) == [("CYP2C19", "genotype", "*2/*2", "unknown")]
    said = (variant_of(SOMATIC), genotype_of("v1", CYP2C19, part("48002-0", GERMLINE)))
    assert read_all(*said) == [("CYP2C19", "genotype", "*2/*2", "unknown")]


def test_a_source_that_is_withdrawn_or_another_patients_says_nothing() -> None:
    implied = derived("i1", IMPLIED, POOR, of="gt")
    withdrawn = genotype_of("v1") | {"status": "entered-in-error"}
    assert read_all(withdrawn, implied) == []
    theirs = genotype_of("v1") | {"subject": {"reference": "Patient/p2"}}
    assert read_all(theirs, implied) == []
    assert read_all(variant_of(GERMLINE, status="entered-in-error"), genotype_of("v1")) == [
        ("CYP2C19", "genotype", "*2/*2", "unknown")
    ]


def test_an_implication_of_two_genes_is_given_to_neither() -> None:
    other = genotype_of("v9", part("48018-6", (HGNC, "HGNC:2625")), id_="gt2")
    found = read_all(genotype_of("v1"), other, derived("i1", IMPLIED, POOR, of="gt gt2"))
    assert not any(kind == "phenotype" for _, kind, *_ in found)


def test_a_chain_that_bites_its_tail_ends() -> None:
    assert read_all(genotype_of("gt2"), genotype_of("gt", id_="gt2")) == [
        ("CYP2C19", "genotype", "*2/*2", "unknown"),
        ("CYP2C19", "genotype", "*2/*2", "unknown"),
    ]


def test_a_report_that_contains_its_chain_is_read_the_same() -> None:
    chain = [variant_of(GERMLINE), genotype_of("v1"), derived("i1", IMPLIED, POOR, of="gt")]
    inner = json.loads(json.dumps(chain).replace("Observation/", "#"))
    report = {"resourceType": "DiagnosticReport", "id": "r1", "status": "final", "contained": inner}
    report |= {"subject": {"reference": "Patient/p1"}, "code": concept((LOINC, "51969-4"))}
    assert ("CYP2C19", "phenotype", "Poor Metabolizer", "germline") in read_all(report)


def test_an_implication_of_the_guides_first_version_has_the_phenotype_as_its_answer() -> None:
    first = derived("i1", concept((LOINC, "53040-2")), of="gt", valueCodeableConcept=concept((LOINC, "LA9657-3")))
    assert ("CYP2C19", "phenotype", "Poor Metabolizer", "germline") in read_all(
        variant_of(GERMLINE), genotype_of("v1"), first
    )
