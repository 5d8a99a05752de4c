"""`/readyz` says what does not hold, in words that tell a stranger nothing; `/healthz` that the process answers."""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from cds_service import readiness
from cds_service.app import create_app
from cds_service.manifest import EvidenceItem, Service, Services
from cds_service.readiness import disk_free, warnings
from cds_service.settings import Settings
from cds_service.state import keeper
from cds_service.trust.clients import Clients


def until(client: FlaskClient, status: int, seconds: float) -> dict[str, Any]:
    """The body of /readyz once it has this status."""
    end = time.monotonic() + seconds
    while (answer := client.get("/readyz")).status_code != status:
        assert time.monotonic() < end, answer.get_json()
        time.sleep(0.05)
    body: dict[str, Any] = answer.get_json()
    return body


def test_every_check_is_named_with_its_reason_only_where_it_does_not_hold(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client = app.test_client()
    body = until(client, 200, 5)
    assert set(body["checks"]) == {"not_draining", "models", "models_well", "state_writable", "outbox", "disk_free"}
    assert all(check == {"ok": True} for check in body["checks"].values())
    app.extensions["ordersight"].draining.set()
    body = until(client, 503, 5)
    assert body["ready"] is False
    assert body["checks"]["not_draining"] == {"ok": False, "why": "the service is stopping"}
    assert client.get("/healthz").get_json() == {"status": "ok"}


def test_a_model_that_is_not_loaded_or_not_warm_keeps_calls_away(plugin: Path, tmp_path: Path) -> None:
    class Cold:
        ready = False

    class Warm:
        ready = True

    evidence = {"labs": EvidenceItem(search="Observation")}
    services = Services([Service("thinks", ("patient-view",), "t", "d", "silent", evidence, {}, model="small")])
    for engines, status in (({}, 503), ({"small": Cold()}, 503), ({"small": Warm()}, 200)):
        settings = Settings(jwt="off", state_dir=tmp_path / "state")
        app = create_app(settings, services=services, clients=Clients(), engines=engines)  # type: ignore[arg-type]
        answer = app.test_client().get("/readyz")
        assert answer.status_code == status
        if status == 503:
            assert answer.get_json()["checks"]["models"] == {"ok": False, "why": "not loaded and warm: small"}
        app.extensions["ordersight"].close()


def test_a_database_that_takes_no_writes_shows_without_a_call_and_so_does_its_return(
    make_app: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(readiness, "WROTE_WITHIN_S", 1.5)
    client = make_app().test_client()
    until(client, 200, 5)
    with sqlite3.connect(tmp_path / "state" / "state.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # as a backup program that was left hanging would
        body = until(client, 503, 15)
        assert body["checks"]["state_writable"] == {"ok": False, "why": "the database has taken no write lately"}
        assert client.get("/healthz").status_code == 200
        other.execute("ROLLBACK")
    until(client, 200, 15)


def test_a_disk_with_less_than_a_twentieth_free_is_not_ready(
    make_app: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_app().test_client()
    usage = shutil.disk_usage(tmp_path)
    assert disk_free(tmp_path) == pytest.approx(usage.free / usage.total, abs=0.05)
    assert disk_free(tmp_path / "gone") == 0.0
    monkeypatch.setattr(readiness, "LEAST_FREE", 1.1)
    assert client.get("/readyz").get_json()["checks"]["disk_free"]["ok"] is False


def test_a_stranger_learns_no_host_path_or_version(make_app: Callable[..., Any], tmp_path: Path) -> None:
    app = make_app()
    app.extensions["ordersight"].draining.set()
    text = app.test_client().get("/readyz").get_data(as_text=True)
    for told in (socket.gethostname(), str(tmp_path), "sqlite", "/", "127.0.0.1"):
        assert told not in text.lower().replace("(ordersight_jwt=off)", "")
    assert not re.search(r"\d+\.\d+", text)


def test_an_old_sqlite_is_worth_a_warning_only_where_it_holds_the_state(tmp_path: Path) -> None:
    embedded = Settings(state_dir=tmp_path)
    (warning,) = warnings(embedded, (3, 51, 2))
    assert "SQLite 3.51.2" in warning
    assert "3.51.3" in warning
    assert warnings(embedded, (3, 51, 3)) == ()
    assert warnings(embedded, (3, 52, 0)) == ()
    elsewhere = Settings(state_dir=tmp_path, state_url="postgresql+psycopg://user@host/database")
    assert warnings(elsewhere, (3, 40, 1)) == ()
