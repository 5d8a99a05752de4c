"""Studies that may not be offered: pregnancy, implants, reactions to contrast, kidneys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from records import lab, person, problem, record

from cds_service.advice.packs.safe_to_image import against_study
from fhir_mappers.codes import imaging_orders
from fhir_mappers.record import Allergy, Coded, Event, Lab, PatientRecord, Source

STUDIES = imaging_orders()
CHEST_CONTRAST, CHEST_PLAIN = STUDIES["24628-0"], STUDIES["36643-5"]
ABDOMEN = STUDIES["36813-4"]
BRAIN, BRAIN_GADOLINIUM = STUDIES["30657-1"], STUDIES["24589-4"]
LEGS = STUDIES["30881-7"]
EVERY = (CHEST_CONTRAST, CHEST_PLAIN, ABDOMEN, BRAIN, BRAIN_GADOLINIUM, LEGS)


def of(*items: Lab | Coded | Event, **changed: Any) -> PatientRecord:
    return replace(record(*items, who=person("female", 30)), **changed)


def reaction(severity: str, *, intolerance: bool = False) -> Allergy:
    return Allergy(
        frozenset({"iodinated_contrast"}),
        (),
        "iodinated contrast",
        severity,  # type: ignore[arg-type]
        None,
        Source("AllergyIntolerance/a", ""),
        intolerance=intolerance,
    )


def refused(chart: PatientRecord) -> dict[str, str]:
    found = {study.loinc: against_study(chart, study) for study in EVERY}
    return {loinc: why for loinc, why in found.items() if why is not None}


def test_a_patient_of_whom_nothing_is_known_may_be_offered_any_study() -> None:
    assert refused(of()) == {}


def test_in_pregnancy_no_abdomen_is_irradiated_and_no_gadolinium_given() -> None:
    # ACOG Committee Opinion 723: a film or CT of the chest may be done, gadolinium is limited.
    assert refused(of(problem("pregnancy_current"))) == {"36813-4": "pregnancy", "24589-4": "pregnancy"}


def test_an_implant_that_is_not_known_to_be_safe_keeps_a_patient_out_of_the_magnet_alone() -> None:
    assert refused(of(problem("pacemaker"))) == {"30657-1": "implant", "24589-4": "implant"}


@pytest.mark.parametrize("severity", ["severe", "moderate", "unknown"])
def test_a_reaction_to_contrast_that_was_more_than_mild_refuses_iodine_alone(severity: str) -> None:
    why = "allergy to contrast"
    assert refused(of(allergies=(reaction(severity),))) == {"24628-0": why, "36813-4": why}


def test_a_mild_reaction_or_a_mere_intolerance_refuses_nothing() -> None:
    assert refused(of(allergies=(reaction("mild"), reaction("moderate", intolerance=True)))) == {}


def test_kidneys_below_30_refuse_what_is_injected() -> None:
    # CKD-EPI 2021 for a woman of 30: 3.0 mg/dL is about 21, 1.9 mg/dL about 36 mL/min/1.73m2.
    why = "kidney function"
    assert refused(of(lab("creatinine", 3.0, 24.0))) == {"24628-0": why, "36813-4": why, "24589-4": why}
    assert refused(of(lab("creatinine", 1.9, 24.0))) == {}
