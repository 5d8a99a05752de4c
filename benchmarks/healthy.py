"""How fast the service answers when everything is well: 8 calls in flight, everything real, on this machine.

    python benchmarks/healthy.py [--callers 8] [--seconds 15] [--model chest-generated] [--out FILE]

The service, with the manifests of this repository, callers checked, films and model on; the demo EHR as its FHIR
server and archive; and the callers: three kinds of processes, on the same cores. Goal: p95 of patient-view at most
500 ms, of an order-time hook that reads films at most 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import yaml
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from load import HOOK_INSTANCE, Plan, finish, quantile, start
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cds_service.demo.fire import USER, fill
from cds_service.manifest import load_services
from cds_service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
ISSUER = "https://bench.example.org"
GOAL_MS = {"patient-view": 500, "order-select": 2000, "order-sign": 2000}
EHR = """
import sys
from flask import Flask
from waitress import serve
from cds_service.demo.ehr import demo_blueprint
app = Flask("demo")
app.register_blueprint(demo_blueprint())
serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=16, connection_limit=500)
"""
SERVICE = """
import json, signal, sys
from pathlib import Path
from cds_service.app import create_app
from cds_service.logs import configure_logging
from cds_service.manifest import load_services
from cds_service.server import Server
from cds_service.settings import Settings
from models.serving import Engine

given = json.loads(sys.argv[1])
configure_logging()
model = given.pop("model")
settings = Settings(**{**given, "state_dir": Path(given["state_dir"]), "clients": Path(given["clients"])})
services = load_services(settings.manifests / "services", settings.profile, model=model)
engines = {name: Engine.load(settings.models / name) for name in services.models()}
with Server(settings) as server:
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.run(create_app(settings, services=services, engines=engines))
"""


@dataclass(frozen=True)
class Scenario:
    """One line of the table: calls of one service, sent with or without prefetch."""

    service: str
    hook: str
    prefetch: bool
    bodies: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.hook}, {self.service}, {'prefetch sent' if self.prefetch else 'read by us'}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(program: str, argument: str, url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program in a process of its own, once it answers at `url`."""
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", program, argument], stdout=out, stderr=out, cwd=ROOT)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            try:
                requests.get(url, timeout=10)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"it did not start:\n{log.read_text()[-3000:]}")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def call(ehr: str, service: dict[str, Any], patient: str, *, prefetch: bool) -> str | None:
    """One hook call of the demo EHR for a patient; None where the patient has no such order."""
    session = requests.Session()
    chart = session.get(f"{ehr}/demo/patients/{patient}/order-entry", timeout=60).json()
    # A user of their own for each call: calls of one user for one patient are one event, and wait for each other.
    context: dict[str, Any] = {
        "userId": f"{USER}-{HOOK_INSTANCE}",
        "patientId": patient,
        "encounterId": chart.get("encounterId"),
    }
    if service["hook"].startswith("order-"):
        if not chart.get("scenario"):
            return None
        drafts = chart["scenario"][0]["drafts"]
        context["draftOrders"] = {
            "resourceType": "Bundle",
            "type": "collection",
            "entry": [{"resource": d} for d in drafts],
        }
        context["selections"] = [f"{d['resourceType']}/{d['id']}" for d in drafts]
    body: dict[str, Any] = {
        "hook": service["hook"],
        "hookInstance": HOOK_INSTANCE,
        "fhirServer": f"{ehr}/demo/fhir",
        "context": context,
    }
    if prefetch:
        queries = {key: fill(template, context) for key, template in service["prefetch"].items()}
        answers = {k: session.get(f"{ehr}/demo/fhir/{q}", timeout=60) for k, q in queries.items() if q is not None}
        body["prefetch"] = {key: answer.json() for key, answer in answers.items() if answer.ok}
    return json.dumps(body)


def patients(ehr: str) -> list[str]:
    found = requests.get(f"{ehr}/demo/fhir/Patient?_count=200", timeout=120).json()
    return [entry["resource"]["id"] for entry in found["entry"]]


def scenarios(ehr: str, service: str) -> list[Scenario]:
    """Every service under every hook the demo's patients can make, with prefetch and without."""
    listed = requests.get(f"{service}/cds-services", timeout=30).json()["services"]
    everyone = patients(ehr)
    found = []
    for entry in track([e for e in listed if e["hook"] in GOAL_MS], "Writing calls ..."):
        for prefetch in (True, False):
            bodies = [call(ehr, entry, patient, prefetch=prefetch) for patient in everyone]
            made = tuple(b for b in bodies if b is not None)
            if made:
                found.append(Scenario(entry["id"], entry["hook"], prefetch, made))
    return found


def tokens(key: ECKey, audience: str, count: int) -> tuple[str, ...]:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": audience, "iat": now, "exp": now + 3000}
    header = {"alg": "ES384", "kid": "bench", "typ": "JWT"}
    return tuple(
        jwt.encode(header, {**claims, "jti": str(uuid.uuid4())}, key, algorithms=["ES384"]) for _ in range(count)
    )


def measure(base: str, scenario: Scenario, key: ECKey, callers: int, seconds: float) -> dict[str, Any]:
    path = f"/cds-services/{scenario.service}"
    bodies = list(scenario.bodies)
    warm = finish(start(Plan(base, path, bodies, 2, 1.0, tokens(key, base + path, 2000))))
    # As many tokens as would do at four times the pace of the first second.
    enough = int(max(500, 4 * len(warm) * seconds))
    samples = finish(start(Plan(base, path, bodies, callers, seconds, tokens(key, base + path, enough))))
    took = [s.seconds for s in samples]
    return {
        "scenario": scenario.name,
        "calls": len(samples),
        "per_s": round(len(samples) / seconds, 1),
        "statuses": dict(Counter(s.status for s in samples)),
        **{f"p{q}_ms": round(1000 * quantile(took, q / 100)) for q in (50, 95, 99, 100)},
        "goal_p95_ms": GOAL_MS[scenario.hook],
    }


def machine() -> dict[str, Any]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "device": "cpu",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=8, help="calls in flight")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each scenario")
    parser.add_argument("--model", default="chest-generated", help="a folder under manifests/models")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/healthy.json")
    given = parser.parse_args()
    if not (Settings(jwt="off").models / given.model).is_dir():
        raise SystemExit(f"there is no model {given.model!r} under {Settings(jwt='off').models}")
    load_services(ROOT / "manifests/services", "research_imaging")
    key = ECKey.generate_key("P-384", {"kid": "bench", "alg": "ES384", "use": "sig"})
    report: dict[str, Any] = {**machine(), "callers": given.callers, "seconds": given.seconds, "model": given.model}
    with tempfile.TemporaryDirectory(prefix="ordersight-bench-") as name:
        folder = Path(name)
        ehr_port, port = free_port(), free_port()
        ehr, base = f"http://127.0.0.1:{ehr_port}", f"http://127.0.0.1:{port}"
        (folder / "jwks.json").write_text(json.dumps(KeySet([key]).as_dict(private=False)))
        client = {
            "name": "bench",
            "tenant": "bench",
            "issuer": ISSUER,
            "jwks_file": str(folder / "jwks.json"),
            "audience": base,
            "fhir": [{"base": f"{ehr}/demo/fhir", "dicomweb": [f"{ehr}/demo/dicomweb"]}],
        }
        (folder / "clients.yaml").write_text(yaml.safe_dump([client]))
        settings = {
            "port": port,
            "clients": str(folder / "clients.yaml"),
            "state_dir": str(folder / "state"),
            "profile": "research_imaging",
            "client_points_per_s": 100_000,
            "model": given.model,
        }
        with (
            running(EHR, str(ehr_port), f"{ehr}/demo/fhir/metadata", folder / "ehr.log"),
            running(SERVICE, json.dumps(settings), f"{base}/healthz", folder / "service.log"),
        ):
            wanted = [s for s in scenarios(ehr, base) if given.only in s.name]
            report["results"] = [
                measure(base, s, key, given.callers, given.seconds) for s in track(wanted, "Calling ...")
            ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=2) + "\n")
    show(report)


def show(report: dict[str, Any]) -> None:
    title = f"{report['callers']} calls in flight, {report['cores']} cores, {report['cpu']}, {report['date']}"
    table = Table("scenario", "calls", "per s", "p50", "p95", "p99", "worst", "goal p95", "answers", title=title)
    for r in report["results"]:
        met = "green" if r["p95_ms"] <= r["goal_p95_ms"] else "red"
        table.add_row(
            r["scenario"],
            str(r["calls"]),
            str(r["per_s"]),
            *(f"{r[f'p{q}_ms']} ms" for q in (50,)),
            f"[{met}]{r['p95_ms']} ms[/]",
            f"{r['p99_ms']} ms",
            f"{r['p100_ms']} ms",
            f"{r['goal_p95_ms']} ms",
            ", ".join(f"{n} x {status}" for status, n in r["statuses"].items()),
        )
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
