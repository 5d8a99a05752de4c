"""Metrics are served on a port of their own, and on none unless it was asked for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from contexts import CONTEXTS, call
from prometheus_client.parser import text_string_to_metric_families as families
from test_server import serving

from cds_service.metrics import DESCRIBED
from cds_service.metrics_server import LOOPBACK_PORT, MetricsServer
from cds_service.settings import Settings, SettingsError


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_every_metric_that_is_documented_is_there_to_be_scraped_on_a_port_of_its_own(
    make_app: Callable[..., Any], tmp_path: Path
) -> None:
    port = free_port()
    app = make_app(metrics=port)
    with serving(app, Settings(port=0, state_dir=tmp_path, metrics=port, jwt="off")) as server:
        for hook in CONTEXTS:
            requests.post(f"{server.url}/cds-services/probe", json=call(hook), timeout=60)
        answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=60)
        assert answer.status_code == 200
        assert "Server" not in answer.headers
        names = {f.name for f in families(answer.text)}
        assert {m.name.removesuffix("_total") for m in DESCRIBED} <= names
        kinds = {f.name: f.type for f in families(answer.text)}
        for metric in DESCRIBED:
            assert kinds[metric.name.removesuffix("_total")] == metric.kind
        assert requests.get(f"http://127.0.0.1:{port}/", timeout=60).status_code == 404
        assert requests.post(f"http://127.0.0.1:{port}/metrics", timeout=60).status_code == 404
        # Callers of hooks do not see them.
        assert requests.get(f"{server.url}/metrics", timeout=60).status_code == 404
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/metrics", timeout=2)


def test_metrics_are_off_unless_asked_for_and_loopback_means_loopback(make_app: Callable[..., Any]) -> None:
    assert Settings().metrics == "off"
    assert Settings.from_env({"ORDERSIGHT_METRICS": "9100"}).metrics == 9100
    for wrong in ("on", "0", "70000", "0.0.0.0:9100"):
        with pytest.raises(SettingsError, match="write off, loopback, or a port"):
            Settings.from_env({"ORDERSIGHT_METRICS": wrong})
    registry = make_app().extensions["ordersight"].metrics.registry
    listening = MetricsServer(Settings(host="0.0.0.0", metrics="loopback"), registry)
    try:
        assert listening.port == LOOPBACK_PORT
        assert requests.get(f"http://127.0.0.1:{LOOPBACK_PORT}/metrics", timeout=60).status_code == 200
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.2:{LOOPBACK_PORT}/metrics", timeout=2)
        with pytest.raises(SettingsError, match="ORDERSIGHT_METRICS: cannot listen on port"):
            MetricsServer(Settings(metrics="loopback"), registry)
    finally:
        listening.close()


def test_twenty_scrapers_that_send_half_a_request_do_not_keep_the_next_waiting(make_app: Callable[..., Any]) -> None:
    listening = MetricsServer(Settings(metrics=free_port()), make_app().extensions["ordersight"].metrics.registry)
    slow = []
    try:
        for _ in range(15):
            sock = socket.create_connection(("127.0.0.1", listening.port), 5)
            sock.sendall(b"GET /metrics HTT")
            slow.append(sock)
        began = time.monotonic()
        assert requests.get(f"http://127.0.0.1:{listening.port}/metrics", timeout=60).status_code == 200
        assert time.monotonic() - began < 2.0
    finally:
        for sock in slow:
            sock.close()
        listening.close()
