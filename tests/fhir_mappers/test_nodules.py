"""Lung nodules of structured reports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.read import read_record
from fhir_mappers.record import Nodule

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
SNOMED, RADELEMENT, RADLEX = "http://snomed.info/sct", "https://radelement.org", "http://radlex.org"


def coded(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def component(system: str, code: str, **value: Any) -> dict[str, Any]:
    return {"code": coded(system, code), **value}


def mm(value: float, unit: str = "mm") -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


LONG = component(SNOMED, "103339001", valueQuantity=mm(8))
SHORT = component(SNOMED, "103340004", valueQuantity=mm(5))
SOLID = coded(RADLEX, "RID50151")


def nodule(*components: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": "n1",
        "status": "final",
        "code": coded(SNOMED, "427359005"),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2025-12-08T10:00:00Z",
        "valueCodeableConcept": SOLID,
        "component": list(components),
    } | more


def read(*resources: dict[str, Any]) -> tuple[Nodule, ...]:
    return read_record(resources, as_of=AS_OF, patient_id="p1").nodules


def test_the_size_is_the_mean_of_both_axes_as_the_guideline_measures() -> None:
    # Bankier 2017 (Fleischner measurement statement): average of long and short axis; (8 + 5) / 2.
    (found,) = read(nodule(LONG, SHORT))
    assert (found.size_mm, found.attenuation, found.count) == (6.5, "solid", "single")


def test_a_mean_diameter_goes_before_the_axes_and_centimetres_are_converted() -> None:
    assert read(nodule(LONG, component(SNOMED, "255586005", valueQuantity=mm(0.7, "cm"))))[0].size_mm == pytest.approx(
        7
    )
    assert read(nodule(LONG))[0].size_mm == 8


def test_a_nodule_of_radelement_is_read_with_its_bare_millimetres() -> None:
    # Shape of the public sample of RDES195: size as a string, site nested one level deeper.
    (found,) = read(
        nodule(
            component(RADELEMENT, "RDE1300", valueCodeableConcept=coded(RADELEMENT, "RDE1300.0")),
            component(RADELEMENT, "RDE1301", valueCodeableConcept=coded(RADELEMENT, "RDE1301.1")),
            component(RADELEMENT, "RDE1302", valueString="6"),
            code=coded(RADELEMENT, "RDES195"),
            valueCodeableConcept=None,
            bodySite={"code": coded("https://anatomiclocations.org/", "RID1303")},
            derivedFrom=[{"reference": "ImagingStudy/s1"}, {"reference": "Observation/x"}],
        )
    )
    assert (found.size_mm, found.attenuation, found.count, found.upper_lobe) == (6, "ground_glass", "unknown", True)
    assert found.study_refs == ("ImagingStudy/s1",)


def test_several_nodules_and_a_spiculated_margin_are_what_the_codes_say() -> None:
    (found,) = read(nodule(LONG, component(SNOMED, "129742005", valueBoolean=True), code=coded(SNOMED, "445249002")))
    assert (found.count, found.spiculated, found.upper_lobe) == ("multiple", True, False)
    assert not read(nodule(LONG, component(SNOMED, "129742005", valueBoolean=False)))[0].spiculated


@pytest.mark.parametrize(
    "resource",
    [
        nodule(),  # no size
        nodule(LONG, status="preliminary"),  # a machine's proposal
        nodule(LONG, status="entered-in-error"),
        nodule(component(SNOMED, "103339001", valueQuantity=mm(8, "in"))),
        nodule(component(SNOMED, "103339001", valueQuantity={"value": 8})),
        nodule(component(SNOMED, "103339001", valueQuantity=mm(8) | {"comparator": "<"})),
        nodule(LONG, component(SNOMED, "103339001", valueQuantity=mm(3))),  # of the whole, or of its solid part?
        nodule(component(SNOMED, "103339001", valueQuantity=mm(31))),  # a mass
        nodule(component(SNOMED, "103339001", valueQuantity=mm(0))),
        nodule(component(RADELEMENT, "RDE1302", valueString="about 6")),
        nodule(LONG, component(RADELEMENT, "RDE1717", valueCodeableConcept=coded(RADELEMENT, "RDE1717.0"))),
        nodule(LONG, valueCodeableConcept=None, valueBoolean=False),
        nodule(LONG, effectiveDateTime="2026-03-11T10:00:00Z"),
        nodule(LONG, effectiveDateTime=None),
        nodule(LONG, subject={"reference": "Patient/p2"}),
    ],
)
def test_what_is_no_confirmed_measured_nodule_is_left_out_with_a_gap(resource: dict[str, Any]) -> None:
    record = read_record([resource], as_of=AS_OF, patient_id="p1")
    assert record.nodules == ()
    assert "Observation/n1" in {gap.reference for gap in record.gaps}


def test_two_ways_of_saying_what_it_is_made_of_are_no_answer() -> None:
    both = nodule(LONG, component(RADELEMENT, "RDE1301", valueCodeableConcept=coded(RADELEMENT, "RDE1301.1")))
    assert read(both)[0].attenuation == "unknown"
