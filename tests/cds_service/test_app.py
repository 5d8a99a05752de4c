"""The protocol over HTTP: discovery, calls, refusals, CORS. Each fault seen in a peer is a test here."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from callers import ISSUER, Caller
from contexts import CONTEXTS, DRAFTS, IMAGING, REQUIRED, bundle, call
from flask.testing import FlaskClient
from outcomes import CANARY, outcome

from cds_service.manifest import HOOKS
from cds_service.trust.clients import Client, Clients, FhirServer

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
ORIGIN = "https://ehr.example.org"


@pytest.fixture
def client(make_app: Callable[..., Any]) -> FlaskClient:
    made: FlaskClient = make_app(cors_origins=(ORIGIN,), max_body_bytes=200_000).test_client()
    return made


# Discovery


def test_discovery_lists_every_service_once_for_each_hook(client: FlaskClient) -> None:
    response = client.get("/cds-services")
    assert response.status_code == 200
    services = response.get_json()["services"]
    assert {(s["id"], s["hook"]) for s in services} >= {("probe", hook) for hook in HOOKS} | {
        ("twin", "order-sign"),
        ("needy", "order-sign"),
    }
    for service in services:
        assert set(service) == {"hook", "id", "title", "description", "prefetch", "usageRequirements"}
        assert all(service.values())


def test_discovery_binds_every_template_to_the_patient_and_uses_root_tokens_only(client: FlaskClient) -> None:
    for service in client.get("/cds-services").get_json()["services"]:
        for template in service["prefetch"].values():
            assert "{{context.patientId}}" in template
            assert "Practitioner/{{context.userId}}" not in template
            assert template.count("context.") == template.count("{{context.patientId}}")


def test_no_service_at_all_is_an_empty_list(make_app: Callable[..., Any]) -> None:
    from cds_service.app import create_app
    from cds_service.manifest import Services

    settings = make_app().extensions["ordersight"].settings
    app = create_app(settings, services=Services([]), clients=Clients())
    assert app.test_client().get("/cds-services").get_json() == {"services": []}


# Calls


@pytest.mark.parametrize("hook", CONTEXTS)
def test_each_hook_is_answered_with_cards(client: FlaskClient, hook: str) -> None:
    response = client.post("/cds-services/probe", json=call(hook))
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert [c["summary"] for c in response.get_json()["cards"]] == [f"probe {hook}: {len(DRAFTS[hook])} drafts, 0 labs"]


@pytest.mark.parametrize(("hook", "member"), [(h, m) for h, members in REQUIRED.items() for m in members])
def test_a_missing_context_member_is_400_and_named(client: FlaskClient, hook: str, member: str) -> None:
    context = {k: v for k, v in CONTEXTS[hook].items() if k != member}
    issue = outcome(client.post("/cds-services/probe", json=call(hook, context=context)), 400)
    assert issue["expression"] == [f"context.{member}"]


@pytest.mark.parametrize("member", ["hook", "hookInstance", "context"])
def test_a_missing_envelope_member_is_400_and_named(client: FlaskClient, member: str) -> None:
    body = {k: v for k, v in call("patient-view").items() if k != member}
    assert outcome(client.post("/cds-services/probe", json=body), 400)["expression"] == [member]


def test_the_cards_have_no_null_and_nothing_empty(client: FlaskClient) -> None:
    def check(value: Any) -> None:
        assert value not in (None, "", [], {})
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    for hook in CONTEXTS:
        check(client.post("/cds-services/probe", json=call(hook)).get_json())


def test_having_nothing_to_say_is_an_empty_list(client: FlaskClient) -> None:
    response = client.post("/cds-services/silent", json=call("patient-view"))
    assert (response.status_code, response.get_json()) == (200, {"cards": []})


def test_an_update_carries_the_whole_draft_and_its_id(client: FlaskClient) -> None:
    card = client.post("/cds-services/probe", json=call("order-sign")).get_json()["cards"][0]
    action = card["suggestions"][0]["actions"][0]
    assert action["type"] == "update"
    assert action["resource"] == {**IMAGING, "priority": "urgent"}
    assert card["selectionBehavior"] == "at-most-one"


def test_no_answer_acts_without_a_human(client: FlaskClient) -> None:
    text = "".join(client.post("/cds-services/probe", json=call(h)).get_data(as_text=True) for h in CONTEXTS)
    assert "systemActions" not in text
    assert "autolaunchable" not in text


def test_two_services_on_one_hook_each_run_their_own(client: FlaskClient) -> None:
    """A peer lists only the last of them and runs it under both addresses."""
    summaries = [
        client.post(f"/cds-services/{id_}", json=call("order-sign")).get_json()["cards"][0]["summary"]
        for id_ in ("probe", "twin")
    ]
    assert summaries == ["probe order-sign: 2 drafts, 0 labs", "the other service"]


def test_a_hook_the_service_does_not_answer_is_400_not_404(client: FlaskClient) -> None:
    """A peer runs another service's handler; 404 would read as `service gone`."""
    assert outcome(client.post("/cds-services/twin", json=call("order-select")), 400)["expression"] == ["hook"]


def test_required_data_that_cannot_be_had_is_412_never_an_empty_list(client: FlaskClient) -> None:
    issue = outcome(client.post("/cds-services/needy", json=call("order-sign")), 412)
    assert issue["expression"] == ["prefetch.labs"]
    failed = call("order-sign", prefetch={"labs": {"resourceType": "OperationOutcome", "issue": []}})
    assert outcome(client.post("/cds-services/needy", json=failed), 412)["expression"] == ["prefetch.labs"]


@pytest.mark.parametrize("nothing", [None, {"resourceType": "Bundle", "type": "searchset", "total": 0}])
def test_required_data_known_to_be_none_is_an_answer(client: FlaskClient, nothing: Any) -> None:
    response = client.post("/cds-services/needy", json=call("order-sign", prefetch={"labs": nothing}))
    assert response.status_code == 200


def test_a_fhir_server_without_a_token_is_taken_and_only_a_registered_one_read(client: FlaskClient) -> None:
    """The official sandbox opens so; the server here is registered for nobody, so nothing is contacted."""
    body = call("order-sign", fhirServer="https://ehr.example.org/R4")
    assert client.post("/cds-services/probe", json=body).status_code == 200
    assert outcome(client.post("/cds-services/needy", json=body), 412)


def test_extensions_and_unknown_members_are_ignored(client: FlaskClient) -> None:
    """Peers answer 400 to an `extension` or crash at `fhirAuthorization.patient`."""
    authorization = {
        "access_token": "t",
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "Patient.Read",
        "subject": "s",
        "patient": "p1",
        "extension": {},
    }
    body = call(
        "patient-view",
        extension={"com.epic.cdshooks.request.bpa-trigger-action": "60"},
        fhirServer="https://ehr.example.org/R4",
        fhirAuthorization=authorization,
        whatever=[1],
    )
    assert client.post("/cds-services/probe", json=body).status_code == 200


def test_a_body_beyond_100_kb_is_read_and_one_beyond_the_limit_is_413(client: FlaskClient) -> None:
    """A peer answers 413 with a stack trace at 121 KB."""
    filler = {"resourceType": "Bundle", "entry": [], "note": "x" * 150_000}
    assert client.post("/cds-services/probe", json=call("patient-view", prefetch={"x": filler})).status_code == 200
    outcome(client.post("/cds-services/probe", json=call("patient-view", note=CANARY * 20_000)), 413)


# Callers


def checked(make_app: Callable[..., Any], tmp_path: Any, caller: Caller, **settings: Any) -> FlaskClient:
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [caller.jwk()]}))
    general = Client("general", (), issuer=ISSUER, jwks_file=str(keys))
    whole = {"jwt": "required", "base_url": "https://cds.example.org", **settings}
    made: FlaskClient = make_app(clients=Clients([general]), clock=lambda: NOW, **whole).test_client()
    return made


def test_a_call_and_its_feedback_need_a_token_each_and_discovery_none(
    make_app: Callable[..., Any], tmp_path: Any
) -> None:
    caller = Caller()
    client = checked(make_app, tmp_path, caller)
    assert client.get("/cds-services").status_code == 200
    refusals = []
    for path, body in (
        ("/cds-services/probe", call("patient-view")),
        ("/cds-services/probe/feedback", {"feedback": []}),
        ("/cds-services/nope", call("patient-view")),
    ):
        refusals.append(client.post(path, json=body))
        token = caller.token(f"https://cds.example.org{path}", NOW.timestamp())
        headers = {"Authorization": f"Bearer {token}", "Host": "evil.example", "X-Forwarded-Host": "evil.example"}
        status = 404 if path.endswith("nope") else 200
        assert client.post(path, json=body, headers=headers).status_code == status
        refusals.append(client.post(path, json=body, headers=headers))
    for response in refusals:
        outcome(response, 401)
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert len({response.data for response in refusals}) == 1


def test_the_audience_is_the_address_as_called_with_its_extra_slash(
    make_app: Callable[..., Any], tmp_path: Any
) -> None:
    caller = Caller()
    client = checked(make_app, tmp_path, caller)
    token = caller.token("https://cds.example.org/cds-services//probe", NOW.timestamp())
    headers = {"Authorization": f"Bearer {token}"}
    assert client.post("/cds-services//probe", json=call("patient-view"), headers=headers).status_code == 200


def test_unchecked_callers_get_the_servers_of_whoever_registered_them(make_app: Callable[..., Any]) -> None:
    """With callers unchecked, the request's fhirServer decides; here it is registered but nobody listens on it."""
    registered = Client("demo", (FhirServer("http://127.0.0.1:9/fhir"),))
    client = make_app(clients=Clients([registered])).test_client()
    body = call("order-sign", fhirServer="http://127.0.0.1:9/fhir/")
    assert outcome(client.post("/cds-services/needy", json=body), 412)["expression"] == ["prefetch.labs"]


# Live and ready


def test_alive_is_not_ready(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client = app.test_client()
    assert client.get("/healthz").get_json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    app.extensions["ordersight"].draining.set()
    response = client.get("/readyz")
    assert (response.status_code, response.get_json()["checks"]["not_draining"]["ok"]) == (503, False)
    assert client.get("/healthz").status_code == 200


def test_unchecked_callers_are_said_aloud_at_start_and_when_asked(
    make_app: Callable[..., Any], caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        client = make_app().test_client()
    assert any("CALLERS ARE NOT CHECKED" in r.getMessage() for r in caplog.records)
    assert "CALLERS ARE NOT CHECKED" in client.get("/readyz").get_json()["warning"]
    assert "warning" not in checked(make_app, tmp_path, Caller()).get("/readyz").get_json()


def test_a_draft_of_another_patient_reaches_no_advice(client: FlaskClient) -> None:
    foreign = {**IMAGING, "id": "d9", "subject": {"reference": "Patient/p2"}, "note": [{"text": CANARY}]}
    context = {**CONTEXTS["order-sign"], "draftOrders": bundle(foreign)}
    response = client.post("/cds-services/probe", json=call("order-sign", context=context))
    assert response.get_json()["cards"][0]["summary"] == "probe order-sign: 0 drafts, 0 labs"
    assert CANARY not in response.get_data(as_text=True)
