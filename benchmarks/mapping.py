"""What reading a Bundle costs: ours against parsing it with fhir.resources, on the same bytes, on one core.

    python benchmarks/mapping.py [--sizes 100,1000,10000] [--repeats 3]

Ours goes from bytes to a PatientRecord in units, with its gaps; fhir.resources goes from bytes to a validated Bundle
(R4B, as `fhir.resources.R4B.bundle`), and has mapped nothing yet. Goal: at least 20 times faster.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from fhir.resources.R4B.bundle import Bundle
from rich.console import Console
from rich.table import Table
from rig import ROOT, best_s, exponent, save

from fhir_mappers.cohort.patients import GeneratedPatient, generate_patient
from fhir_mappers.cohort.resources import write_chart
from fhir_mappers.read import read_record
from fhir_mappers.record import PatientRecord

AS_OF = datetime(2026, 11, 24, 12, tzinfo=UTC)


def patient() -> GeneratedPatient:
    """The first of the cohort with results, a film and a history."""
    everyone = (generate_patient(n, 7, as_of=AS_OF) for n in range(200))
    return next(p for p in everyone if len(p.labs) > 5 and p.films and p.conditions)


def chart(size: int, kinds: frozenset[str] = frozenset({"Observation"})) -> tuple[str, list[dict[str, Any]]]:
    """One patient's chart of `size` resources: generated, those of `kinds` told again every two hours before."""
    one = patient()
    found: list[dict[str, Any]] = [dict(r) for r in write_chart(one)][:size]
    again = [r for r in found if r["resourceType"] in kinds and "effectiveDateTime" in r]
    number = 0
    while len(found) < size:
        source = again[number % len(again)]
        number += 1
        at = AS_OF - timedelta(hours=2 * (number // len(again) + 1))
        found.append({**source, "id": f"again-{number}", "effectiveDateTime": at.isoformat()})
    return one.id, found


def as_bundle(resources: list[dict[str, Any]]) -> bytes:
    entries = [{"fullUrl": f"urn:x:{r['resourceType']}:{r['id']}", "resource": r} for r in resources]
    return orjson.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries})


def ours(content: bytes, patient_id: str) -> PatientRecord:
    return read_record([orjson.loads(content)], as_of=AS_OF, patient_id=patient_id)


def measure(size: int, repeats: int) -> dict[str, Any]:
    patient_id, resources = chart(size)
    content = as_bundle(resources)
    record = ours(content, patient_id)
    assert len(record.labs) > 0, "the record is empty: there is nothing to compare"
    mapped = best_s(lambda: ours(content, patient_id), repeats)
    parsed = best_s(lambda: Bundle.model_validate_json(content), 1 if size > 1000 else repeats)
    return {
        "resources": size,
        "bytes": len(content),
        "labs": len(record.labs),
        "gaps": len(record.gaps),
        "ours_ms": round(1000 * mapped, 2),
        "fhir_resources_ms": round(1000 * parsed, 1),
        "ratio": round(parsed / mapped, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000", help="resources in the Bundle")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the shortest counts")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    rows = [measure(int(size), given.repeats) for size in given.sizes.split(",")]
    report: dict[str, Any] = {"load_before": load_before, "results": rows}
    if len(rows) > 1:
        report["exponent"] = round(exponent([r["resources"] for r in rows], [r["ours_ms"] for r in rows]), 2)
    path = save("mapping", report, ("ordersight", "fhir.resources", "pydantic", "orjson"), given.out)
    table = Table("resources", "MB", "labs", "gaps", "ours", "fhir.resources", "ratio")
    for r in rows:
        cells = (r["labs"], r["gaps"], f"{r['ours_ms']} ms", f"{r['fhir_resources_ms']} ms", f"{r['ratio']} x")
        table.add_row(str(r["resources"]), f"{r['bytes'] / 1e6:.2f}", *(str(c) for c in cells))
    Console(width=120).print(table)
    if "exponent" in report:
        print(f"our time grows with resources to the power of {report['exponent']}")
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
