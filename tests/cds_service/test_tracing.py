"""Traces say which stage took how long, and nothing else of a call."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from contexts import bundle, call
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from outcomes import CANARY
from test_logs import requests_with_canaries

from cds_service.metrics import tenant_id
from cds_service.settings import Settings, SettingsError
from cds_service.tracing import Tracing

INSTANCE = "6fbcd0e7-9e70-4c3f-8a4f-6d1f4f5a9b01"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The example of W3C Trace Context, section 3.2; its last field asks for the trace to be kept."""
ATTRIBUTES = {
    *("cds.service", "cds.hook", "cds.outcome", "cds.missing", "cds.tenant", "cds.hook_instance"),
    *("http.response.status_code", "error.type"),
}


@pytest.fixture
def traced(make_app: Callable[..., Any]) -> tuple[Any, InMemorySpanExporter]:
    app = make_app()
    exporter = InMemorySpanExporter()
    app.extensions["ordersight"].tracing = Tracing(SimpleSpanProcessor(exporter))
    return app.test_client(), exporter


def root(spans: tuple[ReadableSpan, ...]) -> ReadableSpan:
    (found,) = [s for s in spans if s.parent is None]
    return found


def test_a_call_is_one_trace_with_a_span_for_each_stage(traced: tuple[Any, InMemorySpanExporter]) -> None:
    client, exporter = traced
    body = call("patient-view", hookInstance=INSTANCE, prefetch={"patient": None})
    before = time.time_ns()
    client.post("/cds-services/probe", json=body)
    spans = exporter.get_finished_spans()
    whole = root(spans)
    assert dict(whole.attributes or {}) == {
        "cds.service": "probe",
        "cds.hook": "patient-view",
        "cds.outcome": "partial",
        "cds.missing": ("labs:no-access",),
        "cds.tenant": tenant_id("anonymous"),
        "cds.hook_instance": INSTANCE,
        "http.response.status_code": 200,
    }
    stages = [s for s in spans if s.parent is not None]
    assert {"waited", "caller", "request", "evidence", "films", "record", "model", "advice"} <= {s.name for s in stages}
    for stage in stages:
        assert stage.parent is not None
        assert stage.parent.span_id == whole.context.span_id
        assert not stage.attributes
        assert whole.start_time <= stage.start_time <= stage.end_time <= whole.end_time
    assert before - 50e6 <= whole.start_time
    assert whole.end_time <= time.time_ns() + 50e6
    assert dict(whole.resource.attributes) == {"service.name": "ordersight"}


def test_the_caller_cannot_decide_what_is_traced_but_its_trace_is_linked(
    traced: tuple[Any, InMemorySpanExporter],
) -> None:
    client, exporter = traced
    headers = {"traceparent": TRACEPARENT, "tracestate": f"x={CANARY}"}
    client.post("/cds-services/silent", json=call("patient-view"), headers=headers)
    whole = root(exporter.get_finished_spans())
    assert format(whole.context.trace_id, "032x") != TRACEPARENT[3:35]
    (link,) = whole.links
    assert (format(link.context.trace_id, "032x"), format(link.context.span_id, "016x")) == tuple(
        TRACEPARENT.split("-")[1:3]
    )
    assert not link.context.trace_state
    for wrong in ("", CANARY, "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACEPARENT + CANARY):
        exporter.clear()
        client.post("/cds-services/silent", json=call("patient-view"), headers={"traceparent": wrong})
        assert not root(exporter.get_finished_spans()).links


def test_a_fault_of_ours_is_told_by_its_type_alone(traced: tuple[Any, InMemorySpanExporter]) -> None:
    client, exporter = traced
    body = call("patient-view", prefetch={"note": {"text": CANARY}})
    assert client.post("/cds-services/broken", json=body).status_code == 500
    whole = root(exporter.get_finished_spans())
    assert (whole.attributes or {})["error.type"] == "ValueError"
    assert whole.status.status_code.name == "ERROR"
    assert not whole.status.description
    assert not whole.events


def test_no_header_body_query_or_message_of_any_call_is_in_a_trace(traced: tuple[Any, InMemorySpanExporter]) -> None:
    client, exporter = traced
    for path, arguments in requests_with_canaries():
        headers = {**arguments.pop("headers", {}), "Cookie": CANARY, "User-Agent": CANARY, "X-Request-Id": CANARY}
        client.post(f"{path}{'&' if '?' in path else '?'}q={CANARY}", headers=headers, **arguments)
    spans = exporter.get_finished_spans()
    assert len([s for s in spans if s.parent is None]) > 20
    for span in spans:
        assert set(span.attributes or {}) <= ATTRIBUTES
        assert CANARY not in span.to_json()


def test_spans_reach_a_collector_on_the_network(make_app: Callable[..., Any]) -> None:
    received: list[tuple[str, bytes]] = []
    headers: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers.append(str(self.headers))
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, args=(0.02,), daemon=True).start()
        app = make_app(traces=f"http://127.0.0.1:{collector.server_port}/v1/traces")
        body = call("patient-view", prefetch={"labs": bundle(), "note": {"x": CANARY}})
        app.test_client().post(f"/cds-services/probe?q={CANARY}", json=body, headers={"tracestate": f"x={CANARY}"})
        app.extensions["ordersight"].tracing.close()  # sends what waits
        collector.shutdown()
    (path, body), *_ = received
    assert path == "/v1/traces"
    assert CANARY not in f"{received} {headers}"
    sent = ExportTraceServiceRequest.FromString(body)
    names = [span.name for r in sent.resource_spans for scope in r.scope_spans for span in scope.spans]
    assert {"cds call", "evidence", "advice"} <= set(names)


def test_traces_are_off_unless_asked_for_and_then_nothing_of_them_is_imported() -> None:
    assert Settings().traces == "off"
    for wrong in ("on", "127.0.0.1:4318", "ftp://127.0.0.1"):
        with pytest.raises(SettingsError, match="ORDERSIGHT_TRACES"):
            Settings.from_env({"ORDERSIGHT_TRACES": wrong})
    program = "import sys, json, cds_service.app; print(json.dumps([m for m in sys.modules if 'opentelemetry' in m]))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []


def test_without_its_packages_the_setting_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from cds_service.tracing import open_tracing

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"pip install 'ordersight\[otel\]'"):
        open_tracing(Settings(traces="http://127.0.0.1:4318/v1/traces"))
