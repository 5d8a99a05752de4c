"""Facts -> FHIR R4 resources, as a hospital's server would give them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from fhir_mappers.codes import ICD10CM, LOINC, RXNORM, UCUM
from fhir_mappers.cohort.facts import (
    CONDITIONS,
    HGNC,
    PHENOTYPE_CODES,
    PHENOTYPES,
    AllergyFact,
    ConditionFact,
    DrugFact,
    FilmFact,
    GeneFact,
    GeneratedPatient,
    LabFact,
    OrderFact,
    Resource,
    drug,
)

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
ACT_CODE = TERMINOLOGY + "v3-ActCode"
DICOM_CODES = "http://dicom.nema.org/resources/ontology/DCM"
DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
CHEST_FILM = {"PA": ("30745-4", "XR Chest Views"), "AP": ("36589-0", "Portable XR Chest AP")}


def concept(system: str, code: str, display: str = "") -> Resource:
    coding = {"system": system, "code": code} | ({"display": display} if display else {})
    return {"coding": [coding]} | ({"text": display} if display else {})


def instant(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def write_chart(patient: GeneratedPatient) -> tuple[Resource, ...]:
    """Every resource of the patient, Patient first, each with its own id and `meta.versionId`."""
    chart = [_patient(patient), _encounter(patient)]
    chart += [_condition(patient, i, c) for i, c in enumerate(patient.conditions)]
    chart += [_medication(patient, i, d) for i, d in enumerate(patient.drugs)]
    chart += [_allergy(patient, i, a) for i, a in enumerate(patient.allergies)]
    chart += [_lab(patient, i, x) for i, x in enumerate(patient.labs)]
    chart += [_gene(patient, i, g) for i, g in enumerate(patient.genes)]
    chart += [_order(patient, i, o) for i, o in enumerate(patient.ordered)]
    for index, film in enumerate(patient.films):
        chart += list(_film(patient, index, film))
    chart += [dict(r) for r in patient.extra]
    for resource in chart:
        resource["meta"] = {"versionId": "1", "lastUpdated": instant(patient.as_of)}
    return tuple(chart)


def subject(patient: GeneratedPatient) -> Resource:
    return {"reference": f"Patient/{patient.id}"}


def _patient(patient: GeneratedPatient) -> Resource:
    return {
        "resourceType": "Patient",
        "id": patient.id,
        "identifier": [{"system": "urn:generated:patient", "value": patient.id}],
        "active": True,
        "name": [{"use": "official", "family": patient.family, "given": [patient.given]}],
        "gender": "female" if patient.female else "male",
        "birthDate": patient.born.isoformat(),
    }


def encounter_id(patient: GeneratedPatient) -> str:
    return patient.resource_id("encounter")


def _encounter(patient: GeneratedPatient) -> Resource:
    class_ = ("EMER" if patient.unit == "ed" else "IMP") if patient.inpatient else "AMB"
    start = patient.admitted or patient.as_of
    names = {"icu": "Intensive care unit", "ed": "Emergency department", "ward": "Ward", "clinic": "Clinic"}
    kinds = {"icu": "ICU", "ed": "ER", "ward": "HU", "clinic": "OF"}
    return {
        "resourceType": "Encounter",
        "id": encounter_id(patient),
        "status": "in-progress",
        "class": {"system": ACT_CODE, "code": class_},
        "type": [{"text": names[patient.unit]}],
        "subject": subject(patient),
        "period": {"start": instant(start)},
        "location": [
            {
                "location": {"display": names[patient.unit]},
                "status": "active",
                "physicalType": concept(TERMINOLOGY + "v3-RoleCode", kinds[patient.unit], names[patient.unit]),
            }
        ],
    }


def _condition(patient: GeneratedPatient, index: int, fact: ConditionFact) -> Resource:
    code, title = CONDITIONS[fact.name]
    return {
        "resourceType": "Condition",
        "id": patient.resource_id("condition", index),
        "clinicalStatus": concept(TERMINOLOGY + "condition-clinical", "active" if fact.active else "resolved"),
        "verificationStatus": concept(TERMINOLOGY + "condition-ver-status", "confirmed"),
        "category": [concept(TERMINOLOGY + "condition-category", "problem-list-item")],
        "code": concept(ICD10CM, code, title),
        "subject": subject(patient),
        "onsetDateTime": instant(fact.onset),
    }


def _medication(patient: GeneratedPatient, index: int, fact: DrugFact) -> Resource:
    return {
        "resourceType": "MedicationRequest",
        "id": patient.resource_id("medication", index),
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": concept(RXNORM, drug(fact.ingredient).rxcui, fact.ingredient),
        "subject": subject(patient),
        "authoredOn": instant(fact.since),
        "dosageInstruction": [{"text": fact.dose}],
    }


def _allergy(patient: GeneratedPatient, index: int, fact: AllergyFact) -> Resource:
    return {
        "resourceType": "AllergyIntolerance",
        "id": patient.resource_id("allergy", index),
        "clinicalStatus": concept(TERMINOLOGY + "allergyintolerance-clinical", "active"),
        "verificationStatus": concept(TERMINOLOGY + "allergyintolerance-verification", "confirmed"),
        "type": "allergy",
        "category": ["medication"],
        "criticality": "high" if fact.severe else "low",
        "code": concept(RXNORM, fact.rxcui, fact.substance),
        "patient": subject(patient),
        "onsetDateTime": instant(fact.at),
        "reaction": [
            {"manifestation": [{"text": fact.manifestation}], "severity": "severe" if fact.severe else "mild"}
        ],
    }


def _order(patient: GeneratedPatient, index: int, fact: OrderFact) -> Resource:
    return {
        "resourceType": "ServiceRequest",
        "id": patient.resource_id("order", index),
        "status": "active",
        "intent": "order",
        "priority": "routine",
        "code": concept(LOINC, fact.loinc, fact.title),
        "subject": subject(patient),
        "authoredOn": instant(fact.at),
    }


def _observation(patient: GeneratedPatient, key: tuple[object, ...], category: str, code: Resource) -> Resource:
    return {
        "resourceType": "Observation",
        "id": patient.resource_id(*key),
        "status": "final",
        "category": [concept(TERMINOLOGY + "observation-category", category)],
        "code": code,
        "subject": subject(patient),
    }


def _lab(patient: GeneratedPatient, index: int, fact: LabFact) -> Resource:
    row = fact.code
    category = "laboratory" if row.kind == "lab" else "vital-signs"
    return _observation(patient, ("lab", index), category, concept(LOINC, fact.loinc, row.name)) | {
        "encounter": {"reference": f"Encounter/{encounter_id(patient)}"},
        "effectiveDateTime": instant(fact.at),
        "valueQuantity": {"value": fact.value, "unit": fact.unit, "system": UCUM, "code": fact.unit},
    }


def coded_vital(patient: GeneratedPatient, loinc: str, title: str, answer: tuple[str, str], at: datetime) -> Resource:
    """A vital sign answered by a LOINC code, such as the level of consciousness (67775-7)."""
    return _observation(patient, ("coded", loinc), "vital-signs", concept(LOINC, loinc, title)) | {
        "effectiveDateTime": instant(at),
        "valueCodeableConcept": concept(LOINC, *answer),
    }


def _gene(patient: GeneratedPatient, index: int, fact: GeneFact) -> Resource:
    """A variant of the HL7 Genomics Reporting guide, or a metabolic phenotype as laboratories report it."""
    source = ("LA6684-0", "Somatic") if fact.kind == "variant" else ("LA6683-2", "Germline")
    gene = {"code": concept(LOINC, "48018-6", "Gene studied [ID]")}
    gene["valueCodeableConcept"] = concept("http://www.genenames.org/geneId", HGNC[fact.gene], fact.gene)
    origin = {
        "code": concept(LOINC, "48002-0", "Genomic source class"),
        "valueCodeableConcept": concept(LOINC, *source),
    }
    if fact.kind == "phenotype":
        code = concept(LOINC, PHENOTYPE_CODES[fact.gene], f"{fact.gene} gene product metabolic activity interpretation")
        value = concept(LOINC, PHENOTYPES[fact.value], fact.value)
        components = [gene, origin]
    else:
        code = concept(LOINC, "69548-6", "Genetic variant assessment")
        value = concept(LOINC, "LA9633-4", "Present")
        change = {"code": concept(LOINC, "48005-3", "Amino acid change (pHGVS)")}
        change["valueCodeableConcept"] = concept("http://varnomen.hgvs.org", fact.value, fact.value)
        weight = {
            "code": concept(LOINC, "53037-8", "Genetic variation clinical significance"),
            "valueCodeableConcept": concept(LOINC, "LA6668-3", "Pathogenic"),
        }
        components = [gene, change, origin, weight]
    observation = _observation(patient, ("gene", index), "laboratory", code)
    observation["category"].append(concept(TERMINOLOGY + "v2-0074", "GE", "Genetics"))
    return observation | {
        "effectiveDateTime": instant(fact.at),
        "valueCodeableConcept": value,
        "component": components,
    }


def study_id(patient: GeneratedPatient, index: int) -> str:
    return patient.resource_id("study", index)


def _film(patient: GeneratedPatient, index: int, fact: FilmFact) -> Iterator[Resource]:
    """The ImagingStudy, and its DiagnosticReport where radiology has read the film."""
    modality = {"system": DICOM_CODES, "code": "DX"}
    loinc, title = CHEST_FILM[fact.pose.view]
    yield {
        "resourceType": "ImagingStudy",
        "id": study_id(patient, index),
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{patient.uid('study', index)}"}],
        "status": "available",
        "modality": [modality],
        "subject": subject(patient),
        "started": instant(fact.at),
        "numberOfSeries": 1,
        "numberOfInstances": 1,
        "procedureCode": [concept(LOINC, loinc, title)],
        "description": f"XR Chest {fact.pose.view}",
        "series": [
            {
                "uid": patient.uid("series", index),
                "number": 1,
                "modality": modality,
                "numberOfInstances": 1,
                "bodySite": {"system": "http://snomed.info/sct", "code": "51185008", "display": "Thorax"},
                "started": instant(fact.at),
                "instance": [
                    {
                        "uid": patient.uid("instance", index),
                        "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{DX_FOR_PRESENTATION}"},
                        "number": 1,
                    }
                ],
            }
        ],
    }
    if fact.report is not None:
        yield {
            "resourceType": "DiagnosticReport",
            "id": patient.resource_id("report", index),
            "status": "final",
            "category": [concept(TERMINOLOGY + "v2-0074", "RAD", "Radiology")],
            "code": concept(LOINC, loinc, title),
            "subject": subject(patient),
            "effectiveDateTime": instant(fact.at),
            "issued": instant(fact.at),
            "imagingStudy": [{"reference": f"ImagingStudy/{study_id(patient, index)}"}],
            "conclusion": fact.report,
        }
