"""How time grows: with results in the chart, earlier films, services installed and hospitals registered.

    python benchmarks/growth.py [--only labs] [--seconds 3]

labs      100 to 10,000 in one Bundle: from bytes to the model's input
priors    0 to 5 earlier imaging studies beside the chart: the same
services  1 to 8 manifests: CPU of a POST to one of them over HTTP, signed, one caller
tenants   1 to 50 registered clients: the same

Printed as exponents of time over size: 1 is linear. Goal: linear or below everywhere.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import orjson
from load import Plan
from mapping import AS_OF, as_bundle, chart, patient
from protocol import SERVICE, body
from rich.console import Console
from rich.table import Table
from rig import ROOT, best_s, exponent, loaded, manifests_of, ordersight, save

from fhir_mappers.cohort.resources import write_chart
from fhir_mappers.read import read_record
from fhir_mappers.tensors import to_fusion_input
from models.checkpoint import read_card
from models.contract import InputSpec

MODEL = "chest-generated"


def to_input_ms(content: bytes, patient_id: str, spec: InputSpec, repeats: int) -> float:
    def once() -> None:
        to_fusion_input(read_record([orjson.loads(content)], as_of=AS_OF, patient_id=patient_id), spec)

    return round(1000 * best_s(once, repeats), 3)


def with_labs(sizes: list[int], spec: InputSpec, repeats: int) -> list[tuple[int, float]]:
    found = []
    for size in sizes:
        patient_id, resources = chart(size)
        found.append((size, to_input_ms(as_bundle(resources), patient_id, spec, repeats)))
    return found


def with_priors(counts: list[int], spec: InputSpec, repeats: int) -> list[tuple[int, float]]:
    """Each prior is an ImagingStudy and a report of the generated patient, a month earlier than the one before."""
    one = patient()
    whole = [dict(r) for r in write_chart(one)]
    studies = [r for r in whole if r["resourceType"] == "ImagingStudy"][:1]
    reports = [r for r in whole if r["resourceType"] == "DiagnosticReport"][:1]
    rest = [r for r in whole if r["resourceType"] not in ("ImagingStudy", "DiagnosticReport")]
    found = []
    for count in counts:
        priors = []
        for n in range(count):
            at = (AS_OF - timedelta(days=30 * (n + 1))).isoformat()
            priors += [{**s, "id": f"study-{n}", "started": at, "identifier": []} for s in studies]
            priors += [{**r, "id": f"report-{n}", "effectiveDateTime": at, "issued": at} for r in reports]
        found.append((count, to_input_ms(as_bundle(rest + priors), one.id, spec, repeats)))
    return found


def over_http(folder: Path, services: list[str], tenants: int, seconds: float) -> float:
    """Milliseconds of processor for one signed call, one at a time."""
    text = body(concerned=True)
    with ordersight(folder, manifests=manifests_of(folder / "manifests", services, MODEL), tenants=tenants) as house:
        path = f"/cds-services/{SERVICE}"
        for part_s in (0.5, seconds):
            signed = house.tokens(SERVICE, int(600 * part_s))
            row = loaded(Plan(house.base, path, [text], 1, part_s, signed), house.pid)
        assert row["failed"] == 0, row
    return float(row["cpu_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="labs, priors, services or tenants")
    parser.add_argument("--seconds", type=float, default=3.0, help="of calls for each line over HTTP")
    parser.add_argument("--repeats", type=int, default=5, help="runs in this process, of which the shortest counts")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    spec = read_card(ROOT / "manifests/models" / MODEL).spec
    others = sorted(p.stem for p in (ROOT / "manifests/services").glob("*.yaml") if p.stem != SERVICE)
    series: dict[str, list[tuple[int, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="ordersight-bench-") as name:
        if given.only in ("", "labs"):
            series["labs"] = with_labs([100, 300, 1000, 3000, 10000], spec, given.repeats)
        if given.only in ("", "priors"):
            series["priors"] = with_priors([0, 1, 2, 3, 4, 5], spec, given.repeats)
        if given.only in ("", "services"):
            series["services"] = [
                (n, over_http(Path(name) / f"services-{n}", [SERVICE, *others[: n - 1]], 1, given.seconds))
                for n in (1, 2, 4, 8)
            ]
        if given.only in ("", "tenants"):
            series["tenants"] = [
                (n, over_http(Path(name) / f"tenants-{n}", [SERVICE], n, given.seconds)) for n in (1, 5, 20, 50)
            ]
    # From none to some has no exponent: priors count from the chart with its first study.
    exponents = {
        kind: round(exponent([n for n, _ in points if n], [ms for n, ms in points if n]), 2)
        for kind, points in series.items()
    }
    report = {"load_before": load_before, "model": MODEL, "series_ms": series, "exponents": exponents}
    path = save("growth", report, ("ordersight", "orjson", "msgspec"), given.out)
    table = Table("with", "size: ms", "exponent")
    for kind, points in series.items():
        table.add_row(kind, ", ".join(f"{n}: {ms}" for n, ms in points), str(exponents[kind]))
    Console(width=130).print(table)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
