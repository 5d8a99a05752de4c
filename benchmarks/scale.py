"""Ray Serve with 1, 2 and 4 replicas on this machine's cores, what is felt when a replica and then the head die, and a
simulation of 200 hospitals from these numbers.

    pip install 'ordersight[ray]'; python benchmarks/scale.py [--replicas 1,2,4] [--seconds 5] [--callers 8]

replicas  made-up patients asked of the models over HTTP, so many at a time; beside it the engine in this process
losses    a service that has its models on Ray, under load while a replica is killed, then the head, then the head is
          started again, as KubeRay would: answers by status, and how long the models were away
hospitals a simulation and no measurement: Poisson calls of 200 hospitals in their busiest hour, each taking one replica
          what a call took here; how many replicas keep 99 % of the waits under 50 ms
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from load import HOOK_INSTANCE, Plan, finish, quantile, start
from rich.console import Console
from rich.table import Table
from rig import ROOT, Ordersight, free_port, manifests_of, ordersight, rss_mb, save, started

from cds_service.engine_http import HttpLink
from models.contract import Assessor, EngineBusy, EngineTimeout, FusionInput
from models.registry import vectors
from models.serving import Engine

MODEL, SERVICE = "chest-generated", "deterioration"
HOSPITALS, CALLS_A_DAY, BUSIEST_HOUR, WAIT_S = 200, 2_500, 0.12, 0.050
"""Assumed, not measured: order-time and chart-opening calls of a hospital that reach a model."""
HEAD = """
import os, signal, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray import serve
from cds_service.engine_ray import build
replicas, port, models, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
ray.init(num_cpus=replicas + 2, include_dashboard=False, object_store_memory=80_000_000, _node_ip_address="127.0.0.1",
         log_to_driver=False, configure_logging=False)
serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
application = build({"models": models, "names": name, "replicas": str(replicas)})
serve.run(application, name="engine", route_prefix="/engine")
signal.pause()
"""


def descendants(pid: int) -> list[int]:
    """All processes below one, by what the kernel says of parents."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, above = [], {pid}
    while above:
        above = {child for child, parent in parents.items() if parent in above}
        found += sorted(above)
    return found


def named(pid: int, *names: str) -> list[int]:
    """Those below `pid` whose command line holds one of the names."""

    def line(child: int) -> str:
        try:
            return Path(f"/proc/{child}/cmdline").read_text()
        except OSError:
            return ""

    return [child for child in descendants(pid) if any(name in line(child) for name in names)]


@contextmanager
def ray(replicas: int, port: int, folder: Path) -> Iterator[int]:
    """A cluster of this machine with so many replicas; the pid of its driver. All of it is ended afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", HEAD, str(replicas), str(port), str(ROOT / "manifests/models"), MODEL]
    with started(command, f"http://127.0.0.1:{port}/-/healthz", folder / f"ray-{uuid.uuid4().hex}.log") as process:
        try:
            yield process.pid
        finally:
            end(process.pid)


def end(pid: int) -> None:
    for child in descendants(pid):
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def until(holds: Callable[[], bool], seconds: float = 120.0) -> float:
    """How long it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise SystemExit(f"not within {seconds:g} s")
        time.sleep(0.05)
    return round(time.monotonic() - began, 1)


def asked(engine: Assessor, patients: list[FusionInput], callers: int, seconds: float) -> dict[str, Any]:
    """A closed loop of callers."""
    end_at = time.monotonic() + seconds
    took: list[float] = []
    refused = Counter[str]()

    def work(first: int) -> None:
        number = first
        while time.monotonic() < end_at:
            began = time.perf_counter()
            try:
                engine.assess(patients[number % len(patients)], timeout=5.0)
            except (EngineBusy, EngineTimeout) as error:
                refused[type(error).__name__] += 1
            else:
                took.append(time.perf_counter() - began)
            number += callers

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(work, range(callers)))
    return {
        "calls": len(took) + refused.total(),
        "refused": dict(refused),
        "per_s": round(len(took) / seconds, 1),
        **{f"p{q}_ms": round(1000 * quantile(took, q / 100), 1) for q in (50, 95, 99)},
    }


def with_replicas(counts: list[int], callers: int, seconds: float, folder: Path) -> list[dict[str, Any]]:
    with Engine.load(ROOT / "manifests/models" / MODEL, device="cpu") as engine:
        patients = vectors(engine.spec)
        asked(engine, patients, callers, 1.0)
        rows = [{"where": "in this process", **asked(engine, patients, callers, seconds)}]
        rows.append({"where": "in this process, one caller", **asked(engine, patients, 1, seconds)})
    for count in counts:
        port = free_port()
        with ray(count, port, folder) as pid:
            link = HttpLink(f"http://127.0.0.1:{port}/engine")
            until(lambda link=link: link.connected)
            until(lambda pid=pid, count=count: len(named(pid, "ServeReplica")) >= count)
            asked(link[MODEL], patients, callers, 2.0)
            row = {"where": f"Ray Serve, {count} replicas", **asked(link[MODEL], patients, callers, seconds)}
            rows.append({**row, "ray_rss_mb": round(sum(rss_mb(p) for p in descendants(pid)))})
            link.close()
    return rows


def body() -> str:
    keys = ("encounter", "vitals", "labs", "conditions", "meds", "given", "orders", "tests", "reports", "studies")
    patient = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1960-01-01"}
    context = {"userId": "Practitioner/1", "patientId": "p1"}
    prefetch = {**dict.fromkeys((*keys, "genes")), "patient": patient}
    return json.dumps({"hook": "patient-view", "hookInstance": HOOK_INSTANCE, "context": context, "prefetch": prefetch})


def losses(folder: Path, callers: int) -> dict[str, Any]:
    """What callers felt, phase by phase."""
    port, found = free_port(), dict[str, Any]()
    manifests = manifests_of(folder / "manifests", [SERVICE], MODEL)
    url = f"http://127.0.0.1:{port}/engine"
    with ray(2, port, folder) as pid, ordersight(folder / "house", manifests=manifests, engine_url=url) as house:
        until(lambda: ready(house))
        until(lambda: len(named(pid, "ServeReplica")) >= 2)
        found["both there"] = felt(house, callers, lambda: time.sleep(5.0))

        def kill_replica() -> None:
            before = named(pid, "ServeReplica")
            os.kill(before[0], signal.SIGKILL)
            found["replica back after s"] = until(lambda: len(set(named(pid, "ServeReplica")) - {before[0]}) >= 2)

        found["a replica killed"] = felt(house, callers, kill_replica)

        def kill_head() -> None:
            for child in named(pid, "gcs_server", "raylet"):
                os.kill(child, signal.SIGKILL)
            found["models missed after s"] = until(lambda: not ready(house))
            time.sleep(3.0)

        found["the head killed"] = felt(house, callers, kill_head)
        end(pid)

        def start_again() -> None:
            with ray(2, port, folder):
                found["models found again after s"] = until(lambda: ready(house))
                time.sleep(3.0)

        found["the head started again"] = felt(house, callers, start_again)
    return found


def ready(house: Ordersight) -> bool:
    return requests.get(f"{house.base}/readyz", timeout=30).status_code == 200


def felt(house: Ordersight, callers: int, what: Callable[[], None]) -> dict[str, Any]:
    """Load from another process for as long as `what` takes, and what came of it."""
    since = house.log.stat().st_size
    over = threading.Event()
    samples = []

    def load() -> None:
        while not over.is_set():
            tokens = house.tokens(SERVICE, 600)
            samples.extend(finish(start(Plan(house.base, f"/cds-services/{SERVICE}", [body()], callers, 1.0, tokens))))

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        try:
            what()
        finally:
            over.set()
        loading.result()
    lines = [json.loads(x) for x in house.log.read_bytes()[since:].splitlines() if x.startswith(b"{")]
    told = [line for line in lines if line["event"] == "consultation"]
    return {
        "statuses": dict(Counter(str(s.status) for s in samples)),
        "with_model": sum(bool(line["model"]) for line in told),
        "by_rules_alone": sum(not line["model"] for line in told),
        "p95_ms": round(1000 * quantile([s.seconds for s in samples if s.status == 200], 0.95), 1),
    }


def hospitals(service_s: float) -> dict[str, Any]:
    """The fewest replicas with 99 % of waits under WAIT_S, in a simulated busiest hour."""
    rate = HOSPITALS * CALLS_A_DAY * BUSIEST_HOUR / 3600
    rng = np.random.default_rng(20_261_125)
    at = np.cumsum(rng.exponential(1 / rate, int(rate * 3600)))
    replicas, p99_s = 0, math.inf
    while p99_s > WAIT_S:
        replicas += 1
        free = [0.0] * replicas
        waits = []
        for arrival in at:
            begins = max(float(arrival), free[0])
            heapq.heapreplace(free, begins + service_s)
            waits.append(begins - float(arrival))
        p99_s = float(np.percentile(waits, 99))
    return {
        "simulated": True,
        "hospitals": HOSPITALS,
        "assumed_calls_a_day_each": CALLS_A_DAY,
        "assumed_share_of_busiest_hour": BUSIEST_HOUR,
        "calls_per_s": round(rate, 1),
        "one_call_takes_ms": round(1000 * service_s, 1),
        "replicas": replicas,
        "p99_wait_ms": round(1000 * p99_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="1,2,4")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ordersight-bench-") as name:
        counts = [int(n) for n in given.replicas.split(",")]
        rows = with_replicas(counts, given.callers, given.seconds, Path(name))
        felt_by_phase = losses(Path(name), 4)
    report = {
        "load_before": load_before,
        "model": MODEL,
        "callers": given.callers,
        "replicas": rows,
        "losses": felt_by_phase,
        "hospitals": hospitals(rows[1]["p50_ms"] / 1000),
    }
    path = save("scale", report, ("ordersight", "ray", "torch"), given.out)
    table = Table("where", "calls", "per s", "p50", "p95", "p99", "refused")
    for r in rows:
        table.add_row(r["where"], *(str(r[k]) for k in ("calls", "per_s", "p50_ms", "p95_ms", "p99_ms", "refused")))
    console = Console(width=130)
    console.print(table)
    console.print(felt_by_phase)
    console.print(report["hospitals"])
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
