"""Charts of patients with lung cancer, and what a card of lung-precision holds."""

from __future__ import annotations

from typing import Any

from vignettes import (
    LOINC,
    SUBJECT,
    Answers,
    Chart,
    Resource,
    concept,
    condition,
    encounter,
    film,
    gene_result,
    medication,
    observation,
    of_the_tumour,
    patient,
)

from cds_service.cards import Card

NAME = "lung-precision"
CLINIC = encounter("AMB")


def cancer(stage: str | None = "IVA", histology: str | None = "adenocarcinoma", **more: Any) -> Resource:
    given = {k: v for k, v in (("stage", stage), ("histology", histology)) if v}
    return condition("c1", "C34.11", **of_the_tumour(given), **more)


def variant(
    gene: str,
    change: str,
    *,
    id_: str = "g1",
    significance: str = "Pathogenic",
    source: str = "somatic",
    at: str = "2026-03-02",
    status: str = "final",
    **more: Any,
) -> Resource:
    given = {
        "code": "69548-6", "gene": gene, "pHGVS": change, "significance": significance, "source": source,
        "value": "Present", "at": at, "status": status,
    }  # fmt: skip
    return {**gene_result(id_, given), **more}


def fusion(gene: str, *, id_: str = "g1", source: str = "somatic", significance: str = "Pathogenic") -> Resource:
    """A fusion as the guide has it: the kind of change is a code of the Sequence Ontology, there is no HGVS name."""
    given = variant(gene, "p.=", id_=id_, source=source, significance=significance)
    kind = {
        "code": concept(LOINC, "48019-4"),
        "valueCodeableConcept": concept("http://www.sequenceontology.org/", "SO:0001565"),
    }
    kept = [c for c in given["component"] if c["code"]["coding"][0]["code"] != "48005-3"]
    return {**given, "component": [*kept, kind]}


def negative(gene: str, id_: str, specimen: str = "", source: str = "somatic", at: str = "2026-03-02") -> Resource:
    """Nothing found in the gene; `specimen` is the id of a Specimen."""
    given = {"code": "69548-6", "gene": gene, "source": source, "value": "negative", "at": at, "status": "final"}
    more = {"specimen": {"reference": f"Specimen/{specimen}"}} if specimen else {}
    return {**gene_result(id_, given), **more}


def specimen(id_: str, snomed: str) -> Resource:
    return {
        "resourceType": "Specimen",
        "id": id_,
        "type": concept("http://snomed.info/sct", snomed),
        "subject": SUBJECT,
    }


PLASMA, TISSUE = specimen("plasma", "119361006"), specimen("tissue", "441652008")
L858R = variant("EGFR", "p.Leu858Arg")
PEMBROLIZUMAB = medication("m1", "1547545", "pembrolizumab 200 mg IV every 3 weeks", "draft")
CARBOPLATIN = medication("m2", "40048", "carboplatin AUC 5", "draft")
OSIMERTINIB = medication("a1", "1721560", "osimertinib 80 mg once daily", authoredOn="2025-12-20T09:00:00Z")
WOMAN = patient("female", "1959-03-21")


def chart(*resources: Resource, drafts: tuple[Resource, ...] = (PEMBROLIZUMAB,), **more: Any) -> Chart:
    """By default a woman of 66 years with stage IVA adenocarcinoma and a checkpoint inhibitor about to be signed."""
    who, tumour = more.pop("who", WOMAN), more.pop("tumour", cancer())
    return Chart((who, more.pop("visit", CLINIC), tumour, *resources), drafts, **more)


# --- pictures of the lungs ------------------------------------------------------------------------------------------


def report(
    id_: str, at: str, conclusion: str = "", *, status: str = "final", study: str = "", codes: tuple[str, ...] = ()
) -> Resource:
    more: Resource = {"imagingStudy": [{"reference": f"ImagingStudy/{study}"}]} if study else {}
    if codes:
        more["conclusionCode"] = [concept("http://hl7.org/fhir/sid/icd-10-cm", c) for c in codes]
    return {
        "resourceType": "DiagnosticReport",
        "id": id_,
        "status": status,
        "category": [concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD")],
        "code": concept(LOINC, "36643-5"),
        "subject": SUBJECT,
        "effectiveDateTime": at,
        "conclusion": conclusion,
        **more,
    }


NEW_FILM, NEW_PIXELS = film(1, "2026-03-10T09:00:00Z")
OLD_FILM, OLD_PIXELS = film(2, "2026-02-10T09:00:00Z")
OPAQUE = Answers(
    {"finding.opacity": (0.93, 0.88, 0.97), "drug_pneumonitis": (0.81, 0.72, 0.88)},
    prior={"finding.opacity": (0.05, 0.02, 0.09), "drug_pneumonitis": (0.10, 0.05, 0.16)},
    titles={"finding.opacity": "Opacity", "drug_pneumonitis": "lung injury by a drug"},
    masked={"imaging": 0.30},
    modalities=("imaging", "labs"),
    tier="generated",
    model="chest-generated@1",
)
PROCALCITONIN = observation("l1", "33959-8", 0.08, "ng/mL", "2026-03-10T06:00:00Z")
OLD_REPORT = report("r2", "2026-02-10T10:00:00Z", "Known right upper lobe mass. Lungs otherwise clear.", study="study2")


def card_of(given: Chart, manifest: Any = None) -> Card:
    (card,) = given.cards(NAME, manifest)
    return card


def rules(given: Chart, manifest: Any = None) -> list[str]:
    return [(c.detail or "").rsplit("Rule ", 1)[1].split()[0] for c in given.cards(NAME, manifest)]


def text(card: Card) -> str:
    return f"{card.summary}\n{card.detail}"
