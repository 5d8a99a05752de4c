"""Start the real counterparts of the service on free loopback ports: a FHIR R4 server and a DICOM archive.

Each dies with this process, even when it is killed. What is missing fails, with the command that installs it.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

HERE = Path(__file__).resolve().parent
START_S = 30.0
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Run in the child before exec: the kernel kills it when its parent is gone (prctl(2))."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class FhirServer:
    """`base` is the FHIR base URL; the server keeps a list of the calls it had, for tests to look at."""

    base: str
    process: subprocess.Popen[bytes]

    @property
    def _requests_url(self) -> str:
        return self.base.removesuffix("/fhir/R4") + "/requests"

    def requests(self) -> list[dict[str, Any]]:
        """The calls since the last `forget`: method, url (path and query) and authorization header."""
        answer: list[dict[str, Any]] = requests.get(self._requests_url, timeout=60).json()
        return answer

    def forget(self) -> None:
        requests.delete(self._requests_url, timeout=60).raise_for_status()


@dataclass(frozen=True)
class Orthanc:
    """`dicomweb` is the DICOMweb root, `rest` the root of Orthanc's own REST interface."""

    rest: str
    dicomweb: str
    process: subprocess.Popen[bytes]
    log: Path

    def frame_requests(self) -> int:
        """How many WADO-RS frame requests have reached the archive, counted in its own log."""
        return sum("/frames/" in line for line in self.log.read_text(errors="replace").splitlines() if " GET /" in line)

    def authorizations(self) -> int:
        """How many requests came with an Authorization header, counted in its own log."""
        return self.log.read_text(errors="replace").count("HTTP header: [authorization]")

    def instances(self) -> int:
        count: int = requests.get(f"{self.rest}/statistics", timeout=60).json()["CountInstances"]
        return count


def _need(condition: object, what: str) -> None:
    if not condition:
        pytest.fail(f"{what}; `make test` installs it", pytrace=False)


def _wait(process: subprocess.Popen[bytes], ready: Any, what: str, log: Path) -> Any:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        if answer := ready():
            return answer
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"{what} did not start in {START_S:.0f} s:\n{log.read_text(errors='replace')[-2000:]}", pytrace=False)


@contextmanager
def running_fhir_server() -> Iterator[FhirServer]:
    """Medplum's router behind tests/servers/fhir/server.mjs."""
    node = shutil.which("node")
    _need(node, "the test FHIR server needs Node 18 or newer (apt-get install nodejs npm)")
    _need(
        (HERE / "fhir/node_modules/@medplum/fhir-router").is_dir(), f"run `npm ci --ignore-scripts` in {HERE / 'fhir'}"
    )
    assert node is not None
    with tempfile.TemporaryDirectory(prefix="ordersight-fhir-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [node, "server.mjs"],
                cwd=HERE / "fhir",
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )

        def ready() -> str | None:
            lines = log.read_text().splitlines()
            return next((line.removeprefix("READY ") for line in lines if line.startswith("READY ")), None)

        try:
            yield FhirServer(_wait(process, ready, "the FHIR server", log), process)
        finally:
            process.kill()
            process.wait()


@contextmanager
def running_orthanc() -> Iterator[Orthanc]:
    """Orthanc with its DICOMweb plugin alone, on temporary storage.

    No HTTP compression (eight times slower with it) and no GDCM plugin (it crashes under parallel frame
    requests). Orthanc binds all interfaces and cannot be told otherwise; it refuses callers from outside.
    """
    binary = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    _need(binary and PLUGIN.exists(), "the test archive needs Orthanc (apt-get install orthanc orthanc-dicomweb)")
    assert binary is not None
    port = free_port()
    rest = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="ordersight-orthanc-") as folder:
        settings = {
            "Name": "tests",
            "StorageDirectory": folder,
            "IndexDirectory": folder,
            "Plugins": [str(PLUGIN)],
            "DicomServerEnabled": False,
            "HttpPort": port,
            "RemoteAccessAllowed": False,
            "HttpCompressionEnabled": False,
            "OverwriteInstances": True,
            "SaveJobs": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        config, log = Path(folder, "orthanc.json"), Path(folder, "log")
        config.write_text(json.dumps(settings))
        with log.open("wb") as out:
            process = subprocess.Popen(
                [binary, "--trace", str(config)], stdout=out, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
            )

        def ready() -> bool:
            try:
                return requests.get(f"{rest}/dicom-web/studies?limit=1", timeout=60).status_code == 200
            except requests.ConnectionError:
                return False

        try:
            _wait(process, ready, "Orthanc", log)
            yield Orthanc(rest, f"{rest}/dicom-web", process, log)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def fhir_server() -> Iterator[FhirServer]:
    """A FHIR R4 server all tests share: write resources under ids of your own."""
    with running_fhir_server() as server:
        yield server


@pytest.fixture(scope="session")
def orthanc() -> Iterator[Orthanc]:
    """A DICOM archive all tests share; a test that stops or kills it starts one of its own (`running_orthanc`)."""
    with running_orthanc() as server:
        yield server
