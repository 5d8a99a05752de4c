"""All of the open charts, whole: no exception, and exactly the reasons for leaving something out that are known."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fhir_mappers.read import read_record

EXPLAINED: dict[str, dict[str, set[str]]] = {
    "fhir_hannover": {
        # factors XII and XIII of the source came without a LOINC code
        "unknown-code": {"Observation"},
        # values below detection, for which the source has no number
        "no-value": {"ddimer_feu", "po2_blood", "crp"},
    },
    "fhir_mimic3_demo": {
        # urine, differentials, free-text drugs and ICD-9-CM: no table has them, and words are never matched
        "unknown-code": {"Observation", "MedicationRequest", "Condition"},
        # the source gives a percentage for codes of an absolute count, and uU/ML, which is no unit of the tables
        "unknown-unit": {"eosinophils", "lymphocytes", "tsh"},
        # words where a number belongs: "GREATER THAN 10", "UNABLE TO REPORT", "NOTDONE"
        "no-value": {
            *("aptt", "ddimer_feu", "egfr", "ferritin", "haemoglobin", "hba1c", "mcv", "platelets", "rdw"),
            *("troponin_i", "troponin_t", "tsh", "vancomycin"),
        },
        # monitors unplugged or mistyped; patients over 89 are born 300 years ago in the source
        "out-of-limits": {"map", "spo2", "dbp", "sbp", "resp_rate", "o2_flow", "birth date"},
        # blood-gas analyser and laboratory within half an hour, agreeing
        "superseded": {"glucose", "potassium", "haematocrit", "chloride", "sodium", "Encounter"},
    },
    "fhir_synthea": {
        # SNOMED CT and product RxCUIs: their lists may not be shipped, a site maps its own
        "unknown-code": {"Observation", "MedicationRequest", "Condition", "Procedure", "AllergyIntolerance"},
        # Synthea writes 69 g/dL of protein: the number is in g/L, the unit is not. Refused, not guessed.
        "out-of-limits": {"protein_total"},
        "not-read": {"Immunization", "DiagnosticReport", "CarePlan", "Goal", "Organization", "Practitioner"},
        "superseded": {"Encounter"},
    },
}


def moment(resources: list[dict[str, Any]]) -> datetime:
    """An hour after the newest laboratory value, as if the order were written then."""
    times = [datetime.fromisoformat(r["effectiveDateTime"]) for r in resources if "effectiveDateTime" in r]
    return max(times, default=datetime(2026, 1, 1, tzinfo=UTC)).astimezone(UTC) + timedelta(hours=1)


@pytest.mark.parametrize("source", EXPLAINED)
def test_what_the_open_charts_leave_out_is_exactly_what_is_explained(shared: Path, source: str) -> None:
    found: dict[str, set[str]] = {}
    labs: Counter[str] = Counter()
    later = 0
    for path in sorted((shared / "data" / source / "bundles").iterdir()):
        with gzip.open(path) as file:
            resources = [entry["resource"] for entry in json.load(file)["entry"]]
        patient = next(r["id"] for r in resources if r["resourceType"] == "Patient")
        as_of = moment(resources)
        record = read_record(resources, as_of=as_of, patient_id=patient)
        labs.update(lab.analyte for lab in record.labs)
        for gap in record.gaps:
            if gap.code == "future":  # diagnoses are recorded at discharge, after the last laboratory value
                later += 1
            else:
                found.setdefault(gap.code, set()).add(gap.subject)
    assert found == EXPLAINED[source]
    assert sum(labs.values()) > 500
    assert later < 2000
