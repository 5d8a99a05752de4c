"""What the benchmarks share: the service as `cds-service serve` runs it, processes, and results on disk."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests
import yaml
from healthy import ISSUER, ROOT, free_port, machine, tokens
from joserfc.jwk import ECKey, KeySet
from load import Plan, Sample, finish, quantile, start

RESULTS = ROOT / "benchmarks/results"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@contextmanager
def started(
    command: Sequence[str], url: str, log: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A process once it answers at `url`, and ended afterwards."""
    with log.open("wb") as out:
        process = subprocess.Popen(list(command), stdout=out, stderr=out, cwd=cwd, env={**os.environ, **(env or {})})
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            try:
                if requests.get(url, timeout=10).ok:
                    break
            except requests.RequestException:
                pass
            time.sleep(0.1)
        else:
            raise SystemExit(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Ordersight:
    """A running service that checks callers.

    base     its address
    key      the one its caller signs with
    pid, log of its process
    """

    def __init__(self, base: str, key: ECKey, pid: int, log: Path) -> None:
        self.base, self.key, self.pid, self.log = base, key, pid, log

    def tokens(self, service: str, count: int) -> tuple[str, ...]:
        return tokens(self.key, f"{self.base}/cds-services/{service}", count)

    def call(self, service: str, body: str) -> requests.Response:
        (token,) = self.tokens(service, 1)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        url = f"{self.base}/cds-services/{service}"
        return requests.post(url, data=body.encode(), headers=headers, timeout=60)


@contextmanager
def ordersight(
    folder: Path, *, manifests: Path, ehr: str = "http://127.0.0.1:1", tenants: int = 1, **settings: object
) -> Iterator[Ordersight]:
    """The service with these manifests and one registered caller among `tenants`, its state under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    key = ECKey.generate_key("P-384", {"kid": "bench", "alg": "ES384", "use": "sig"})
    (folder / "jwks.json").write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    fhir = [{"base": f"{ehr}/demo/fhir", "dicomweb": [f"{ehr}/demo/dicomweb"]}]
    clients = [
        {
            "name": f"tenant-{n}",
            "tenant": f"tenant-{n}",
            "issuer": ISSUER if n == 0 else f"https://ehr-{n}.example.org",
            "jwks_file": str(folder / "jwks.json"),
            "audience": base,
            "fhir": fhir,
        }
        for n in range(tenants)
    ]
    (folder / "clients.yaml").write_text(yaml.safe_dump(clients))
    given = {
        "host": "127.0.0.1",
        "port": port,
        "manifests": manifests,
        "models": ROOT / "manifests/models",
        "clients": folder / "clients.yaml",
        "state_dir": folder / "state",
        "client_points_per_s": 1_000_000,
        **settings,
    }
    env = {f"ORDERSIGHT_{name.upper()}": str(value) for name, value in given.items()}
    command = [sys.executable, "-P", str(Path(sys.executable).parent / "cds-service"), "serve"]
    with started(command, f"{base}/healthz", folder / "service.log", env) as process:
        yield Ordersight(base, key, process.pid, folder / "service.log")


def manifests_of(folder: Path, services: Sequence[str], model: str = "") -> Path:
    """A manifests folder with these of our services; those with a model get `model`, if one is named."""
    (folder / "services").mkdir(parents=True, exist_ok=True)
    for name in services:
        text = (ROOT / f"manifests/services/{name}.yaml").read_text()
        if model:
            text = re.sub(r"^model: .*$", f"model: {model}", text, flags=re.MULTILINE)
        (folder / f"services/{name}.yaml").write_text(text)
    return folder


def cpu_s(pid: int) -> float:
    """Seconds of processor a process has used, its threads included (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mb(pid: int) -> float:
    (line,) = (x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def loaded(plan: Plan, pid: int) -> dict[str, Any]:
    """Carry out a plan from another process and say what it cost the server `pid`."""
    before = cpu_s(pid)
    samples = finish(start(plan))
    used = cpu_s(pid) - before
    return {
        "callers": plan.callers,
        **summary(samples, plan.seconds),
        "cpu_ms": per_call(used, samples),
        "rss_mb": round(rss_mb(pid)),
    }


def per_call(used_s: float, samples: Sequence[Sample]) -> float:
    return round(1000 * used_s / len(samples), 2) if samples else math.nan


def summary(samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    took = [s.seconds for s in samples if s.status == 200]
    return {
        "calls": len(samples),
        "failed": sum(s.status != 200 for s in samples),
        "per_s": round(len(took) / seconds, 1),
        **{f"p{q}_ms": round(1000 * quantile(took, q / 100), 1) for q in (50, 95, 99)},
    }


def best_s(what: Callable[[], object], repeats: int = 5) -> float:
    """Processor seconds of this process, the shortest of several runs: other work on the machine counts little."""
    took = []
    for _ in range(repeats):
        began = time.process_time()
        what()
        took.append(time.process_time() - began)
    return min(took)


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The slope of log time over log size by least squares: 1 is linear, below it sub-linear."""
    x, y = [math.log(s) for s in sizes], [math.log(t) for t in times]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def save(name: str, report: Mapping[str, Any], packages: Sequence[str], out: Path | None = None) -> Path:
    """Write the results with machine, date, load and versions; returns the file."""
    now = datetime.now(UTC)
    path = out or RESULTS / f"{name}-{now.date().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {package: version(package) for package in packages}
    head = {"benchmark": name, "finished": now.isoformat(timespec="seconds"), **machine(), "versions": versions}
    head["load_after"] = head.pop("load_before")
    path.write_text(json.dumps({**head, **report}, indent=2, ensure_ascii=False) + "\n")
    return path
