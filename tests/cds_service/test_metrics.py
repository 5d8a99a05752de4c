"""Prometheus metrics: true figures, a bounded number of series, and nothing of a patient."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import requests
from callers import ISSUER, Caller
from contexts import bundle, call
from flask import Flask
from moody import Mood, Moody, Seen, hang, reply
from outcomes import CANARY
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families as families
from small_model import WholeModel
from test_logs import requests_with_canaries
from test_server import serving

from cds_service.admission import Reason as ShedReason
from cds_service.app import create_app
from cds_service.breaker import Kind
from cds_service.cards import Card, Source
from cds_service.feedback import Feedback, OverrideReason, Reason
from cds_service.manifest import HOOKS, EvidenceItem, Service, Services, load_services
from cds_service.metrics import FETCHED, OF_OURS, REASON_GROUPS, STAGES, Outcome, tenant_id
from cds_service.settings import Settings
from cds_service.state.records import FeedbackResult
from cds_service.trust.clients import Client, Clients, FhirServer
from cds_service.trust.jwt import Refusal

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
LABS = {"resourceType": "Observation", "id": "o1", "status": "final", "subject": {"reference": "Patient/p1"}}


def scrape(app: Flask) -> str:
    return generate_latest(app.extensions["ordersight"].metrics.registry).decode()


def series(text: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}


def value(app: Flask, name: str, **labels: str) -> float:
    """The sum over the samples with these labels."""
    return sum(
        sample.value
        for family in families(scrape(app))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_each_call_is_counted_once_with_what_became_of_it(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client = app.test_client()
    whole = call("patient-view", prefetch={"patient": None, "labs": bundle(LABS)})
    assert client.post("/cds-services/probe", json=whole).status_code == 200
    client.post("/cds-services/silent", json=whole)
    client.post("/cds-services/probe", json=call("patient-view"))  # nothing sent, no server to ask
    client.post("/cds-services/needy", json=call("patient-view"))
    client.post("/cds-services/probe", json={"hook": "patient-view"})
    client.post("/cds-services/nobody", json=whole)
    client.post("/cds-services/broken", json=call("patient-view", prefetch={"note": {}}))
    counted = {
        (s.labels["service"], s.labels["hook"], s.labels["status_class"], s.labels["outcome"]): s.value
        for family in families(scrape(app))
        for s in family.samples
        if s.name == "cds_requests_total" and s.value
    }
    assert counted == {
        ("probe", "patient-view", "2xx", "advice"): 1,
        ("silent", "patient-view", "2xx", "empty"): 1,
        ("probe", "patient-view", "2xx", "partial"): 1,
        ("needy", "patient-view", "4xx", "no_data"): 1,
        ("probe", "none", "4xx", "refused"): 1,
        ("none", "none", "4xx", "refused"): 1,
        ("broken", "patient-view", "5xx", "error"): 1,
    }
    assert value(app, "cards_total", service="probe", indicator="info") == 2
    assert value(app, "fhir_missing_total", what="labs") == 3
    assert value(app, "cds_request_seconds_count") == 5
    assert value(app, "cds_stage_seconds_count", stage="evidence") == 5
    assert value(app, "cds_stage_seconds_count", stage="advice") == 3


@pytest.mark.in_time
def test_an_answer_after_its_budget_is_counted_as_late(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client = app.test_client()
    # The manifest gives 3 s; `slow` takes 0.4 s.
    for waited_s, late in ((2.0, 0.0), (2.8, 1.0)):
        began = {"ordersight.started": time.monotonic() - waited_s}
        assert client.post("/cds-services/slow", json=call("patient-view"), environ_overrides=began).status_code == 200
        assert value(app, "cds_deadline_missed_total", service="slow") == late
    assert value(app, "cds_request_seconds_count", service="slow") == 2
    # Of what was never begun there is no time to tell.
    began = {"ordersight.started": time.monotonic() - 3.1}
    assert client.post("/cds-services/slow", json=call("patient-view"), environ_overrides=began).status_code == 503
    assert value(app, "cds_request_seconds_count", service="slow") == 2
    assert value(app, "cds_requests_total", service="slow", outcome="shed") == 1
    assert value(app, "shed_total", reason="late") == 1


@pytest.mark.in_time
def test_reads_breakers_and_bulkheads_show_which_client_they_are_of_and_not_its_name(
    make_app: Callable[..., Any],
) -> None:
    def answer(seen: Seen) -> Mood:
        return hang if "Patient/" in seen.path else reply(json.dumps({"resourceType": "Bundle", "type": "searchset"}))

    with Moody(answer) as ehr:
        app = make_app(clients=Clients([Client("general-hospital", (FhirServer(ehr.base),))]))
        app.test_client().post("/cds-services/probe", json=call("patient-view", fhirServer=ehr.base))
        of = {"client": tenant_id("general-hospital"), "kind": "fhir"}
        assert value(app, "fhir_fetch_seconds_count", outcome="ok", **of) == 1
        assert value(app, "fhir_fetch_seconds_count", outcome="timeout", **of) == 1
        assert value(app, "bulkhead_limit", pool="fhir") == 16
        assert value(app, "breaker_state", **of) == 0
        for _ in range(12):
            permit = app.extensions["ordersight"].fetcher.breakers.of("general-hospital", "fhir", ehr.base).allow()
            if permit:
                permit.ended(good=False)
        assert value(app, "breaker_state", **of) == 2
        text = scrape(app)
    assert "general" not in text
    assert "127.0.0.1" not in text


@dataclass
class Named(WholeModel):
    name: str = "small@3"
    digest: str = "0123456789abcdef" * 4
    device: str = "cpu"


def test_a_model_is_named_timed_and_its_failures_counted_by_kind(plugin: Path, tmp_path: Path) -> None:
    model = Named(time.sleep, {"explained": 0.06})
    evidence = {"labs": EvidenceItem(search="Observation?category=laboratory")}
    service = Service("thinks", ("patient-view",), "t", "d", "thoughts", evidence, {}, model="small", budget_ms={})
    settings = Settings(jwt="off", state_dir=tmp_path / "state")
    app = create_app(settings, services=Services((service,)), clients=Clients(), engines={"small": model})
    client = app.test_client()
    for fault in (None, float("nan"), RuntimeError(CANARY)):
        model.fault = fault
        assert client.post("/cds-services/thinks", json=call("patient-view")).status_code == 200
    of = {"model": "small", "version": "3", "device": "cpu"}
    assert value(app, "model_seconds_count", **of) == 2
    assert value(app, "model_seconds_bucket", le="0.05", **of) == 0  # each took 60 ms
    assert value(app, "model_failures_total", kind="not-a-number") == 1
    assert value(app, "model_failures_total", kind="error") == 1
    assert value(app, "model_info", model="small", version="3", sha="0123456789ab") == 1
    assert value(app, "fhir_missing_total", what="model") == 2
    assert CANARY not in scrape(app)
    app.extensions["ordersight"].close()


def test_refused_callers_and_key_sets_are_counted_by_reason(make_app: Callable[..., Any], tmp_path: Path) -> None:
    caller = Caller()
    keys = tmp_path / "jwks.json"
    keys.write_text('{"keys": []}')
    clients = Clients([Client("general", (), issuer=ISSUER, jwks_file=str(keys))])
    app = make_app(clients=clients, clock=lambda: NOW, jwt="required", base_url="https://cds.example.org")
    client = app.test_client()
    expired = caller.token("https://cds.example.org/cds-services/probe", NOW.timestamp() - 7200)
    for token in ("", "Bearer x.y.z", f"Bearer {expired}"):
        answer = client.post("/cds-services/probe", json=call("patient-view"), headers={"Authorization": token})
        assert answer.status_code == 401
    assert value(app, "jwt_refused_total", reason="no-token") == 1
    assert value(app, "jwt_refused_total", reason="malformed") == 1
    assert value(app, "jwt_refused_total", reason="expired") == 1
    until = time.monotonic() + 5
    while not value(app, "jwks_refresh_total", outcome="ok") and time.monotonic() < until:
        time.sleep(0.01)
    assert value(app, "jwks_refresh_total", outcome="ok") == 1


def test_a_batch_of_feedback_sent_again_is_not_counted_again(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client = app.test_client()
    cards = client.post("/cds-services/probe", json=call("order-sign")).get_json()["cards"]
    at = {"outcomeTimestamp": "2026-11-23T09:00:00Z"}
    reason = {"reason": {"code": "patient-refuses", "system": "urn:x"}, "userComment": CANARY}
    batch = {
        "feedback": [
            {"card": cards[0]["uuid"], "outcome": "overridden", "overrideReason": reason, **at},
            {"card": "unknown", "outcome": "accepted", "acceptedSuggestions": [{"id": "s"}], **at},
        ]
    }
    for _ in range(3):
        assert client.post("/cds-services/probe/feedback", json=batch).status_code == 200
    assert value(app, "feedback_total", outcome="overridden", reason_group="patient-refuses") == 1
    assert value(app, "feedback_total", outcome="accepted", reason_group="none") == 1
    assert value(app, "feedback_unmatched_total") == 1
    assert value(app, "cds_requests_total", hook="feedback", outcome="empty") == 3
    assert CANARY not in scrape(app)


def test_ten_thousand_patients_users_and_addresses_add_no_series(make_app: Callable[..., Any]) -> None:
    app = make_app()
    metrics = app.extensions["ordersight"].metrics
    client = app.test_client()

    def visit(i: int) -> None:
        context = {"userId": f"Practitioner/u{i}", "patientId": f"p{i}", "encounterId": f"e{i}"}
        body = {"hook": "patient-view", "hookInstance": f"i{i}", "context": context}
        client.post("/cds-services/silent", json=body)
        client.post(f"/cds-services/silent-{i}", json=body)
        client.post("/cds-services/silent", json={**body, "hook": f"hook-{i}"})
        item = {"card": f"c{i}", "outcome": "overridden", "outcomeTimestamp": "2026-11-23T09:00:00Z"}
        item["overrideReason"] = {"reason": {"code": f"r{i}"}}
        client.post("/cds-services/silent/feedback", json={"feedback": [item]})

    def elsewhere(i: int) -> None:
        """What stands below the routes is told names of its own; none of them may become a label."""
        metrics.answered(f"s{i}", f"h{i}", 200, "empty")
        metrics.took(f"s{i}", f"h{i}", 0.1, late=True)
        metrics.stage(f"stage{i}", 0.1)
        metrics.missing([f"key{i}"])
        metrics.fetched("general", "fhir", f"outcome{i}", 0.1)
        metrics.turned_away(f"s{i}", bool(i % 2))
        metrics.advised(f"s{i}", [Card("x", "info", Source("y"))])

    for i in range(4):
        visit(i)
        elsewhere(i)
    before = series(scrape(app))
    for i in range(10, 510):
        visit(i)
    for i in range(1000, 9500):
        elsewhere(i)
    assert series(scrape(app)) == before


@pytest.fixture
def large(plugin: Path, tmp_path: Path) -> Iterator[Flask]:
    """Ten services on all ten hooks, and ten clients with a FHIR server and an archive each."""
    services = Services(
        [
            Service(
                f"service-{i}",
                HOOKS,
                "t",
                "d",
                "silent",
                load_services(ROOT / "manifests" / "services").all[0].evidence,
                {},
            )
            for i in range(10)
        ]
    )
    clients = Clients([Client(f"c{i}", (FhirServer(f"https://ehr{i}.example.org/fhir"),)) for i in range(10)])
    app = create_app(Settings(jwt="off", state_dir=tmp_path / "state"), services=services, clients=clients)
    yield app
    app.extensions["ordersight"].close()


def test_ten_tenants_and_ten_services_stay_under_five_thousand_series(
    large: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that can be said is said once: no load makes more series than this (RELIABILITY: under 5,000)."""
    house = large.extensions["ordersight"]
    metrics = house.metrics
    ends: list[tuple[int, Outcome]] = [
        *((200, o) for o in ("advice", "empty", "partial")),  # type: ignore[misc]
        (412, "no_data"),
        (400, "refused"),
        (429, "shed"),
        (503, "shed"),
        (500, "error"),
    ]
    assert {outcome for _, outcome in ends} == set(get_args(Outcome))
    for service in (*(s.id for s in house.services.all), None):
        for hook in (*HOOKS, "feedback", None):
            for status, outcome in ends:
                metrics.answered(service, hook, status, outcome)
    for service in (s.id for s in house.services.all):
        for hook in HOOKS:
            metrics.took(service, hook, 0.1, late=True)
        for indicator in ("info", "warning", "critical"):
            metrics.advised(service, [Card("x", indicator, Source("y"))])  # type: ignore[arg-type]
        for given in (None, *(OverrideReason(Reason(code)) for code in (*REASON_GROUPS, "x")), OverrideReason()):
            for outcome in ("accepted", "overridden"):
                item = Feedback("c", outcome, NOW, (), (given,) if given else ())
                metrics.feedback(service, [item], FeedbackResult(1, 0, 1))
    for stage in (*STAGES, "other"):
        metrics.stage(stage, 0.1)
    metrics.missing([*OF_OURS, "other", *(key for s in house.services.all for key in s.evidence)])
    for client in house.clients.all:
        for kind in get_args(Kind):
            house.fetcher.breakers.of(client.name, kind, client.fhir[0].base)
            for fetched in FETCHED:
                metrics.fetched(client.name, kind, fetched, 0.1)
    for model in ("one@1", "two@1"):
        metrics.assessed(model, 0.1)
    house.admission.shed.update(get_args(ShedReason))
    house.verifier.refused.update(get_args(Refusal))
    found = series(scrape(large))
    with capsys.disabled():
        print(f"\n  {len(found)} series", end="")
    assert 3000 < len(found) < 5000


def test_no_canary_of_any_request_reaches_the_metrics(make_app: Callable[..., Any], tmp_path: Path) -> None:
    shared: dict[str, Any] = {"jwt": "off", "max_body_bytes": 500_000}
    app = make_app(**shared)
    with serving(app, Settings(port=0, state_dir=tmp_path, threads=4, **shared)) as server:
        for path, arguments in requests_with_canaries():
            requests.post(server.url + path, timeout=10, **arguments)
        text = scrape(app)
    assert 'outcome="error"' in text
    assert CANARY.lower() not in text.lower()
