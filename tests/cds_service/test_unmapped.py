"""What an administrator has to map: the code or the unit, never a patient's words, and the row that would do it."""

from __future__ import annotations

import pytest

from cds_service.unmapped import to_map, unmapped
from fhir_mappers.record import Gap

LAB = "https://lab.example.org"
CREATININE = {"coding": [{"system": LAB, "code": "CREA"}], "text": "Smith, J: creatinine"}


def said(fault: str, subject: str = "creatinine", **members: object) -> tuple[str, ...]:
    observation = {"resourceType": "Observation", "id": "o1", "code": CREATININE} | members
    return unmapped([observation], [Gap(fault, subject, "Observation/o1")])


@pytest.mark.parametrize(
    ("found", "what", "row"),
    [
        (
            said("unknown-code", "Observation"),
            f"unknown-code Observation {LAB}|CREA",
            (LAB, "CREA", "", "", ""),
        ),
        (
            said("unknown-code", "Observation", code={"coding": [{"code": "CREA"}]}),
            "unknown-code Observation no system|CREA",
            ("", "CREA", "", "", ""),
        ),
        (
            said("unknown-unit", valueQuantity={"value": 2, "unit": "MG%"}),
            f"unknown-unit creatinine MG% of {LAB}|CREA",
            (LAB, "CREA", "", "", "MG%"),
        ),
        (
            said("no-unit", valueQuantity={"value": 2}),
            f"no-unit creatinine without a unit of {LAB}|CREA",
            (LAB, "CREA", "", "", ""),
        ),
        (said("unknown-code", "Observation", code={"text": "Smith"}), "unknown-code Observation without a code", None),
    ],
    ids=["code", "no system", "unit", "no unit", "no code"],
)
def test_what_is_not_read_is_named_with_the_row_that_would_map_it(
    found: tuple[str, ...], what: str, row: tuple[str, ...] | None
) -> None:
    assert found == (what,)
    assert to_map(what) == row


def test_each_part_of_a_panel_is_named_by_its_own_code() -> None:
    part = {"code": {"coding": [{"system": LAB, "code": "NA"}]}, "valueQuantity": {"value": 140, "unit": "mval"}}
    assert said("unknown-unit", "sodium", component=[part]) == (f"unknown-unit sodium mval of {LAB}|NA",)


def test_words_that_could_be_a_patients_are_in_neither_code_nor_unit() -> None:
    named = {"coding": [{"system": LAB, "code": "john smith creatinine"}]}
    assert said("unknown-code", "Observation", code=named) == ("unknown-code Observation without a code",)
    written = said("unknown-unit", valueQuantity={"value": 2, "unit": "see note, Smith"})
    assert written == (f"unknown-unit creatinine without a unit of {LAB}|CREA",)
