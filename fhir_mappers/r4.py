"""The parts of FHIR R4 resources that we read: one struct per type, every field optional, in FHIR's camelCase.

Only what some reader uses is here; everything else in a resource is ignored. `fhir_mappers.fhir` reads them.
"""

from __future__ import annotations

from typing import Any

import msgspec

Codes = tuple[tuple[str, str], ...]


class Part(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What every subset here has in common: names in FHIR's camelCase, unknown fields ignored."""


class Coding(Part, frozen=True):
    system: str | None = None
    code: str | None = None
    display: str | None = None


class Concept(Part, frozen=True):
    """CodeableConcept or Coding: R4 and R5 differ in which of the two stands where (ImagingStudy.modality)."""

    coding: list[Coding] = []
    text: str | None = None
    system: str | None = None
    code: str | None = None
    display: str | None = None

    @property
    def codes(self) -> Codes:
        own = [(self.system or "", self.code)] if self.code else []
        return (*own, *((c.system or "", c.code) for c in self.coding if c.code))

    @property
    def words(self) -> str:
        """The record's own wording: text, else the first display. For showing, never for matching."""
        return self.text or self.display or next((c.display for c in self.coding if c.display), "") or ""

    def says(self, *codes: str) -> bool:
        """Whether one of these codes is ours; for FHIR's own small value sets, where systems are often left out."""
        return any(code in codes for _, code in self.codes)


class Quantity(Part, frozen=True):
    value: int | float | None = None
    comparator: str | None = None
    unit: str | None = None
    system: str | None = None
    code: str | None = None


class Reference(Part, frozen=True):
    reference: str | None = None
    display: str | None = None


class Period(Part, frozen=True):
    start: str | None = None
    end: str | None = None


class Annotation(Part, frozen=True):
    text: str | None = None


class Range(Part, frozen=True):
    low: Quantity | None = None
    high: Quantity | None = None
    type: Concept | None = None
    applies_to: list[Concept] = []
    age: dict[str, Any] | None = None


class Value(Part, frozen=True):
    """The value[x] of an Observation or of one of its components."""

    code: Concept = Concept()
    value_quantity: Quantity | None = None
    value_codeable_concept: Concept | None = None
    value_string: str | None = None
    value_boolean: bool | None = None
    value_integer: int | None = None
    value_date_time: str | None = None
    data_absent_reason: Concept | None = None
    interpretation: list[Concept] = []
    reference_range: list[Range] = []


class Observation(Value, frozen=True):
    status: str = ""
    category: list[Concept] = []
    effective_date_time: str | None = None
    effective_period: Period | None = None
    effective_instant: str | None = None
    issued: str | None = None
    note: list[Annotation] = []
    component: list[Value] = []


class Condition(Part, frozen=True):
    code: Concept = Concept()
    clinical_status: Concept | None = None
    verification_status: Concept | None = None
    onset_date_time: str | None = None
    onset_period: Period | None = None
    abatement_date_time: str | None = None
    abatement_period: Period | None = None
    recorded_date: str | None = None


class Rate(Part, frozen=True):
    dose_quantity: Quantity | None = None


class Dosage(Part, frozen=True):
    text: str | None = None
    dose_and_rate: list[Rate] = []


class Ingredient(Part, frozen=True):
    item_codeable_concept: Concept | None = None


class Medication(Part, frozen=True):
    code: Concept = Concept()
    ingredient: list[Ingredient] = []


class MedicationRequest(Part, frozen=True):
    status: str = ""
    intent: str = ""
    priority: str = ""
    do_not_perform: bool = False
    medication_codeable_concept: Concept | None = None
    medication_reference: Reference | None = None
    authored_on: str | None = None
    dosage_instruction: list[Dosage] = []


class MedicationAdministration(Part, frozen=True):
    status: str = ""
    medication_codeable_concept: Concept | None = None
    medication_reference: Reference | None = None
    effective_date_time: str | None = None
    effective_period: Period | None = None


class Reaction(Part, frozen=True):
    substance: Concept | None = None
    manifestation: list[Concept] = []
    severity: str | None = None


class AllergyIntolerance(Part, frozen=True):
    code: Concept = Concept()
    type: str | None = None
    clinical_status: Concept | None = None
    verification_status: Concept | None = None
    criticality: str | None = None
    onset_date_time: str | None = None
    recorded_date: str | None = None
    reaction: list[Reaction] = []


class Procedure(Part, frozen=True):
    status: str = ""
    code: Concept = Concept()
    performed_date_time: str | None = None
    performed_period: Period | None = None


class ServiceRequest(Part, frozen=True):
    status: str = ""
    intent: str = ""
    priority: str = ""
    do_not_perform: bool = False
    category: list[Concept] = []
    code: Concept = Concept()
    order_detail: list[Concept] = []
    authored_on: str | None = None


class Identifier(Part, frozen=True):
    system: str | None = None
    value: str | None = None


class SeriesInstance(Part, frozen=True):
    uid: str = ""
    sop_class: Concept = Concept()
    number: int = 0
    title: str | None = None


class Series(Part, frozen=True):
    uid: str = ""
    modality: Concept = Concept()
    description: str | None = None
    body_site: Concept | None = None
    laterality: Concept | None = None
    endpoint: list[Reference] = []
    instance: list[SeriesInstance] = []


class ImagingStudy(Part, frozen=True):
    status: str = ""
    identifier: list[Identifier] = []
    modality: list[Concept] = []
    started: str | None = None
    description: str | None = None
    procedure_code: list[Concept] = []
    endpoint: list[Reference] = []
    series: list[Series] = []


class Endpoint(Part, frozen=True):
    status: str = ""
    connection_type: Concept | None = None
    address: str = ""


class DiagnosticReport(Part, frozen=True):
    status: str = ""
    category: list[Concept] = []
    code: Concept = Concept()
    effective_date_time: str | None = None
    effective_period: Period | None = None
    issued: str | None = None
    conclusion: str | None = None
    conclusion_code: list[Concept] = []
    imaging_study: list[Reference] = []


class Extension(Part, frozen=True):
    url: str = ""
    value_codeable_concept: Concept | None = None
    extension: list[Any] = []


class Patient(Part, frozen=True):
    gender: str | None = None
    birth_date: str | None = None
    deceased_boolean: bool | None = None
    deceased_date_time: str | None = None
    identifier: list[Identifier] = []
    extension: list[Extension] = []


class EncounterLocation(Part, frozen=True):
    location: Reference = Reference()
    status: str | None = None
    period: Period | None = None


class Encounter(Part, frozen=True):
    status: str = ""
    class_: Concept = msgspec.field(name="class", default=Concept())
    period: Period | None = None
    service_type: Concept | None = None
    location: list[EncounterLocation] = []


class Location(Part, frozen=True):
    type: list[Concept] = []
