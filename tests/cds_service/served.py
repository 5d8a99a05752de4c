"""The service as a process of its own, so that its memory, its pid and its end can be looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml
from canaries import look_at

PROGRAM = """
import json, signal, sys
from pathlib import Path
from cds_service.app import create_app
from cds_service.logs import configure_logging
from cds_service.manifest import load_services
from cds_service.server import Server
from cds_service.settings import Settings

given = json.loads(sys.argv[1])
configure_logging()
for name in ("state_dir", "clients"):
    given[name] = Path(given[name])
folder = Path(given.pop("services"))
with Server(Settings(port=0, **given)) as server:
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    app = create_app(server.settings, services=load_services(folder, server.settings.profile))
    print(server.url, flush=True)
    server.run(app)
"""


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def memory_mb(self, what: str = "VmRSS") -> float:
        """`VmRSS` is what it holds now, `VmHWM` the most it has held since `forget_peak`."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"no {what} for {self.pid}")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def children(self) -> list[int]:
        return [int(c) for c in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()] or [
            int(pid)
            for task in Path(f"/proc/{self.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]

    def alive(self) -> bool:
        return self.process.poll() is None and requests.get(f"{self.url}/healthz", timeout=60).status_code == 200

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def served(
    folder: Path, services: dict[str, dict[str, Any]], clients: list[dict[str, Any]] | None = None, **settings: Any
) -> Iterator[Served]:
    """Serve these manifests to these clients, callers not checked unless the settings say so."""
    manifests = folder / "services"
    manifests.mkdir(parents=True)
    for id_, manifest in services.items():
        whole = {"id": id_, "title": id_, "description": "Of the tests.", "rules": {}, **manifest}
        (manifests / f"{id_}.yaml").write_text(yaml.safe_dump(whole))
    registered = folder / "clients.yaml"
    registered.write_text(yaml.safe_dump(clients or []))
    given = {"services": str(manifests), "clients": str(registered), "state_dir": str(folder / "state"), "jwt": "off"}
    given["outbox_mb"] = 1
    log = folder / "log"
    path = os.pathsep.join([p for p in sys.path if (Path(p) / "test_advice-1.0.dist-info").exists()])
    path += os.pathsep + str(Path(__file__).parent) + os.pathsep + os.environ.get("PYTHONPATH", "")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps({**given, **settings})],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        assert url, log.read_text()
        running = Served(url, process, log)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                requests.get(f"{url}/healthz", timeout=60)
                break
            except requests.ConnectionError:
                time.sleep(0.02)
        yield running
    finally:
        process.kill()
        process.wait()
        look_at(log.read_text(errors="replace"), "the standard error of a served process")
