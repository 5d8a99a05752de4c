"""Models behind an address: the engine's own answers, whichever version is meant, and rules alone where nobody is."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cds_service.app import create_app
from cds_service.engine_client import EngineGone
from cds_service.engine_http import HttpLink
from cds_service.engine_versions import VERSIONS, Versions
from cds_service.engine_wire import asked, encode
from cds_service.manifest import Services
from cds_service.trust.clients import Clients
from cds_service.web_worker import await_models
from models.checkpoint import load_checkpoint, save_checkpoint
from models.contract import EngineBusy, FusionInput
from models.registry import Registry, vectors

MODELS = Path(__file__).resolve().parent.parent.parent / "manifests/models"
NAME = "chest-generated"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, and four versions of it that differ in one number each."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / NAME, models / NAME)
    stored = load_checkpoint(MODELS / NAME)
    for n in range(VERSIONS + 1):
        parameter = next(p for p in stored.model.parameters() if p.dim() == 1)
        parameter.data[0] += 0.125
        source = tmp_path_factory.mktemp(f"made-{n}")
        save_checkpoint(source, stored.model, stored.card, stored.gate)
        Registry(models).add(source)
    return models


@pytest.fixture(scope="module")
def versions(folder: Path) -> Versions:
    return Versions(folder, (NAME,))


@pytest.fixture(scope="module")
def patient(versions: Versions) -> FusionInput:
    return vectors(versions.shipped[NAME].spec)[0]


@contextmanager
def answering(reply: Callable[[bytes], tuple[int, bytes]], port: int = 0) -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = reply(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def linked(server: ThreadingHTTPServer) -> HttpLink:
    return HttpLink(f"http://127.0.0.1:{server.server_port}/engine")


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_answer_over_http_is_the_engines_own(versions: Versions, patient: FusionInput) -> None:
    with answering(lambda body: (200, encode(versions.said(asked.decode(body))))) as server:
        link = linked(server)
        assert link.wait(30)
        near = versions.shipped[NAME]
        assert link[NAME].assess(patient, timeout=30) == near.assess(patient, timeout=30)
        with pytest.raises(ValueError, match="has no target"):
            link[NAME].assess(patient, timeout=30, targets=["nonsense"])
        link.close()


def test_a_version_that_is_activated_answers_the_next_call_and_the_one_before_finishes_with_its_own(
    versions: Versions, folder: Path, patient: FusionInput
) -> None:
    with answering(lambda body: (200, encode(versions.said(asked.decode(body))))) as server:
        link = linked(server)
        assert link.wait(30)
        began = link[NAME]
        newer = next(v for v in Registry(folder).versions() if not v.shipped)
        link.active = lambda: {NAME: newer.digest}
        until(lambda: link[NAME].digest == newer.digest)
        assert link[NAME].assess(patient, timeout=30).digest == newer.digest
        assert began.assess(patient, timeout=30).digest == began.digest != newer.digest
        asks = []

        def unreadable() -> dict[str, str]:
            asks.append(True)
            raise OSError("the database is away")

        link.active = unreadable
        until(lambda: len(asks) > 1)
        assert link[NAME].digest == newer.digest
        link.active = lambda: {NAME: "0" * 64}  # not in this replica's folder: the shipped one answers
        until(lambda: link[NAME].digest == began.digest)
        link.close()


def test_a_replica_keeps_a_few_versions_and_loads_the_others_again_when_they_are_meant(
    versions: Versions, folder: Path, patient: FusionInput
) -> None:
    digests = [v.digest for v in Registry(folder).versions() if not v.shipped]
    assert len(digests) == VERSIONS + 1
    for digest in [*digests, digests[0]]:
        engine = versions.with_digest(digest)
        assert engine is not None
        assert engine.assess(patient, timeout=30).digest == digest
    assert sum(versions.has(digest) for digest in digests) == VERSIONS


def test_whoever_is_not_there_is_missed_at_once_and_found_again(versions: Versions, patient: FusionInput) -> None:
    def reply(body: bytes) -> tuple[int, bytes]:
        return 200, encode(versions.said(asked.decode(body)))

    with answering(reply) as server:
        port = server.server_port
        link = linked(server)
        assert link.wait(30)
        far = link[NAME]
    until(lambda: not far.ready)
    with pytest.raises(EngineGone):
        far.assess(patient, timeout=30)
    with answering(reply, port):
        until(lambda: far.ready)
        assert far.assess(patient, timeout=30).model.startswith(NAME)
    link.close()


def test_a_worker_that_starts_before_its_models_answers_without_them_and_finds_them_when_they_come(
    versions: Versions, make_app: Callable[..., Any]
) -> None:
    with answering(lambda body: (503, b"")) as server:
        port = server.server_port
        link = linked(server)
        await_models(link, lambda: False, 0.1)
        settings = make_app().extensions["ordersight"].settings
        app = create_app(settings, services=Services([]), clients=Clients(), engines=link)
        assert not app.extensions["ordersight"].engines
    with answering(lambda body: (200, encode(versions.said(asked.decode(body)))), port):
        until(lambda: NAME in app.extensions["ordersight"].engines)
    link.close()


@pytest.mark.parametrize(("status", "body"), [(503, b""), (429, b""), (500, b"x"), (302, b""), (200, b"no frame")])
def test_what_is_no_answer_of_ours_costs_the_estimate_and_is_no_fault_of_the_model(
    status: int, body: bytes, versions: Versions, patient: FusionInput
) -> None:
    """EngineBusy and its kinds are what `consult` turns into a card by rules alone."""
    well = [True]

    def reply(sent: bytes) -> tuple[int, bytes]:
        return (200, encode(versions.said(asked.decode(sent)))) if well[0] else (status, body)

    with answering(reply) as server:
        link = linked(server)
        assert link.wait(30)
        far = link[NAME]
        well[0] = False
        with pytest.raises(EngineBusy):
            far.assess(patient, timeout=30)
        link.close()
