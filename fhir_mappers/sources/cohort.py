"""The generated cohort as a source: four modalities, known truth, no patient behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.patients import generate
from fhir_mappers.cohort.records import to_record
from fhir_mappers.sources import Case, DataSource
from models.contract import Modality, Target

SEED = 41
TRAIN, VALID = 6400, 800

TARGETS: dict[str, tuple[str, tuple[Modality, ...]]] = {
    "finding.opacity": ("Lung opacity", ("imaging",)),
    "finding.effusion": ("Pleural effusion", ("imaging",)),
    "finding.cardiomegaly": ("Enlarged heart", ("imaging",)),
    "finding.pneumothorax": ("Pneumothorax", ("imaging",)),
    "finding.nodule": ("Lung nodule", ("imaging",)),
    "deterioration_24h": ("Deterioration within 24 hours", ("imaging", "labs", "history")),
    "drug_pneumonitis": ("Drug-related pneumonitis", ("imaging", "history", "genomics")),
    "heart_or_gene": ("Planted interaction of heart size and CYP2D6 (control)", ("imaging", "genomics")),
    "null_control": ("Coin toss (control)", ("imaging", "labs", "history", "genomics")),
}


def read_cohort(_: Path) -> Iterator[Case]:
    """Training patients first, then validation patients, all of one seed; nothing is read from a folder."""
    for patient in generate(TRAIN + VALID, SEED):
        yield _case(patient)


def skim_cohort(_: Path) -> Iterator[Case]:
    """The training patients without their films, which take nearly all the time to draw."""
    for patient in generate(TRAIN, SEED):
        yield _case(replace(patient, films=()))


def _case(patient: GeneratedPatient) -> Case:
    number = int(patient.id.rpartition("-")[2])
    assert patient.truth is not None, "patients of generate() have a truth"
    labels = {str(name): float(value) for name, value in patient.truth.labels.items()}
    # The optimum is that of the complete chart: where something that decides was not recorded, nobody attains it.
    optimal = {str(n): float(patient.truth.optimal[n]) for n in patient.complete if n in patient.truth.optimal}
    record = to_record(patient)
    return Case(record, labels, patient.id, "train" if number < TRAIN else "valid", optimal=optimal)


SOURCES = (
    DataSource(
        name="generated",
        folder="generated",
        tier="generated",
        title="Generated patients of this project (fhir_mappers.cohort)",
        licence="Apache-2.0",
        attribution="Ordersight, fhir_mappers.cohort",
        url="",
        ages=(18, None),
        modalities=("imaging", "labs", "history", "genomics"),
        targets=lambda _: tuple(
            Target(name, title, modalities, "generated") for name, (title, modalities) in TARGETS.items()
        ),
        read=read_cohort,
        skim=skim_cohort,
        notes="Generated: no figure on these patients says anything about real ones.",
    ),
)
