"""All dates of a patient move by one number of days, and nothing else moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hannover import NOW
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from cds_service.cli.importing import read_bundle
from cds_service.cli.shifting import days_until, newest, shift_dicom, shift_resource


@pytest.mark.parametrize("source", ["fhir_hannover", "fhir_mimic3_demo", "fhir_synthea"])
def test_a_shifted_patients_newest_item_lies_in_the_last_day_and_no_interval_changes(shared: Path, source: str) -> None:
    for path in sorted((shared / "data" / source / "bundles").iterdir())[:6]:
        before = read_bundle(path)
        days = days_until(before, NOW)
        after = [shift_resource(resource, days) for resource in before]
        last = newest(after)
        assert last is not None
        assert timedelta(0) <= NOW - last < timedelta(days=1)
        assert dates(after) == [moment + timedelta(days=days) for moment in dates(before)]
        assert [shift_resource(resource, -days) for resource in after] == before


def dates(resources: list[dict[str, Any]]) -> list[datetime]:
    """Dates by FHIR path, independent of how the import finds them."""
    found = []
    for r in resources:
        for text in (r.get("effectiveDateTime"), r.get("started"), r.get("authoredOn"), r.get("birthDate")):
            if text:
                found.append(datetime.fromisoformat(text).replace(tzinfo=UTC))
        found.extend(datetime.fromisoformat(v).replace(tzinfo=UTC) for v in r.get("period", {}).values())
    return found


def test_a_text_and_a_postal_code_that_look_like_dates_stay() -> None:
    resource = {
        "resourceType": "Patient",
        "birthDate": "1950-03-01",
        "address": [{"postalCode": "2020", "line": ["2020-01-01"]}],
        "identifier": [{"value": "2020-01-01", "period": {"start": "2020-01", "end": "2021"}}],
    }
    moved = shift_resource(resource, 40)
    assert moved["address"] == resource["address"]
    assert moved["identifier"][0]["value"] == "2020-01-01"
    # 1 January 2020 + 40 days = 10 February; 1 January 2021 + 40 days is still in 2021.
    assert moved["identifier"][0]["period"] == {"start": "2020-02", "end": "2021"}
    assert moved["birthDate"] == "1950-04-10"


@given(st.dates(), st.integers(-20_000, 20_000))
def test_dicom_dates_and_fhir_dates_move_alike(day: Any, days: int) -> None:
    dataset = Dataset()
    dataset.StudyDate = day.strftime("%Y%m%d").zfill(8)
    dataset.StudyTime = "080000"
    shift_dicom(dataset, days)
    assert dataset.StudyDate == shift_resource(day.isoformat(), days, "started").replace("-", "")
    assert dataset.StudyTime == "080000"
