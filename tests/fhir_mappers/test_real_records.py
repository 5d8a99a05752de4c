"""Whole real records go through the mappers and nothing is lost: each resource is read, or a Gap says rightly why not.

The reasons are judged against the reference tables and the resources themselves, not against the mappers.
"""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cds_service.cli.importing import read_bundle
from cds_service.cli.shifting import newest
from fhir_mappers.read import read_record
from fhir_mappers.record import Gap, PatientRecord

SOURCES = ("fhir_hannover", "fhir_mimic3_demo", "fhir_synthea")
READ = {  # the resources of these sources that a service has use for
    "Observation",
    "Condition",
    "MedicationRequest",
    "AllergyIntolerance",
    "Procedure",
    "ImagingStudy",
    "Patient",
    "Encounter",
    "DiagnosticReport",
}


def records(shared: Path, source: str) -> list[tuple[list[dict[str, Any]], PatientRecord]]:
    """Twelve records, the smallest to the largest, each read an hour after its newest item."""
    paths = sorted((shared / "data" / source / "bundles").iterdir(), key=lambda p: p.stat().st_size)
    found = []
    for path in paths[:: max(1, len(paths) // 12)]:
        resources = read_bundle(path)
        last = newest(resources)
        assert last is not None
        patient = next(r["id"] for r in resources if r["resourceType"] == "Patient")
        found.append((resources, read_record(resources, as_of=last + timedelta(hours=1), patient_id=patient)))
    return found


def table(shared: Path) -> dict[str, dict[str, str]]:
    """LOINC code -> row of clinical/labs.csv and vitals.csv."""
    rows: dict[str, dict[str, str]] = {}
    for name in ("labs.csv", "vitals.csv"):
        with (shared / "clinical" / name).open(encoding="utf-8", newline="") as file:
            rows |= {row["loinc"]: row for row in csv.DictReader(file)}
    return rows


def loinc_codes(observation: dict[str, Any]) -> set[str]:
    concepts = [observation.get("code", {}), *(c.get("code", {}) for c in observation.get("component", ()))]
    return {c.get("code", "") for concept in concepts for c in concept.get("coding", ()) if "loinc" in c["system"]}


def used(record: PatientRecord) -> set[str]:
    lists = (record.labs, record.coded, record.events, record.allergies, record.orders, record.studies, record.reports)
    named = {item.source.reference for items in lists for item in items}
    encounter = {record.encounter.source.reference} if record.encounter else set()
    return named | encounter | {f"Patient/{record.person.id}"}


@pytest.mark.parametrize("source", SOURCES)
def test_every_resource_is_read_or_named_in_a_gap(shared: Path, source: str) -> None:
    for resources, record in records(shared, source):
        accounted = used(record) | {gap.reference for gap in record.gaps}
        lost = [f"{r['resourceType']}/{r['id']}" for r in resources]
        assert [reference for reference in lost if reference not in accounted] == []


@pytest.mark.parametrize("source", SOURCES)
def test_every_gap_is_explained_by_the_resource_and_the_tables(shared: Path, source: str) -> None:
    rows = table(shared)
    unexplained = []
    for resources, record in records(shared, source):
        by_reference = {f"{r['resourceType']}/{r['id']}": r for r in resources}
        unexplained += [gap for gap in record.gaps if not explained(gap, by_reference[gap.reference], rows)]
    assert Counter((gap.code, gap.subject) for gap in unexplained) == Counter()


def explained(gap: Gap, resource: dict[str, Any], rows: dict[str, dict[str, str]]) -> bool:
    """Whether the reason a gap gives is true of its resource."""
    if gap.code == "not-read":
        return resource["resourceType"] not in READ or (gap.subject == "DiagnosticReport" and not radiology(resource))
    if gap.code == "superseded":
        return resource["resourceType"] in ("Encounter", "Observation")
    if resource["resourceType"] == "Patient":
        born = resource.get("birthDate", "")
        # MIMIC moves the birth of patients over 89 so that they are about 300 years old.
        return (gap.code == "out-of-limits" and datetime.fromisoformat(born).year < 2000) or gap.code == "no-value"
    if resource["resourceType"] != "Observation":
        return gap.code == "unknown-code"  # kept in the record as text where it has a use; no table knows its code
    known = loinc_codes(resource) & rows.keys()
    if gap.code == "unknown-code":
        return not known
    quantities = [q for q in (resource.get("valueQuantity"), *components(resource)) if q]
    if gap.code in ("unknown-unit", "no-unit"):
        return any(q.get("code", q.get("unit", "")) not in units(rows[c]) for c in known for q in quantities)
    if gap.code == "no-value":
        return bool(known) and all("value" not in q or "comparator" in q for q in quantities)
    if gap.code == "out-of-limits":
        return any(outside(float(q["value"]), rows[c]) for c in known for q in quantities if "value" in q)
    return False


def components(resource: dict[str, Any]) -> list[dict[str, Any]]:
    return [c.get("valueQuantity", {}) for c in resource.get("component", ())]


def radiology(report: dict[str, Any]) -> bool:
    return "RAD" in str(report.get("category", "")) or bool(report.get("imagingStudy"))


def units(row: dict[str, str]) -> set[str]:
    return {row["canonical_ucum"], *(part.rpartition(":")[0] for part in row["alt_units"].split(";") if part)}


def outside(value: float, row: dict[str, str]) -> bool:
    """Beyond the table's limits under the canonical unit or any listed conversion."""
    factors = [
        1.0,
        *(float(p.rpartition(":")[2].split("+")[0].split("-")[0]) for p in row["alt_units"].split(";") if p),
    ]
    low, high = float(row["reject_low"] or "-inf"), float(row["reject_high"] or "inf")
    return any(not low <= value * factor <= high for factor in factors)


def test_a_hannover_record_holds_every_laboratory_value_with_a_known_code(shared: Path) -> None:
    rows = table(shared)
    for resources, record in records(shared, "fhir_hannover"):
        expected = {
            (f"Observation/{r['id']}", float(r["valueQuantity"]["value"]))
            for r in resources
            if r["resourceType"] == "Observation"
            and loinc_codes(r) & rows.keys()
            and "value" in r.get("valueQuantity", {})
        }
        found = {(lab.source.reference, float(lab.printed.split()[0].lstrip("<>="))) for lab in record.labs}
        assert found == expected
        assert len(record.studies) == sum(r["resourceType"] == "ImagingStudy" for r in resources)


def test_a_record_read_before_its_films_holds_none_of_them(shared: Path) -> None:
    resources, _ = records(shared, "fhir_hannover")[-1]
    first = min(datetime.fromisoformat(r["started"]) for r in resources if r["resourceType"] == "ImagingStudy")
    patient = next(r["id"] for r in resources if r["resourceType"] == "Patient")
    before = read_record(resources, as_of=(first - timedelta(days=1)).astimezone(UTC), patient_id=patient)
    assert before.studies == ()
    assert all(lab.at <= before.as_of for lab in before.labs)
