"""Charts for imaging-safety beyond the kidney: reactions, gadolinium, pregnancy, implants."""

from __future__ import annotations

from typing import Any

from contrast import LOW, NORMAL, STEADY, creatinine
from imaging_charts import allergy, coded
from vignettes import SUBJECT, Resource, concept, condition, imaging_order, medication, observation, patient

ATC, SNOMED, NCIT = "http://www.whocc.no/atc", "http://snomed.info/sct", "urn:oid:2.16.840.1.113883.3.26.1.1"
WOMAN = patient("female", "1992-04-01")
CT_ABDOMEN = imaging_order("d1", "36813-4", "CT abdomen and pelvis with IV contrast")
CTPA = imaging_order("d1", "36147-7", "CT pulmonary angiogram")
MR_BRAIN = imaging_order("d1", "30657-1", "MRI brain")
MR_GADOLINIUM = imaging_order("d1", "24589-4", "MRI brain with gadolinium")
PREGNANT = condition("pr", "Z3A.20")
WEAK = (LOW, STEADY)
NORMAL_KIDNEY = (NORMAL, creatinine("o2", 0.9, "2026-03-08T06:00:00Z"))
IOHEXOL = {"rxcui": "5956", "text": "iohexol", "recorded": "2023-05-02"}


def reaction(severity: str | None = "severe", words: str = "Anaphylaxis", **more: Any) -> Resource:
    graded = {"severity": severity} if severity else {}
    return {**allergy("al1", {**IOHEXOL, "reactions": [words], **graded}), **more}


def agent(atc: str, name: str, id_: str = "g1") -> Resource:
    """A draft for a contrast agent: gadodiamide V08CA03 is group I, gadobutrol V08CA09 II, gadoxetate V08CA10 III."""
    draft = medication(id_, "0", name, "draft")
    return {**draft, "medicationCodeableConcept": concept(ATC, atc, name)}


def device(label: str | None, code: str = "14106009", name: str = "Pacemaker", **more: Any) -> Resource:
    """C106047 unsafe, C106046 conditional, C106045 safe (FHIR value set device-safety)."""
    return {
        "resourceType": "Device",
        "id": "v1",
        "status": "active",
        "type": coded(SNOMED, code, name),
        "safety": [coded(NCIT, label)] if label else [],
        "patient": SUBJECT,
        **more,
    }


def hcg(answer: str, at: str = "2026-03-10T08:00:00Z") -> Resource:
    return observation("h1", "2106-3", answer, None, at)
