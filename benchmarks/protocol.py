"""What the protocol costs: POST order-sign with an 80 KB prefetched body, at 1, 8 and 32 in flight.

    python benchmarks/protocol.py [--seconds 5] [--callers 1,8,32] [--healthchain VERSION]

Ours checks an ES384 token and keeps what it answered, once with an order that concerns no rule ("cards: []" after
the whole protocol) and once with all rules of imaging-safety over the prefetched chart. Beside it, in the same run:
HealthChain's own cds-hooks scaffold (from PyPI, in a virtual environment of its own) under uvicorn, and Flask under
waitress; both check nothing, keep nothing and answer with a constant. One process each, callers on the same cores.
Goal: 4 times HealthChain at 32 in flight, our p99 below its p50 there, at most 2.2 ms of processor for a call.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from load import Plan
from rich.console import Console
from rich.table import Table
from rig import ROOT, Ordersight, free_port, loaded, manifests_of, ordersight, save, started

from fhir_mappers.cohort.patients import generate_patient
from fhir_mappers.cohort.resources import write_chart

SERVICE = "imaging-safety"
BODY_BYTES = 80_000
FLASK = """
import sys
from flask import Flask, Response, request
from waitress import serve
app = Flask("bare")
CARDS = b'{"cards": [{"summary": "constant", "indicator": "info", "source": {"label": "bare"}}]}'
@app.get("/")
def live():
    return "ok"
@app.post("/cds-services/bare")
def call():
    request.get_json()
    return Response(CARDS, content_type="application/json")
serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=32, connection_limit=500)
"""


def body(*, concerned: bool, size: int = BODY_BYTES) -> str:
    """An order-sign call with the whole chart prefetched, filled with vital signs up to `size` bytes."""
    at = datetime.now(UTC)
    patient = next(p for n in range(100) if len((p := generate_patient(n, 7, as_of=at)).labs) > 5)
    chart = [dict(r) for r in write_chart(patient)]
    subject = {"reference": f"Patient/{patient.id}"}
    order = ("24727-0", "CT Head W contrast IV") if concerned else ("30799-1", "US Breast")
    draft = {
        "resourceType": "ServiceRequest",
        "id": "draft",
        "status": "draft",
        "intent": "order",
        "code": {"coding": [{"system": "http://loinc.org", "code": order[0], "display": order[1]}]},
        "subject": subject,
    }
    creatinine = [
        {
            "resourceType": "Observation",
            "id": f"creatinine-{n}",
            "status": "final",
            "category": [
                {
                    "coding": [
                        {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}
                    ]
                }
            ],
            "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0"}]},
            "subject": subject,
            "effectiveDateTime": (at - timedelta(hours=3 + 24 * n)).isoformat(),
            "valueQuantity": {"value": 3.4, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"},
        }
        for n in range(30)
    ]
    prefetch: dict[str, Any] = {
        "patient": next(r for r in chart if r["resourceType"] == "Patient"),
        "encounter": next((r for r in chart if r["resourceType"] == "Encounter"), None),
        "kidney": searchset(creatinine),
        "conditions": searchset([r for r in chart if r["resourceType"] == "Condition"]),
        "meds": searchset([r for r in chart if r["resourceType"] == "MedicationRequest"]),
        "allergies": searchset([]),
        "devices": searchset([]),
        "studies": searchset([]),
        "orders": searchset([]),
        "preg": searchset([]),
        "goals": searchset([]),
        "vitals": searchset([]),
    }
    call = {
        "hook": "order-sign",
        "hookInstance": str(uuid.uuid4()),
        "context": {
            "userId": "Practitioner/bench",
            "patientId": patient.id,
            "draftOrders": {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": draft}]},
        },
        "prefetch": prefetch,
    }
    need = max(0, size - len(json.dumps(call)))
    pulse = {
        "resourceType": "Observation",
        "status": "final",
        "category": [
            {
                "coding": [
                    {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}
                ]
            }
        ],
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4", "display": "Heart rate"}]},
        "subject": subject,
        "valueQuantity": {"value": 84, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
    }
    entry_bytes = len(json.dumps({"resource": {**pulse, "id": "vital-100", "effectiveDateTime": at.isoformat()}}))
    vitals = [
        {**pulse, "id": f"vital-{n}", "effectiveDateTime": (at - timedelta(minutes=30 * n)).isoformat()}
        for n in range(-(-need // entry_bytes))
    ]
    prefetch["vitals"] = searchset(vitals)
    return json.dumps(call)


def searchset(resources: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": r} for r in resources]}


def measure_ours(house: Ordersight, name: str, text: str, callers: list[int], seconds: float) -> list[dict[str, Any]]:
    # The first calls of a process that has just started may be late, and are turned away.
    answer = next((a for _ in range(10) if (a := house.call(SERVICE, text)).ok), None)
    if answer is None:
        raise SystemExit("ten calls one after the other were refused: is this machine too busy?")
    path = f"/cds-services/{SERVICE}"
    rows = []
    for n in callers:
        warm = loaded(Plan(house.base, path, [text], n, 0.5, house.tokens(SERVICE, 300)), house.pid)
        # A run whose tokens are used up ends early: three times the pace of the warm-up is enough.
        signed = house.tokens(SERVICE, int(100 + 3 * max(warm["per_s"], 30) * seconds))
        rows.append(
            {
                "server": name,
                "cards": len(answer.json()["cards"]),
                **loaded(Plan(house.base, path, [text], n, seconds, signed), house.pid),
            }
        )
    return rows


def measure_other(
    name: str, base: str, path: str, pid: int, text: str, callers: list[int], seconds: float
) -> list[dict[str, Any]]:
    rows = []
    for n in callers:
        loaded(Plan(base, path, [text], n, 0.5), pid)
        rows.append({"server": name, "cards": 1, **loaded(Plan(base, path, [text], n, seconds), pid)})
    return rows


def healthchain_venv(folder: Path, wanted: str) -> Path | None:
    """Their package in an environment of its own; None where it cannot be installed."""
    environment = folder / "healthchain-venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    install = [str(environment / "bin/pip"), "install", "-q", "--disable-pip-version-check", wanted]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    return environment if done.returncode == 0 else None


def scaffold(folder: Path, environment: Path) -> tuple[Path, str]:
    """`healthchain new` as its quick start says; only the hook is ours. Returns the folder and the path to call."""
    new = [str(environment / "bin/healthchain"), "new", "peer", "--type", "cds-hooks"]
    subprocess.run(new, cwd=folder, capture_output=True, check=True)
    program = folder / "peer/app.py"
    program.write_text(program.read_text().replace('"patient-view"', '"order-sign"'))
    return folder / "peer", "/cds/cds-services/my-service"


def versions_of(environment: Path) -> dict[str, str]:
    listed = subprocess.run(
        [str(environment / "bin/pip"), "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    found = {entry["name"].lower(): entry["version"] for entry in json.loads(listed.stdout)}
    return {name: found[name] for name in ("healthchain", "fastapi", "uvicorn", "pydantic") if name in found}


def ratios(rows: list[dict[str, Any]], callers: int) -> dict[str, float]:
    """Ours over HealthChain at `callers` in flight: above 1 is more than theirs."""
    at = {row["server"]: row for row in rows if row["callers"] == callers}
    found = {}
    for ours in ("ours, no rule concerned", "ours, all rules"):
        for peer in ("HealthChain", "bare Flask"):
            if ours in at and peer in at:
                found[f"{ours}: throughput / {peer}"] = round(at[ours]["per_s"] / at[peer]["per_s"], 2)
                found[f"{ours}: p99 / p50 of {peer}"] = round(at[ours]["p99_ms"] / at[peer]["p50_ms"], 2)
                found[f"{ours}: processor time / {peer}"] = round(at[ours]["cpu_ms"] / at[peer]["cpu_ms"], 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line")
    parser.add_argument("--callers", default="1,8,32", help="calls in flight")
    parser.add_argument("--healthchain", default="healthchain==0.16.1", help="what pip installs; empty leaves it out")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    callers = [int(n) for n in given.callers.split(",")]
    load_before = os.getloadavg()[0]
    silent, speaking = body(concerned=False), body(concerned=True)
    rows: list[dict[str, Any]] = []
    peers: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ordersight-bench-") as name:
        folder = Path(name)
        environment = healthchain_venv(folder, given.healthchain) if given.healthchain else None
        with ordersight(folder / "house", manifests=manifests_of(folder / "manifests", [SERVICE])) as house:
            rows += measure_ours(house, "ours, no rule concerned", silent, callers, given.seconds)
            rows += measure_ours(house, "ours, all rules", speaking, callers, given.seconds)
        port = free_port()
        base = f"http://127.0.0.1:{port}"
        with started([sys.executable, "-c", FLASK, str(port)], base, folder / "flask.log") as process:
            rows += measure_other("bare Flask", base, "/cds-services/bare", process.pid, silent, callers, given.seconds)
        if environment is not None:
            peers = versions_of(environment)
            project, path = scaffold(folder, environment)
            port = free_port()
            base = f"http://127.0.0.1:{port}"
            command = [str(environment / "bin/uvicorn"), "app:app", "--port", str(port), "--log-level", "warning"]
            with started(command, f"{base}/docs", folder / "healthchain.log", cwd=project) as process:
                rows += measure_other("HealthChain", base, path, process.pid, silent, callers, given.seconds)
    report = {
        "load_before": load_before,
        "body_bytes": len(silent),
        "peers": peers or "HealthChain could not be installed",
        "results": rows,
        "ratios": ratios(rows, max(callers)),
    }
    path_ = save("protocol", report, ("ordersight", "flask", "waitress", "joserfc"), given.out)
    show(report)
    print(path_.relative_to(ROOT) if path_.is_relative_to(ROOT) else path_)


def show(report: dict[str, Any]) -> None:
    table = Table("server", "in flight", "per s", "p50", "p95", "p99", "CPU ms", "RSS MB", "failed", "cards")
    for r in report["results"]:
        cells = (
            r["callers"],
            r["per_s"],
            r["p50_ms"],
            r["p95_ms"],
            r["p99_ms"],
            r["cpu_ms"],
            r["rss_mb"],
            r["failed"],
            r["cards"],
        )
        table.add_row(r["server"], *(str(cell) for cell in cells))
    Console(width=150).print(table)
    for name, value in report["ratios"].items():
        print(f"{value:8.2f}  {name}")


if __name__ == "__main__":
    main()
