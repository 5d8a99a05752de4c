"""Whether a deployment loses calls, and how soon a killed service is ready again.

    python benchmarks/restarts.py      # 5 restarts under load behind a proxy, then kill -9 without and with a model

Two replicas share one state, as two hosts of a site do. The proxy does what any does by itself: a replica that refuses
the connection is passed over for the other, and whatever else goes wrong is the caller's 502.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from healthy import ROOT, free_port
from load import Plan, Sample, finish, quantile, start
from protocol import body
from rig import manifests_of, save

SERVICE, WITH_MODEL = "imaging-safety", "deterioration"
CALLERS, PAUSE_S = 8, 0.2
READY_WITHIN_S = 120.0


class Replica:
    """`cds-service serve` as a process that can be ended and begun again at the same address."""

    def __init__(self, folder: Path, state: Path, service: str) -> None:
        folder.mkdir(parents=True)
        port = free_port()
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "service.log"
        given = {
            "port": port,
            "manifests": manifests_of(folder / "manifests", [service]),
            "models": ROOT / "manifests/models",
            "state_dir": state,
            "jwt": "off",
            "client_points_per_s": 1_000_000,
            "outbox_mb": 1,
        }
        self.env = {**os.environ, **{f"ORDERSIGHT_{name.upper()}": str(value) for name, value in given.items()}}
        self.begin()

    def begin(self) -> float:
        """Seconds from the start of the process until /readyz says that it may be called."""
        began = time.monotonic()
        with self.log.open("ab") as out:
            command = [sys.executable, "-P", str(Path(sys.executable).parent / "cds-service"), "serve"]
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=self.env)
        while time.monotonic() < began + READY_WITHIN_S and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return time.monotonic() - began
            except requests.RequestException:
                pass
            time.sleep(0.02)
        raise SystemExit(f"{self.url} was not ready:\n{self.log.read_text()[-3000:]}")

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def replicas(folder: Path, service: str, count: int) -> Iterator[list[Replica]]:
    made: list[Replica] = []
    try:
        made += [Replica(folder / str(n), folder / "state", service) for n in range(count)]
        yield made
    finally:
        for replica in made:
            replica.process.kill()
            replica.process.wait()


@contextmanager
def proxy(replicas: list[Replica], counts: Counter[str]) -> Iterator[str]:
    """Takes turns among the replicas; a new connection for each call, as proxies do unless told otherwise."""
    turn, lock = iter(range(10**9)), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                first = next(turn)
            status, kind, answer = 502, "text/plain", b""
            for n in range(len(replicas)):
                address = replicas[(first + n) % len(replicas)].url.removeprefix("http://")
                try:
                    upstream = http.client.HTTPConnection(address, timeout=60)
                    upstream.connect()
                except ConnectionRefusedError:
                    counts["passed over"] += 1
                    continue
                try:
                    upstream.request("POST", self.path, body, {"Content-Type": "application/json"})
                    got = upstream.getresponse()
                    status, kind, answer = got.status, got.headers["Content-Type"], got.read()
                except (OSError, http.client.HTTPException) as error:
                    counts[type(error).__name__] += 1
                finally:
                    upstream.close()
                break
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def deployed(folder: Path, restarts: int, calls: int) -> dict[str, Any]:
    """Restart the replicas in turn under load that never stops, `restarts` times and until there were so many calls."""
    counts: Counter[str] = Counter()
    samples: list[Sample] = []
    exits, ready_s, text = [], [], body(concerned=True)
    over = threading.Event()
    with replicas(folder, SERVICE, 2) as both, proxy(both, counts) as url:

        def load() -> None:
            while not over.is_set():
                plan = Plan(url, f"/cds-services/{SERVICE}", [text], CALLERS, 5.0, pause_s=PAUSE_S)
                samples.extend(finish(start(plan)))

        caller = threading.Thread(target=load)
        caller.start()
        while len(exits) < restarts or len(samples) < calls:
            replica = both[len(exits) % 2]
            time.sleep(2.0)
            exits.append(replica.end(signal.SIGTERM))
            ready_s.append(replica.begin())
        over.set()
        caller.join()
    statuses = Counter(s.status for s in samples)
    return {
        "restarts": len(exits),
        "calls": len(samples),
        "statuses": dict(sorted(statuses.items())),
        "failed": len(samples) - statuses[200],
        "exit_codes": exits,
        "proxy": dict(counts),
        "p95_ms": round(1000 * quantile([s.seconds for s in samples], 0.95)),
        "ready_s": [round(s, 1) for s in ready_s],
    }


def killed(folder: Path, service: str, times: int = 3) -> dict[str, Any]:
    """Seconds until ready after each kill -9, which comes while a call is under way."""
    ready_s, headers = [], {"Content-Type": "application/json"}
    with replicas(folder, service, 1) as (replica,), ThreadPoolExecutor(1) as pool:
        for _ in range(times):
            url, sent = f"{replica.url}/cds-services/{service}", body(concerned=True)
            pool.submit(requests.post, url, sent, headers=headers, timeout=60)
            time.sleep(0.02)
            replica.end(signal.SIGKILL)
            ready_s.append(replica.begin())
    return {"service": service, "ready_s": [round(s, 1) for s in ready_s]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restarts-") as folder:
        report: dict[str, Any] = {"deploy": deployed(Path(folder) / "deploy", asked.restarts, asked.calls)}
        print(report["deploy"], flush=True)
        report["crash"] = [killed(Path(folder) / name, name) for name in (SERVICE, WITH_MODEL)]
    print(save("restarts", report, ["flask", "waitress", "torch"], asked.out), report["crash"])


if __name__ == "__main__":
    main()
