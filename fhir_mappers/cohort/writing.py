"""Small words to write a scenario with: a lab so many hours ago, a film with these signs, a draft order."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np

from fhir_mappers.codes import LOINC, RXNORM
from fhir_mappers.cohort.anatomy import Build, Pose, View
from fhir_mappers.cohort.exposure import Exposure
from fhir_mappers.cohort.facts import (
    ConditionFact,
    DrugFact,
    FilmFact,
    GeneFact,
    GeneratedPatient,
    LabFact,
    Occasion,
    Resource,
    drug,
)
from fhir_mappers.cohort.films import Signs
from fhir_mappers.cohort.resources import coded_vital, concept, instant

DEMO_PX = 768

CodedVital = tuple[str, str, tuple[str, str], datetime]

CLEAR = "Lungs clear. Heart size normal. No pleural effusion, no pneumothorax."
CT_CONTRAST = ("24628-0", "CT chest with IV contrast")
CT_ABDOMEN = ("36813-4", "CT abdomen and pelvis with IV contrast")
CT_PLAIN = ("29252-4", "CT chest without contrast")
CHEST_FILM = ("30745-4", "XR chest")
VIEW = Occasion("patient-view", "Open the chart")

CODES: dict[tuple[str, str], str] = {
    # (what, unit) -> LOINC code whose property has that unit
    ("creatinine", "mg/dL"): "2160-0",
    ("creatinine", "umol/L"): "14682-9",
    ("bun", "mg/dL"): "3094-0",
    ("potassium", "mmol/L"): "2823-3",
    ("sodium", "mmol/L"): "2951-2",
    ("crp", "mg/L"): "1988-5",
    ("crp", "mg/dL"): "1988-5",
    ("procalcitonin", "ng/mL"): "33959-8",
    ("wbc", "10*3/uL"): "6690-2",
    ("wbc", "10*9/L"): "6690-2",
    ("haemoglobin", "g/dL"): "718-7",
    ("platelets", "10*3/uL"): "777-3",
    ("nt_probnp", "pg/mL"): "33762-6",
    ("lactate", "mmol/L"): "2524-7",
    ("glucose", "mg/dL"): "2345-7",
    ("resp_rate", "/min"): "9279-1",
    ("heart_rate", "/min"): "8867-4",
    ("spo2", "%"): "59408-5",
    ("temperature", "Cel"): "8310-5",
    ("temperature", "[degF]"): "8310-5",
    ("sbp", "mm[Hg]"): "8480-6",
    ("dbp", "mm[Hg]"): "8462-4",
    ("o2_flow", "L/min"): "3151-8",
}
ALERT = ("LA9340-6", "Alert")
CONFUSED = ("LA6560-2", "Confused")
AVPU = "67775-7"


class Writer:
    """Writes the facts of one scenario, with times counted back from its moment.

    number  makes the patient's anatomy and exposures differ from the next one's, and stay the same every time
    """

    def __init__(self, as_of: datetime, number: int, *, female: bool, ctr: float = 0.45) -> None:
        self.as_of = as_of
        rng = np.random.default_rng((2026, number))
        self.build = Build(
            width=0.95 if female else 1.0,
            height=float(rng.uniform(0.96, 1.05)),
            ctr=ctr,
            ribs=float(rng.uniform(0.126, 0.145)),
            female=female,
            texture=int(rng.integers(2**31)),
        )
        self._rng = rng

    def ago(self, hours: float = 0.0, *, days: float = 0.0) -> datetime:
        return (self.as_of - timedelta(hours=hours, days=days)).replace(second=0, microsecond=0)

    def lab(self, analyte: str, value: float, unit: str, hours: float = 0.0, *, days: float = 0.0) -> LabFact:
        return LabFact(CODES[(analyte, unit)], value, unit, self.ago(hours, days=days))

    def panel(self, hours: float, **values: float) -> tuple[LabFact, ...]:
        """Several results of one moment, each in the first unit listed for its analyte."""
        units = dict(reversed(CODES))
        return tuple(self.lab(analyte, value, units[analyte], hours) for analyte, value in values.items())

    def vitals(
        self, hours: float, *, rr: float, spo2: float, o2: float, sbp: float, hr: float, temp: float
    ) -> tuple[LabFact, ...]:
        """The numeric items of one NEWS2 set; the level of consciousness is a coded vital sign beside them."""
        return self.panel(
            hours, resp_rate=rr, spo2=spo2, o2_flow=o2, sbp=sbp, dbp=round(sbp * 0.58), heart_rate=hr, temperature=temp
        )

    def problem(self, name: str, days: float, *, active: bool = True) -> ConditionFact:
        return ConditionFact(name, self.ago(days=days), active)

    def drug(self, ingredient: str, dose: str, days: float) -> DrugFact:
        return DrugFact(ingredient, dose, self.ago(days=days))

    def variant(self, gene: str, change: str, days: float) -> GeneFact:
        return GeneFact(gene, "variant", change, self.ago(days=days))

    def phenotype(self, gene: str, activity: str, days: float) -> GeneFact:
        return GeneFact(gene, "phenotype", activity, self.ago(days=days))

    def film(
        self,
        hours: float,
        signs: Signs,
        *,
        view: View = "PA",
        report: str | None = None,
        archived: bool = True,
    ) -> FilmFact:
        rng = self._rng
        pose = Pose(
            view=view,
            rotation_deg=float(rng.normal(0.0, 1.0)),
            scale=float(rng.uniform(0.96, 1.03)),
            shift=(float(rng.normal(0.0, 0.015)), float(rng.normal(0.0, 0.015))),
            inspiration=float(rng.uniform(0.0, 0.03)),
        )
        exposure = Exposure(
            gamma=float(rng.uniform(0.95, 1.1)),
            noise=0.010,
            marker="R AP" if view == "AP" else "R",
            leads=view == "AP",
            seed=int(rng.integers(2**31)),
        )
        return FilmFact(signs, self.build, pose, exposure, self.ago(hours), DEMO_PX, report, archived)


def order_imaging(patient_id: str, loinc: str, title: str, at: datetime, *, reason: str = "") -> Resource:
    """A draft imaging order as an EHR sends it in `draftOrders`."""
    order = _draft("ServiceRequest", patient_id, at) | {
        "priority": "routine",
        "category": [concept("http://snomed.info/sct", "363679005", "Imaging")],
        "code": concept(LOINC, loinc, title),
    }
    return order | ({"reasonCode": [{"text": reason}]} if reason else {})


def order_drug(patient_id: str, ingredient: str, dose: str, at: datetime) -> Resource:
    return _draft("MedicationRequest", patient_id, at) | {
        "medicationCodeableConcept": concept(RXNORM, drug(ingredient).rxcui, ingredient),
        "dosageInstruction": [{"text": dose}],
    }


def _draft(kind: str, patient_id: str, at: datetime) -> Resource:
    return {
        "resourceType": kind,
        "id": f"draft-{'imaging' if kind == 'ServiceRequest' else 'drug'}",
        "status": "draft",
        "intent": "order",
        "subject": {"reference": f"Patient/{patient_id}"},
        "authoredOn": instant(at),
    }


def born(as_of: datetime, years: int) -> date:
    """A birth date that makes the patient this old, with a birthday 90 days ago."""
    birthday = (as_of - timedelta(days=90)).date()
    return birthday.replace(year=birthday.year - years, day=min(birthday.day, 28))


def sign(what: str, *drafts: Resource) -> Occasion:
    return Occasion("order-sign", f"Sign: {what}", drafts)


def select(what: str, *drafts: Resource) -> Occasion:
    return Occasion("order-select", f"Choose: {what}", drafts)


def imaging(patient: str, as_of: datetime, order: tuple[str, str], reason: str) -> tuple[Occasion, Occasion]:
    """Choosing and signing the same imaging order."""
    draft = order_imaging(patient, *order, as_of, reason=reason)
    return sign(order[1], draft), select(order[1], draft)


def consciousness(w: Writer, hours: float, answer: tuple[str, str] = ALERT) -> CodedVital:
    return AVPU, "Level of responsiveness", answer, w.ago(hours)


def with_coded(patient: GeneratedPatient, *vitals: CodedVital) -> GeneratedPatient:
    return replace(patient, extra=tuple(coded_vital(patient, *v) for v in vitals))
