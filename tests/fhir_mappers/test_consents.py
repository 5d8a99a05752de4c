"""Consent -> goals of care."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.read import read_record

NOW = datetime(2026, 3, 10, 14, tzinfo=UTC)
SNOMED = "http://snomed.info/sct"
COMFORT = {"coding": [{"system": SNOMED, "code": "133918004"}]}


def goals(**more: Any) -> list[tuple[str, str]]:
    consent = {"resourceType": "Consent", "id": "g1", "status": "active", "patient": {"reference": "Patient/p1"}}
    record = read_record([{**consent, **more}], as_of=NOW, patient_id="p1")
    return [c.answer for c in record.coded]


def test_a_permitted_code_is_a_goal_of_care_at_any_depth() -> None:
    nested = {"provision": [{"type": "permit", "code": [COMFORT]}]}
    assert goals(provision=nested) == [(SNOMED, "133918004")]
    assert goals(provision={"code": [COMFORT]}) == [(SNOMED, "133918004")]


@pytest.mark.parametrize(
    "more",
    [
        {"status": "inactive", "provision": {"code": [COMFORT]}},
        {"provision": {"type": "deny", "code": [COMFORT]}},
        {"provision": {"code": [COMFORT], "period": {"end": "2026-03-01"}}},
        {"provision": {"code": [COMFORT], "period": {"start": "2026-04-01"}}},
        {"dateTime": "2026-05-01", "provision": {"code": [COMFORT]}},
        {"patient": {"reference": "Patient/p2"}, "provision": {"code": [COMFORT]}},
        {"provision": {"code": "comfort"}},
    ],
)
def test_what_is_withdrawn_denied_over_or_another_patients_states_no_goal(more: dict[str, Any]) -> None:
    assert goals(**more) == []
