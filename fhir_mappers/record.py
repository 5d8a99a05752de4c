"""What we know of one patient at one moment, typed, in canonical units, every item with its source.

A `PatientRecord` holds nothing later than `as_of` and nothing of another patient. What could not be read is a
`Gap` that names the resource; what could not be fetched is a shortfall and stays with the evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Literal

from fhir_mappers.radiology import Image, ImagingOrder, Implant, Instance, Nodule, Report, Study
from fhir_mappers.ward import Dose, LabReport

__all__ = [
    "Allergy",
    "Answer",
    "Coded",
    "Dose",
    "Encounter",
    "Event",
    "Gap",
    "GeneResult",
    "Image",
    "ImagingOrder",
    "Implant",
    "Instance",
    "Lab",
    "LabReport",
    "Lesion",
    "Nodule",
    "Order",
    "PatientRecord",
    "Person",
    "Report",
    "Source",
    "Study",
    "newest_first",
]


@dataclass(frozen=True, slots=True)
class Source:
    """The resource a fact was read from: `Observation/123`, and its version where the server gave one."""

    reference: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A resource, or one value of it, that was there and could not be used.

    code       a closed set, safe to log and count: unknown-code, unknown-unit, no-unit, out-of-limits, no-value,
               no-time, future, bad-status, malformed, other-patient, conflicting-unit, not-an-image, wrong-image,
               unsupported-image, no-patient, specimen-quality (haemolysed, diluted, wrong tube),
               superseded (an older version of a resource, or a better result of the same analyte, was used),
               not-read (a type or kind of resource that nothing here reads)
    subject    what it was about in our own words (analyte or resource type); never text from the record
    """

    code: str
    subject: str
    reference: str


@dataclass(frozen=True, slots=True)
class Lab:
    """One laboratory result or vital sign.

    analyte     row of tables/labs.csv or tables/vitals.csv (`creatinine`, `resp_rate`)
    value, unit in the table's canonical unit; `printed` is the value and unit as the laboratory wrote them
    at          when it was true of the patient (effective time, else end of period, else issued), timezone-aware
    has_time    False for a date without a time; `at` is then the end of that day (for today: `as_of`)
    comparator  `<`, `<=`, `>`, `>=` where the true value lies on that side of `value`
    low, high   the reference range printed with the result, in the canonical unit, else the table's, else None
    extreme     beyond the table's flag limits: used, and said
    preliminary status preliminary: never drives more than an info card
    """

    analyte: str
    name: str
    loinc: str
    value: float
    unit: str
    printed: str
    at: datetime
    source: Source
    kind: Literal["lab", "vital"] = "lab"
    has_time: bool = True
    comparator: str | None = None
    low: float | None = None
    high: float | None = None
    extreme: bool = False
    preliminary: bool = False
    preferred: bool = True


@dataclass(frozen=True, slots=True)
class Coded:
    """A coded, not numeric, observation (pregnancy status, AVPU, culture): the answer as (system, code).

    answer   (system, code) as recorded; ("date", "2026-05-01") for due dates; ("", "") for an answer in words
    meaning  our word for it where a table knows it: positive, negative; pregnant, not-pregnant, unknown; alert,
             confusion, voice, pain, unresponsive; else ""
    """

    name: str
    loinc: str
    answer: tuple[str, str]
    text: str
    at: datetime | None
    source: Source
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something in the history: a condition, a drug the patient is on, a procedure.

    concepts   ids the tables give its codes: `heart_failure`, `dialysis` (condition groups), `metformin`,
               `nsaid` (drug classes); empty where no table knows the code
    codes      (system, code) as recorded; `text` is the record's own wording, to be escaped where shown
    start      onset, authored or performed; None where not recorded
    active     still true at `as_of`
    stage      stage group of a tumour (`IVA`), histology as tables/histology.csv calls it; "" where not recorded
    category   codes of a procedure's category, e.g. SNOMED CT 387713003, surgical procedure
    """

    kind: Literal["condition", "medication", "procedure"]
    concepts: frozenset[str]
    codes: tuple[tuple[str, str], ...]
    text: str
    start: datetime | None
    active: bool
    source: Source
    status: str = ""
    dose: str = ""
    category: frozenset[str] = frozenset()
    stage: str = ""
    histology: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The whole resource, kept only for medications: an update suggestion must carry it entire."""


@dataclass(frozen=True, slots=True)
class Allergy:
    """An active, not refuted allergy or intolerance.

    severity     severe | moderate | mild | unknown, from reaction severity, manifestation or criticality
    reactions    what happened, in the record's own wording
    intolerance  recorded as an intolerance (FHIR type), which is no allergy
    """

    concepts: frozenset[str]
    codes: tuple[tuple[str, str], ...]
    text: str
    severity: Literal["severe", "moderate", "mild", "unknown"]
    onset: datetime | None
    source: Source
    reactions: tuple[str, ...] = ()
    intolerance: bool = False


Answer = bool | float | str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Order:
    """A ServiceRequest or MedicationRequest, existing or still a draft in the EHR.

    ref        `ServiceRequest/d1`, as the EHR names it
    kind       imaging | laboratory | medication | other
    imaging    the row of tables/imaging_orders.csv for an imaging order, else None
    concepts   drug classes for a medication order
    answers    what was answered at order entry: linkId -> yes/no, number, text or (system, code)
    resource   the whole resource: suggestions that update an order must send it entire
    """

    ref: str
    draft: bool
    kind: Literal["imaging", "laboratory", "medication", "other"]
    codes: tuple[tuple[str, str], ...]
    text: str
    concepts: frozenset[str]
    imaging: ImagingOrder | None
    priority: str
    status: str
    authored: datetime | None
    source: Source
    answers: Mapping[str, Answer] = field(default_factory=dict, hash=False)
    resource: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class GeneResult:
    """One genomic finding.

    gene       HGNC symbol; kind: variant | genotype | haplotype | phenotype | presence | activity
               | none-found (a tumour's gene was looked at and no variant was reported; no concept stands for it)
    value      normalised: `p.Leu858Arg`, `*2/*2`, `Poor Metabolizer`, `positive`; an activity score as `1.0`
    origin     germline | somatic | unknown; the three are never confused
    concepts   model concepts this result stands for, e.g. `EGFR:p.Leu858Arg`, `CYP2C19:Poor Metabolizer`
    significance     pathogenic, likely pathogenic, uncertain significance, likely benign, benign; "" where not said
    allele_fraction  of a variant in the sample, 0 to 1; None where not said
    specimen         tissue, plasma (any blood), "" where not said
    """

    gene: str
    kind: Literal["variant", "genotype", "haplotype", "phenotype", "presence", "activity", "none-found"]
    value: str
    origin: Literal["germline", "somatic", "unknown"]
    at: datetime | None
    source: Source
    concepts: frozenset[str] = frozenset()
    significance: str = ""
    allele_fraction: float | None = None
    specimen: Literal["tissue", "plasma", ""] = ""


@dataclass(frozen=True, slots=True)
class Lesion:
    """One measurement of one tumour: `name` tells tumours apart, `diameter_mm` is the longest diameter."""

    name: str
    diameter_mm: float
    at: datetime
    source: Source


@dataclass(frozen=True, slots=True)
class Encounter:
    """The current encounter.

    class_  v3-ActCode: IMP, EMER, AMB, ACUTE and so on
    unit    icu | ed | ward | clinic | unknown
    """

    class_: str
    unit: str
    start: datetime | None
    source: Source

    @property
    def inpatient(self) -> bool:
        return self.class_ in ("IMP", "ACUTE", "NONAC", "EMER", "OBSENC", "SS")


@dataclass(frozen=True, slots=True)
class Person:
    """Demographics. A partial birth date gives the youngest and the oldest age it allows.

    sex  recorded sex for clinical use where present, else administrative gender: male | female | unknown
    """

    id: str
    sex: Literal["male", "female", "unknown"]
    born_earliest: date | None
    born_latest: date | None
    deceased: bool = False
    source: Source | None = None

    def ages(self, as_of: datetime) -> tuple[int, int] | None:
        """The youngest and oldest age in whole years at `as_of`; None without a birth date."""
        if self.born_earliest is None or self.born_latest is None:
            return None
        return _years(self.born_latest, as_of), _years(self.born_earliest, as_of)


def _years(born: date, as_of: datetime) -> int:
    return as_of.year - born.year - ((as_of.month, as_of.day) < (born.month, born.day))


@dataclass(frozen=True, slots=True)
class PatientRecord:
    """One patient at one moment. All tuples are sorted newest first; items without a time come last."""

    person: Person
    as_of: datetime
    labs: tuple[Lab, ...] = ()
    coded: tuple[Coded, ...] = ()
    events: tuple[Event, ...] = ()
    allergies: tuple[Allergy, ...] = ()
    orders: tuple[Order, ...] = ()
    studies: tuple[Study, ...] = ()
    images: tuple[Image, ...] = ()
    reports: tuple[Report, ...] = ()
    nodules: tuple[Nodule, ...] = ()
    implants: tuple[Implant, ...] = ()
    genes: tuple[GeneResult, ...] = ()
    lesions: tuple[Lesion, ...] = ()
    doses: tuple[Dose, ...] = ()
    lab_reports: tuple[LabReport, ...] = ()
    encounter: Encounter | None = None
    gaps: tuple[Gap, ...] = ()

    def results(self, *analytes: str, within: timedelta | None = None) -> tuple[Lab, ...]:
        """Results of these analytes, newest first, optionally not older than `within`."""
        oldest = None if within is None else self.as_of - within
        return tuple(x for x in self.labs if x.analyte in analytes and (oldest is None or x.at >= oldest))

    def latest(self, *analytes: str, within: timedelta | None = None) -> Lab | None:
        found = self.results(*analytes, within=within)
        return found[0] if found else None

    def active(self, *concepts: str) -> tuple[Event, ...]:
        """Active conditions and medications that carry one of these concepts."""
        wanted = frozenset(concepts)
        return tuple(e for e in self.events if e.active and e.concepts & wanted)

    def ever(self, *concepts: str) -> tuple[Event, ...]:
        wanted = frozenset(concepts)
        return tuple(e for e in self.events if e.concepts & wanted)

    def drafts(self) -> tuple[Order, ...]:
        return tuple(o for o in self.orders if o.draft)

    def age_years(self) -> tuple[int, int] | None:
        return self.person.ages(self.as_of)

    def age_of(self, at: datetime) -> timedelta:
        return self.as_of - at


def newest_first(items: Iterable[Any], attribute: str) -> tuple[Any, ...]:
    """Sort by a datetime attribute, newest first, items without one last; ties keep a stable order by source.

    The order of the resources in a Bundle means nothing in FHIR, so it must not reach the model or a card.
    """

    def key(item: Any) -> tuple[bool, float, str]:
        at: datetime | None = getattr(item, attribute)
        source: Source | None = getattr(item, "source", None)
        return at is None, -at.timestamp() if at else 0.0, source.reference if source else ""

    return tuple(sorted(items, key=key))
