"""A generated patient straight to a `PatientRecord`, without FHIR in between: for training speed.

`read_record` over the patient's resources is the reference; a test holds that both give equal tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from fhir_mappers.codes import ICD10CM, RXNORM, condition_concepts, drug_concepts
from fhir_mappers.cohort.facts import CONDITIONS, GeneratedPatient, drug
from fhir_mappers.cohort.patients import AS_OF, FILM_PX, generate
from fhir_mappers.record import Event, GeneResult, Image, Lab, PatientRecord, Person, Source, newest_first


def records(
    n: int, seed: int, *, start: int = 0, as_of: datetime = AS_OF, film_px: int = FILM_PX
) -> Iterator[tuple[GeneratedPatient, PatientRecord]]:
    """Patients of `generate` with their records, films drawn."""
    for patient in generate(n, seed, start=start, as_of=as_of, film_px=film_px):
        yield patient, to_record(patient)


def to_record(patient: GeneratedPatient) -> PatientRecord:
    """What reading the patient's chart gives the model: labs, events, genes and films; nothing else is filled in."""
    person = Person(patient.id, "female" if patient.female else "male", patient.born, patient.born)
    return PatientRecord(
        person=person,
        as_of=patient.as_of,
        labs=newest_first(_labs(patient, person), "at"),
        events=newest_first(_events(patient), "start"),
        genes=newest_first(_genes(patient), "at"),
        images=newest_first(_images(patient), "at"),
    )


def _labs(patient: GeneratedPatient, person: Person) -> Iterator[Lab]:
    for index, fact in enumerate(patient.labs):
        row = fact.code
        low, high = row.reference_range(person.sex)
        yield Lab(
            analyte=row.analyte,
            name=row.name,
            loinc=fact.loinc,
            value=fact.canonical,
            unit=row.unit,
            printed=f"{fact.value} {fact.unit}",
            at=fact.at,
            source=Source(f"Observation/{patient.resource_id('lab', index)}", "1"),
            kind="vital" if row.kind == "vital" else "lab",
            low=low,
            high=high,
            preferred=row.preferred,
        )


def _events(patient: GeneratedPatient) -> Iterator[Event]:
    for index, condition in enumerate(patient.conditions):
        codes = ((ICD10CM, condition.icd10),)
        source = Source(f"Condition/{patient.resource_id('condition', index)}", "1")
        title = CONDITIONS[condition.name][1]
        yield Event("condition", condition_concepts(codes), codes, title, condition.onset, condition.active, source)
    for index, medication in enumerate(patient.drugs):
        codes = ((RXNORM, drug(medication.ingredient).rxcui),)
        source = Source(f"MedicationRequest/{patient.resource_id('medication', index)}", "1")
        yield Event("medication", drug_concepts(codes), codes, medication.ingredient, medication.since, True, source)


def _genes(patient: GeneratedPatient) -> Iterator[GeneResult]:
    for index, fact in enumerate(patient.genes):
        yield GeneResult(
            gene=fact.gene,
            kind=fact.kind,
            value=fact.value,
            origin="somatic" if fact.kind == "variant" else "germline",
            at=fact.at,
            source=Source(f"Observation/{patient.resource_id('gene', index)}", "1"),
            concepts=frozenset({fact.concept}),
            significance="pathogenic" if fact.kind == "variant" else "",
        )


def _images(patient: GeneratedPatient) -> Iterator[Image]:
    for index, fact in enumerate(patient.films):
        yield Image(
            pixels=fact.film.pixels,
            view=fact.pose.view,
            at=fact.at,
            sop_uid=patient.uid("instance", index),
            study_uid=patient.uid("study", index),
            source=Source(f"ImagingStudy/{patient.resource_id('study', index)}", "1"),
        )
