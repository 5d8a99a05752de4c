"""Genetic results and drug orders as FHIR, for the tests of precision-prescribing: any row of pgx.csv as a chart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vignettes import SUBJECT, Chart, Resource, concept, condition, encounter, medication, observation, patient

from fhir_mappers.pgx import KeyPart, PgxRow

LOINC = "http://loinc.org"
HGNC = "http://www.genenames.org/geneId"
ORIGINS = {"germline": "LA6683-2", "somatic": "LA6684-0"}
NORMAL_PHENOTYPE = {
    "SLCO1B1": "Normal Function",
    "ABCG2": "Normal Function",
    "G6PD": "Normal",
    "MT-RNR1": "normal risk",
    "CYP3A5": "Poor Metabolizer",  # of this gene the usual, guideline-neutral result
}


def part(code: str, **value: Any) -> Resource:
    return {"code": concept(LOINC, code), **value}


def gene(
    name: str,
    *,
    genotype: str = "",
    phenotype: str = "",
    score: float | None = None,
    origin: str = "germline",
    at: str = "2024-08-01",
    id_: str = "",
    **more: Any,
) -> Resource:
    """One genotype Observation of HL7's guide, with what else is known beside it."""
    parts = [part("48018-6", valueCodeableConcept={"coding": [{"system": HGNC, "display": name}], "text": name})]
    if origin in ORIGINS:
        parts.append(part("48002-0", valueCodeableConcept=concept(LOINC, ORIGINS[origin])))
    if phenotype:
        parts.append(part("53040-2", valueCodeableConcept={"text": phenotype}))
    if score is not None:
        parts.append({"code": {"text": "Activity score"}, "valueQuantity": {"value": score}})
    resource: Resource = {
        "resourceType": "Observation",
        "id": id_ or f"gene-{name.replace('*', '').replace(':', '')}-{at}",
        "status": "final",
        "category": [concept("http://terminology.hl7.org/CodeSystem/v2-0074", "GE")],
        "code": concept(LOINC, "84413-4"),
        "subject": SUBJECT,
        "effectiveDateTime": at,
        "component": parts,
        **more,
    }
    return {**resource, "valueCodeableConcept": {"text": genotype}} if genotype else resource


def result_for(key: KeyPart, **more: Any) -> list[Resource]:
    """A result that makes this part of a key hold."""
    if key.aspect in ("not tested", "inhibitor"):
        return []
    if key.aspect == "score":
        return [gene(key.gene, score=min(key.scores), **more)]
    (value, *_) = sorted(key.values)
    if key.aspect == "presence":
        locus, _, allele = key.gene.partition("*")
        return [gene(locus, genotype=f"*{allele} {value}", id_=f"gene-{locus}-{allele}".replace(":", ""), **more)]
    if key.aspect == "genotype":
        return [gene(key.gene, genotype=value, **more)]
    return [gene(key.gene, phenotype=value, **more)]


def normal_for(key: KeyPart) -> list[Resource]:
    """The normal result of the same gene."""
    if key.gene.startswith("HLA-"):
        locus, _, allele = key.gene.partition("*")
        return [gene(locus, genotype=f"*{allele} negative", id_=f"gene-{locus}-{allele}".replace(":", ""))]
    if key.aspect == "score":
        return [gene(key.gene, score=2.0)]
    if key.aspect == "susceptible":
        return [gene(key.gene, phenotype="Uncertain Susceptibility")]
    if key.gene == "VKORC1":
        return [gene("VKORC1", genotype="-1639 GG")]
    if key.aspect == "genotype":
        return [gene(key.gene, genotype="*1/*1")]
    if key.aspect == "inhibitor":
        return [gene("CYP2D6", score=2.0)]
    return [gene(key.gene, phenotype=NORMAL_PHENOTYPE.get(key.gene, "Normal Metabolizer"))]


DAILY = {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}


def drug_order(rxcui: str, name: str, milligrams: float | None = None, id_: str = "m1", **more: Any) -> Resource:
    """A draft; with milligrams, one dose a day in numbers."""
    dosage: Resource = {}
    if milligrams is not None:
        dosage = {
            "dosageInstruction": [
                {"timing": DAILY, "doseAndRate": [{"doseQuantity": {"value": milligrams, "unit": "mg"}}]}
            ]
        }
    return medication(id_, rxcui, name, "draft", **dosage, **more)


ADULT = patient("male", "1976-03-01")
SIZE = (
    observation("w", "29463-7", 70, "kg", "2026-03-09T08:00:00Z"),
    observation("h", "8302-2", 170, "cm", "2026-03-09T08:00:00Z"),
)


def shows(population: str, row: PgxRow) -> list[Resource]:
    """What in a chart shows that the patient is of this population."""
    codes: Mapping[str, str] = {
        "ACS or PCI": "I21.4",
        "neurovascular": "I63.9",
        "cardiovascular, not ACS and not PCI": "I25.10",
        "malignant": "C91.00",
        "nonmalignant": "K50.90",
        "adjuvant ER+ breast cancer": "C50.911",
        "depression doses": "F32.9",
    }
    if population in codes:
        return [condition("why", codes[population])]
    if population == "therapy >12 weeks and effective":
        return [medication("old", row.rxcui, row.drug, authoredOn="2025-09-01")]
    return []


def dose_for(row: PgxRow) -> float | None:
    """A daily dose above the row's limit, for 70 kg and 170 cm."""
    if row.limit is None:
        return None
    return row.limit.milligrams * {"": 1.0, "kg": 70.0, "m2": 1.82}[row.limit.per] * 1.5


def chart(
    *resources: Resource,
    drafts: Iterable[Resource],
    who: Resource = ADULT,
    visit: Resource | None = None,
    **more: Any,
) -> Chart:
    return Chart((who, visit or encounter("AMB"), *resources), tuple(drafts), **more)


def chart_for(row: PgxRow, results: Iterable[Resource], **more: Any) -> Chart:
    """A patient of the row's population, with these results, for whom the row's drug is ordered."""
    extra = [medication("inhibitor", "32937", "paroxetine 20 mg daily")] if row.key[0].aspect == "inhibitor" else []
    order = drug_order(row.rxcui, row.drug, dose_for(row))
    return chart(*results, *shows(row.population, row), *extra, *SIZE, drafts=(order,), **more)
