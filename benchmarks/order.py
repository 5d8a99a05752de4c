"""The whole answer to an order that is about to be signed: token, record kept, mapping, fused model, rules, card.

    python benchmarks/order.py [--service imaging-timing] [--callers 8] [--calls 500] [--latency-ms 20]

cached     everything prefetched, the film's encoding in the engine's cache
fetched    nothing prefetched, from a FHIR server and an archive that take 20 ms for each answer
cold       everything prefetched but the film, which nobody has asked for before: one call for each patient

Beside `fetched` its critical path: three answers one after the other (search, the study's metadata, its frame) and
what one cached call takes by itself, without its own stage of evidence: the archive is asked there as well. A film
counts as cold where the service's log says that it spent time on films; the line says of how many calls.
Goals: cached p95 250 ms and p99 400 ms at 8 in flight on two cores, no failure;
fetched at most 1.3 times its critical path.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import requests
from healthy import call, patients
from load import Plan, Sample
from rich.console import Console
from rich.table import Table
from rig import ROOT, Ordersight, free_port, loaded, manifests_of, ordersight, quantile, save, started, summary

ROUNDS = 3
EHR = """
import sys, time
from flask import Flask
from waitress import serve
from cds_service.demo.ehr import demo_blueprint
app = Flask("demo")
app.register_blueprint(demo_blueprint())
inner, late_s = app.wsgi_app, float(sys.argv[2]) / 1000
def late(environ, start):
    if environ["PATH_INFO"].startswith(("/demo/fhir", "/demo/dicomweb")):
        time.sleep(late_s)
    return inner(environ, start)
app.wsgi_app = late
serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=32, connection_limit=500)
"""


def bodies(ehr: str, entry: dict[str, Any]) -> list[tuple[str, str]]:
    """(with prefetch, without) for every occasion of the demo's patients to sign something."""
    made = []
    for patient in patients(ehr):
        sent, unsent = (call(ehr, entry, patient, prefetch=prefetch) for prefetch in (True, False))
        if sent is not None and unsent is not None:
            made.append((sent, unsent))
    return made


def weighed(house: Ordersight, service: str, calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those calls for which the model is asked, by the service's own log."""
    found = []
    for sent, unsent in calls:
        since = house.log.stat().st_size
        if house.call(service, sent).ok and "model" in stages(house.log, since):
            found.append((sent, unsent))
    return found


def one_by_one(house: Ordersight, service: str, calls: list[str]) -> list[Sample]:
    found = []
    for text in calls:
        began = time.perf_counter()
        answer = house.call(service, text)
        found.append(Sample(answer.status_code, time.perf_counter() - began, True))
    return found


def stages(log: Path, since: int) -> dict[str, float]:
    """The median milliseconds of each stage in the service's own log lines after byte `since`."""
    each = spent(log, since)
    names = {name for ms in each for name in ms}
    return {name: round(quantile([ms[name] for ms in each if name in ms], 0.5), 1) for name in sorted(names)}


def spent(log: Path, since: int) -> list[dict[str, float]]:
    """The milliseconds of every stage, of each call that is logged after byte `since`."""
    lines = [json.loads(x) for x in log.read_bytes()[since:].splitlines() if x.startswith(b"{")]
    return [line["ms"] for line in lines if isinstance(line.get("ms"), dict)]


def under_load(house: Ordersight, service: str, calls: list[str], callers: int, count: int) -> dict[str, Any]:
    """About `count` calls at `callers` in flight, after a short warm-up that says how long that will take."""
    path = f"/cds-services/{service}"
    warm = loaded(Plan(house.base, path, calls, callers, 2.0, house.tokens(service, 600)), house.pid)
    seconds = max(2.0, min(600.0, count / max(1.0, warm["per_s"])))
    since = house.log.stat().st_size
    row = loaded(Plan(house.base, path, calls, callers, seconds, house.tokens(service, count * 2)), house.pid)
    return {**row, "stages_ms": stages(house.log, since)}


def find_calls(ehr: str, scout: Ordersight, service: str) -> list[tuple[str, str]]:
    """The calls to measure, found by asking a service of its own: the one that is measured has seen no film yet."""
    listed = requests.get(f"{scout.base}/cds-services", timeout=30).json()["services"]
    entry = next(e for e in listed if e["id"] == service and e["hook"] == "order-sign")
    return weighed(scout, service, bodies(ehr, entry))


def measure(
    house: Ordersight, service: str, calls: list[tuple[str, str]], callers: int, count: int, latency_ms: float
) -> dict[str, Any]:
    sent, unsent = [a for a, _ in calls], [b for _, b in calls]
    since = house.log.stat().st_size
    cold = {**summary(one_by_one(house, service, sent), 1.0), "stages_ms": stages(house.log, since)}
    with_films = sum(ms.get("films", 0) > 0 for ms in spent(house.log, since))
    rows = [{"what": "cold film", "callers": 1, **cold, "per_s": None, "cpu_ms": None, "rss_mb": None}]
    since = house.log.stat().st_size
    alone = quantile([s.seconds for s in one_by_one(house, service, sent * 2) if s.status == 200], 0.5)
    asking_ms = stages(house.log, since).get("evidence", 0.0)
    fetched_alone = summary(one_by_one(house, service, unsent * 2), 1.0)
    rows.append(
        {"what": "fetched, alone", **fetched_alone, "callers": 1, "per_s": None, "cpu_ms": None, "rss_mb": None}
    )
    rows.append({"what": "cached", **under_load(house, service, sent, callers, count)})
    rows.append({"what": "fetched", **under_load(house, service, unsent, callers, count // 4)})
    critical_ms = ROUNDS * latency_ms + max(0.0, 1000 * alone - asking_ms)
    return {
        "patients": len(sent),
        "results": rows,
        "calls_with_cold_film": with_films,
        "cached_alone_p50_ms": round(1000 * alone, 1),
        "cached_alone_evidence_ms": asking_ms,
        "critical_path_ms": round(critical_ms, 1),
        "fetched_over_critical_path": round(fetched_alone["p50_ms"] / critical_ms, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", default="imaging-timing")
    parser.add_argument("--model", default="chest-generated", help="a folder under manifests/models")
    parser.add_argument("--callers", type=int, default=8, help="calls in flight")
    parser.add_argument("--calls", type=int, default=500, help="about how many cached calls; the goal is 5000")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="before each answer of the FHIR server")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ordersight-bench-") as name:
        folder = Path(name)
        port = free_port()
        ehr = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", EHR, str(port), str(given.latency_ms)]
        manifests = manifests_of(folder / "manifests", [given.service], given.model)
        asked: dict[str, Any] = {"manifests": manifests, "ehr": ehr, "profile": "research_imaging"}
        with started(command, f"{ehr}/demo/fhir/metadata", folder / "ehr.log"):
            with ordersight(folder / "scout", **asked) as scout:
                calls = find_calls(ehr, scout, given.service)
            if not calls:
                raise SystemExit(f"no order of the demo's patients makes {given.service} ask its model")
            with ordersight(folder / "house", **asked) as house:
                found = measure(house, given.service, calls, given.callers, given.calls, given.latency_ms)
    head = {"load_before": load_before, "service": given.service, "model": given.model, "latency_ms": given.latency_ms}
    path = save("order", {**head, **found}, ("ordersight", "torch", "waitress"), given.out)
    show(found)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def show(found: dict[str, Any]) -> None:
    table = Table("what", "in flight", "calls", "per s", "p50", "p95", "p99", "CPU ms", "RSS MB", "failed")
    for r in found["results"]:
        keys = ("callers", "calls", "per_s", "p50_ms", "p95_ms", "p99_ms", "cpu_ms", "rss_mb", "failed")
        table.add_row(r["what"], *("" if r[key] is None else str(r[key]) for key in keys))
    Console(width=130).print(table)
    for r in found["results"]:
        if r.get("stages_ms"):
            print(f"{r['what']}: median ms by stage: " + ", ".join(f"{k} {v}" for k, v in r["stages_ms"].items()))
    alone, whole = found["cached_alone_p50_ms"], found["critical_path_ms"]
    asking = found["cached_alone_evidence_ms"]
    print(f"cold film: {found['calls_with_cold_film']} of {found['patients']} calls had one to read")
    print(f"critical path of fetched: {whole} ms ({ROUNDS} answers and {alone} ms without {asking} ms of asking)")
    print(f"fetched, alone: {found['fetched_over_critical_path']} times that")


if __name__ == "__main__":
    main()
