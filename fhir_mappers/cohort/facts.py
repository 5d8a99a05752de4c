"""What a generated patient consists of, before it is written as FHIR: the one source of both ways to a record."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

from fhir_mappers.codes import Drug, LabCode, drugs, lab_codes
from fhir_mappers.cohort.anatomy import Build, Pose
from fhir_mappers.cohort.exposure import Exposure
from fhir_mappers.cohort.films import Film, Signs, draw_film
from fhir_mappers.cohort.latent import Latent, Target, Truth

Resource = dict[str, Any]

CONDITIONS: dict[str, tuple[str, str]] = {
    # ICD-10-CM codes and their titles.
    "heart_failure": ("I50.22", "Chronic systolic (congestive) heart failure"),
    "ckd": ("N18.30", "Chronic kidney disease, stage 3 unspecified"),
    "ckd4": ("N18.4", "Chronic kidney disease, stage 4 (severe)"),
    "esrd": ("N18.6", "End stage renal disease"),
    "dialysis": ("Z99.2", "Dependence on renal dialysis"),
    "copd": ("J44.9", "Chronic obstructive pulmonary disease, unspecified"),
    "diabetes": ("E11.9", "Type 2 diabetes mellitus without complications"),
    "hypertension": ("I10", "Essential (primary) hypertension"),
    "atrial_fibrillation": ("I48.91", "Unspecified atrial fibrillation"),
    "coronary": ("I25.10", "Atherosclerotic heart disease of native coronary artery without angina pectoris"),
    "stent": ("Z95.5", "Presence of coronary angioplasty implant and graft"),
    "smoking": ("Z87.891", "Personal history of nicotine dependence"),
    "lung_cancer": ("C34.11", "Malignant neoplasm of upper lobe, right bronchus or lung"),
    "pneumonia": ("J18.9", "Pneumonia, unspecified organism"),
    "dnr": ("Z66", "Do not resuscitate"),
    "colon_cancer": ("C18.7", "Malignant neoplasm of sigmoid colon"),
    "dyspnoea": ("R06.00", "Dyspnea, unspecified"),
    "hay_fever": ("J30.2", "Other seasonal allergic rhinitis"),
}
PHENOTYPES = {
    # LOINC answers of the metabolic activity codes (LL3856-3).
    "Poor Metabolizer": "LA9657-3",
    "Intermediate Metabolizer": "LA10317-8",
    "Normal Metabolizer": "LA25391-6",
    "Rapid Metabolizer": "LA25390-8",
    "Ultrarapid Metabolizer": "LA10315-2",
}
PHENOTYPE_CODES = {"CYP2C19": "79714-2", "CYP2D6": "79715-9", "CYP2C9": "79716-7", "DPYD": "79719-1"}
HGNC = {
    "EGFR": "HGNC:3236",
    "KRAS": "HGNC:6407",
    "BRAF": "HGNC:1097",
    "TP53": "HGNC:11998",
    "CYP2C19": "HGNC:2621",
    "CYP2D6": "HGNC:2625",
    "CYP2C9": "HGNC:2623",
    "DPYD": "HGNC:3012",
}


@functools.cache
def drug(ingredient: str) -> Drug:
    """The row of tables/drug_classes.csv for an ingredient with a confirmed RxNorm code."""
    return next(d for d in drugs() if d.ingredient == ingredient and d.rxcui)


@dataclass(frozen=True, slots=True)
class LabFact:
    """One result as the laboratory or the ward wrote it; `code` says what it is and how its unit converts.

    value  an int where it is printed without decimals: a FHIR number carries its precision
    """

    loinc: str
    value: float
    unit: str
    at: datetime

    @property
    def code(self) -> LabCode:
        return lab_codes()[self.loinc]

    @property
    def canonical(self) -> float:
        return self.code.to_canonical(self.value, self.unit)


@dataclass(frozen=True, slots=True)
class ConditionFact:
    name: str
    onset: datetime
    active: bool = True

    @property
    def icd10(self) -> str:
        return CONDITIONS[self.name][0]


@dataclass(frozen=True, slots=True)
class DrugFact:
    ingredient: str
    dose: str
    since: datetime


@dataclass(frozen=True, slots=True)
class GeneFact:
    """A somatic variant (`value` in protein HGVS) or the germline metaboliser phenotype of a pharmacogene."""

    gene: str
    kind: Literal["variant", "phenotype"]
    value: str
    at: datetime

    @property
    def concept(self) -> str:
        return f"{self.gene}:{self.value}"


@dataclass(frozen=True, slots=True)
class AllergyFact:
    substance: str
    rxcui: str
    manifestation: str
    severe: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderFact:
    """An imaging order that stands in the chart, not yet carried out."""

    loinc: str
    title: str
    at: datetime


@dataclass(frozen=True)
class FilmFact:
    """One radiograph: what is on it, how it was taken, and what radiology has said (None: not yet read).

    archived  False for a film the chart knows of and the archive does not hold
    """

    signs: Signs
    build: Build
    pose: Pose
    exposure: Exposure
    at: datetime
    size: int = 256
    report: str | None = None
    archived: bool = True

    @functools.cached_property
    def film(self) -> Film:
        return draw_film(self.signs, self.build, self.pose, self.exposure, self.size)


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a clinician does in this chart: the hook it fires and the drafts it carries."""

    hook: str
    title: str
    drafts: tuple[Resource, ...] = ()

    @property
    def selections(self) -> tuple[str, ...]:
        return tuple(f"{r['resourceType']}/{r['id']}" for r in self.drafts)


@dataclass(frozen=True)
class GeneratedPatient:
    """One patient of the generative model, or one scenario of the demo. Everything is derived from these facts.

    films       newest first
    truth       labels and their optimum; None for a hand-written scenario
    complete    the targets for which everything that decides was recorded, so that `truth.optimal` is attainable
    occasions   what the clinician is about to do; empty outside the demo
    """

    id: str
    family: str
    given: str
    female: bool
    born: date
    as_of: datetime
    inpatient: bool
    unit: str = "clinic"
    labs: tuple[LabFact, ...] = ()
    conditions: tuple[ConditionFact, ...] = ()
    drugs: tuple[DrugFact, ...] = ()
    genes: tuple[GeneFact, ...] = ()
    allergies: tuple[AllergyFact, ...] = ()
    films: tuple[FilmFact, ...] = ()
    ordered: tuple[OrderFact, ...] = ()
    admitted: datetime | None = None
    truth: Truth | None = None
    complete: frozenset[Target] = frozenset()
    state: Latent | None = field(default=None, repr=False)
    title: str = ""
    story: str = ""
    occasions: tuple[Occasion, ...] = ()
    extra: tuple[Resource, ...] = field(default=(), repr=False)
    """Resources a scenario adds by hand, such as a level of consciousness."""

    @property
    def name(self) -> str:
        return f"{self.family}, {self.given}"

    @functools.cached_property
    def resources(self) -> tuple[Mapping[str, Any], ...]:
        """The chart as FHIR R4 resources, Patient first."""
        from fhir_mappers.cohort.resources import write_chart

        return write_chart(self)

    def uid(self, *parts: object) -> str:
        """A DICOM UID under 2.25 (PS3.5 B.2), the same for the same patient and parts."""
        return f"2.25.{self._uuid(*parts).int}"

    def resource_id(self, *parts: object) -> str:
        return f"{self.id}-{self._uuid(*parts).hex[:12]}"

    def _uuid(self, *parts: object) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("urn:generated", self.id, *map(str, parts))))
