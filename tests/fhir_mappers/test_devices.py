"""What a Device says of an implant in a magnet."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.read import read_record

NOW = datetime(2026, 3, 10, 14, tzinfo=UTC)
SNOMED, NCIT = "http://snomed.info/sct", "urn:oid:2.16.840.1.113883.3.26.1.1"
UNSAFE, CONDITIONAL, SAFE, LATEX, NOT_SAID = "C106047", "C106046", "C106045", "C101673", "C113844"
"""FHIR R4 value set device-safety: what each of these NCI Thesaurus codes stands for."""


def device(*labels: str, code: str = "14106009", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Device",
        "id": "v1",
        "status": "active",
        "type": {"coding": [{"system": SNOMED, "code": code}], "text": "Cardiac pacemaker"},
        "safety": [{"coding": [{"system": NCIT, "code": label}]} for label in labels],
        "patient": {"reference": "Patient/p1"},
        **more,
    }


def read(*resources: dict[str, Any]) -> Any:
    return read_record([{"resourceType": "Patient", "id": "p1"}, *resources], as_of=NOW, patient_id="p1")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ((UNSAFE,), "unsafe"),
        ((CONDITIONAL,), "conditional"),
        ((SAFE,), "safe"),
        ((NOT_SAID,), "not-documented"),
        ((LATEX,), "not-documented"),
        ((), "not-documented"),
        ((SAFE, CONDITIONAL, UNSAFE), "unsafe"),
        ((SAFE, CONDITIONAL), "conditional"),
    ],
)
def test_of_two_labels_the_worse_counts_and_no_label_is_no_safety(labels: tuple[str, ...], said: str) -> None:
    (implant,) = read(device(*labels)).implants
    assert (implant.mr, implant.kinds) == (said, {"pacemaker"})


def test_the_devices_own_name_and_its_note_are_kept_for_showing() -> None:
    named = device(deviceName=[{"name": "Azure XT", "type": "model-name"}], note=[{"text": "1.5 T, whole body"}])
    (implant,) = read(named).implants
    assert (implant.text, implant.conditions) == ("Azure XT", "1.5 T, whole body")
    (plain,) = read(device()).implants
    assert (plain.text, plain.conditions) == ("Cardiac pacemaker", "")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (device(status="inactive"), "bad-status"),
        (device(status="entered-in-error"), "bad-status"),
        (device(patient={"reference": "Patient/p2"}), "other-patient"),
        (device(safety="C106047"), "malformed"),
    ],
)
def test_a_device_not_in_use_of_another_patient_or_broken_is_no_implant(given: dict[str, Any], code: str) -> None:
    record = read(given)
    assert record.implants == ()
    assert [g.code for g in record.gaps] == [code]


def test_a_device_of_a_kind_nobody_mapped_is_kept_and_its_code_named_as_a_gap() -> None:
    record = read(device(code="58938008"))
    assert [i.kinds for i in record.implants] == [frozenset()]
    assert [(g.code, g.subject) for g in record.gaps] == [("unknown-code", "Device")]


def test_a_missing_status_is_an_implant_in_use() -> None:
    given = device()
    del given["status"]
    assert len(read(given).implants) == 1
