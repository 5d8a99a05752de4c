"""What a vignette says of genes and tumours, as FHIR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOINC = "http://loinc.org"
SUBJECT = {"reference": "Patient/p1"}
Resource = dict[str, Any]


def concept(system: str, code: str, text: str = "") -> Resource:
    return {"coding": [{"system": system, "code": code}], **({"text": text} if text else {})}


HGNC = {"CYP2C19": "HGNC:2621", "SLCO1B1": "HGNC:10959", "HLA-B": "HGNC:4932", "EGFR": "HGNC:3236"}
SOURCE_CLASS = {"germline": "LA6683-2", "somatic": "LA6684-0"}
PRESENCE = {"negative": "LA6577-6", "positive": "LA6576-8"}


def component(code: str, answer: Resource) -> Resource:
    return {"code": concept(LOINC, code), "valueCodeableConcept": answer}


SIGNIFICANCE = {
    "Pathogenic": "LA6668-3",
    "Likely pathogenic": "LA26332-9",
    "Uncertain significance": "LA26333-7",
    "Benign": "LA6675-8",
}


def variant_components(given: Mapping[str, Any]) -> list[Resource]:
    """What a tumour panel says of a variant: protein change, significance, allele fraction in percent."""
    found = []
    if "pHGVS" in given:
        found.append(component("48005-3", concept("http://varnomen.hgvs.org", given["pHGVS"])))
    if given.get("significance"):
        found.append(component("53037-8", concept(LOINC, SIGNIFICANCE[given["significance"]])))
    if "vaf" in given:
        quantity = {"value": given["vaf"], "unit": "%", "code": "%"}
        found.append({"code": concept(LOINC, "81258-6"), "valueQuantity": quantity})
    return found


HISTOLOGY = {"adenocarcinoma": "35917007", "squamous": "254634000", "small-cell": "254632001"}


def of_the_tumour(given: Mapping[str, Any]) -> Resource:
    """Stage and histology of a Condition, as FHIR and HL7 mCODE write them."""
    url = "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-histology-morphology-behavior"
    more: Resource = {}
    if "stage" in given:
        more["stage"] = [{"summary": {"text": given["stage"]}}]
    if "histology" in given:
        answer = concept("http://snomed.info/sct", HISTOLOGY[given["histology"]])
        more["extension"] = [{"url": url, "valueCodeableConcept": answer}]
    return more


def gene_result(id_: str, given: Mapping[str, Any]) -> Resource:
    """A genetic result as HL7's guide writes it: the gene, the source class and the phenotype are components."""
    gene = given["gene"]
    components = [component("48018-6", concept("http://www.genenames.org/geneId", HGNC.get(gene, gene), gene))]
    components[0]["valueCodeableConcept"]["coding"][0]["display"] = gene
    if given["source"] in SOURCE_CLASS:
        components.append(component("48002-0", concept(LOINC, SOURCE_CLASS[given["source"]])))
    if "phenotype" in given:
        components.append(component("53040-2", {"text": given["phenotype"]}))
    components += variant_components(given)
    coded = given["value"] in PRESENCE
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": given["status"],
        "category": [concept("http://terminology.hl7.org/CodeSystem/v2-0074", "GE")],
        "code": concept(LOINC, given["code"]),
        "subject": SUBJECT,
        "effectiveDateTime": given["at"],
        "component": components,
        "valueCodeableConcept": concept(LOINC, PRESENCE[given["value"]]) if coded else {"text": given["value"]},
    }
