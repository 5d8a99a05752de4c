"""What a hook call may look like, what it may not, and what the refusal says."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from contexts import CONTEXTS, DRAFTS, DRUG, IMAGING, REQUIRED, bundle, call

from cds_service.errors import BadRequest
from cds_service.hooks import HookRequest, parse_hook_request
from cds_service.manifest import HOOKS

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
CANARY = "Zebra7Canary"
EVERY = [(hook, member) for hook, members in REQUIRED.items() for member in members]
AUTHORIZATION = {
    "access_token": f"{CANARY}.token",
    "token_type": "Bearer",
    "expires_in": 300,
    "scope": "user/Patient.rs",
    "subject": "ordersight",
}


def parse(body: Any) -> HookRequest:
    return parse_hook_request(body if isinstance(body, bytes) else json.dumps(body).encode(), NOW)


def refused(body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(body)
    assert CANARY not in caught.value.diagnostics
    return caught.value


def without(hook: str, member: str) -> dict[str, Any]:
    return call(hook, context={k: v for k, v in CONTEXTS[hook].items() if k != member})


def test_the_ten_hooks_of_the_library_are_read() -> None:
    assert set(CONTEXTS) == set(HOOKS)


@pytest.mark.parametrize("hook", CONTEXTS)
def test_a_valid_call_of_each_hook_is_read(hook: str) -> None:
    request = parse(call(hook))
    assert (request.hook, request.context.patient_id, request.received_at) == (hook, "p1", NOW)
    assert request.context.user_id == CONTEXTS[hook].get("userId")
    assert request.context.encounter_id == CONTEXTS[hook].get("encounterId")
    assert tuple(d["resourceType"] for d in request.drafts()) == DRAFTS[hook]


@pytest.mark.parametrize(("hook", "member"), EVERY)
def test_a_missing_required_member_is_named(hook: str, member: str) -> None:
    error = refused(without(hook, member))
    assert error.expression == f"context.{member}"
    assert f"`context.{member}` is required" in error.diagnostics


@pytest.mark.parametrize(("hook", "member"), EVERY)
def test_a_required_member_of_the_wrong_type_is_named(hook: str, member: str) -> None:
    for wrong in (None, 5, True, {CANARY: 1} if isinstance(CONTEXTS[hook][member], str) else CANARY):
        error = refused(call(hook, context={**CONTEXTS[hook], member: wrong}))
        assert (error.expression or "").startswith(f"context.{member}")


@pytest.mark.parametrize("hook", CONTEXTS)
def test_optional_members_may_be_absent_null_or_empty(hook: str) -> None:
    for member in {"userId", "encounterId"} - set(REQUIRED[hook]):
        assert parse(without(hook, member)).context.encounter_id in (None, "e1")
        for nothing in (None, ""):
            context = parse(call(hook, context={**CONTEXTS[hook], member: nothing})).context
            assert getattr(context, "user_id" if member == "userId" else "encounter_id") is None


@pytest.mark.parametrize("member", ["hook", "hookInstance", "context"])
def test_a_missing_member_of_the_envelope_is_named(member: str) -> None:
    assert refused({k: v for k, v in call("patient-view").items() if k != member}).expression == member
    assert refused(call("patient-view", **{member: None})).expression == member
    assert refused(call("patient-view", **{member: 5})).expression == member


@pytest.mark.parametrize("hook", ["medication-prescribe", "order-review", "com.example.own", "Patient-View"])
def test_a_hook_outside_the_library_is_refused_by_name_of_the_member(hook: str) -> None:
    assert refused(call("patient-view", hook=hook)).expression == "hook"


@pytest.mark.parametrize(
    "instance",
    [
        "D1577C69-DFBE-44AD-BA6D-3E05E953B2EA",
        "018f2e6a-7b1c-7def-8a3b-0123456789ab",
        "urn:uuid:d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "request-17",
    ],
)
def test_an_opaque_hook_instance_is_taken(instance: str) -> None:
    assert parse(call("patient-view", hookInstance=instance)).hook_instance == instance


@pytest.mark.parametrize("instance", ["", " ", f"{CANARY} {CANARY}", "a\nb", "x" * 129])
def test_a_hook_instance_that_would_spoil_the_log_is_refused(instance: str) -> None:
    assert refused(call("patient-view", hookInstance=instance)).expression == "hookInstance"


@pytest.mark.parametrize(
    "id_",
    ["", "..", ".", f"../{CANARY}", f"{CANARY}?_include=*", "a b", "a%2fb", "Patient/p1", "x" * 513, "p\u0661", "a\n"],
)
def test_a_patient_id_that_could_reach_another_path_is_refused(id_: str) -> None:
    assert refused(call("patient-view", context={"userId": "Practitioner/1", "patientId": id_})).expression == (
        "context.patientId"
    )


def test_ids_of_epics_length_are_read() -> None:
    long = "eXkT1rTgNBQHOEvPNiiWGTA3" * 6
    context = parse(call("patient-view", context={"userId": f"PractitionerRole/{long}", "patientId": long})).context
    assert context.patient_id == long


def test_unknown_members_and_extensions_are_ignored_everywhere() -> None:
    body = copy.deepcopy(call("order-select"))
    extra = {"extension": {"com.epic.cdshooks.request.bpa-trigger-action": "23"}, "unheardOf": [1]}
    body.update(extra)
    body["context"].update(extra)
    body["context"]["draftOrders"].update(extra)
    body["context"]["draftOrders"]["entry"][0].update(extra)
    body.update(fhirServer="https://ehr.example.org/R4", fhirAuthorization={**AUTHORIZATION, **extra, "patient": "p1"})
    assert len(parse(body).drafts()) == 2


def test_the_drafts_of_the_official_sandbox_are_read() -> None:
    """Its Bundle has no type, its category is no list, its first imaging order has an empty coding."""
    drug = {**DRUG, "category": {"text": "outpatient"}}
    image = {**IMAGING, "code": {"coding": [{}]}, "reasonCode": []}
    orders = {"resourceType": "Bundle", "entry": [{"resource": drug}, {"resource": image}]}
    request = parse(call("order-select", context={**CONTEXTS["order-select"], "draftOrders": orders}))
    assert request.drafts() == (drug, image)


@pytest.mark.parametrize("orders", [{"resourceType": "Bundle"}, {"entry": []}, {"entry": None}, {"entry": [{}]}])
def test_a_bundle_without_drafts_is_no_draft(orders: dict[str, Any]) -> None:
    assert parse(call("order-sign", context={**CONTEXTS["order-sign"], "draftOrders": orders})).drafts() == ()


@pytest.mark.parametrize(
    ("orders", "place"),
    [
        ({"entry": {}}, "context.draftOrders.entry"),
        ({"entry": [CANARY]}, "context.draftOrders.entry[0]"),
        ({"entry": [{"resource": CANARY}]}, "context.draftOrders.entry[0].resource"),
        ({"entry": [{"resource": {"id": CANARY}}]}, "context.draftOrders.entry[0].resource"),
        (
            {"entry": [{"resource": IMAGING}, {"resource": {"resourceType": 4}}]},
            "context.draftOrders.entry[1].resource",
        ),
    ],
)
def test_a_draft_that_is_no_resource_is_named(orders: Any, place: str) -> None:
    error = refused(call("order-sign", context={**CONTEXTS["order-sign"], "draftOrders": orders}))
    assert error.expression == place


def test_a_draft_for_another_patient_is_left_out_and_counted() -> None:
    others = [
        {**IMAGING, "subject": {"reference": "Patient/p2"}},
        {**IMAGING, "subject": {"reference": "https://ehr.example.org/R4/Patient/p2/_history/3"}},
        {"resourceType": "Task", "for": {"reference": "Patient/p2"}},
        {"resourceType": "AllergyIntolerance", "patient": {"reference": "Patient/p2"}},
        {"resourceType": "Appointment", "participant": [{"actor": {"reference": "Patient/p2"}}]},
        {"resourceType": "Patient", "id": "p2"},
    ]
    ours = [
        IMAGING,
        {**DRUG, "subject": {"reference": "https://ehr.example.org/R4/Patient/p1"}},
        {**DRUG, "subject": {"display": "someone"}},
        {"resourceType": "Medication", "id": "m"},
        {"resourceType": "Appointment", "participant": [{"actor": {"reference": "Location/p2"}}, {}]},
    ]
    request = parse(call("order-sign", context={**CONTEXTS["order-sign"], "draftOrders": bundle(*others, *ours)}))
    assert list(request.drafts()) == ours
    assert request.foreign_drafts == len(others)


def test_order_dispatch_is_read_in_the_spellings_of_its_first_version() -> None:
    task = {"resourceType": "Task", "id": "t"}
    for context in (
        {"patientId": "p1", "order": "ServiceRequest/d1", "performer": "Organization/o", "task": task},
        {"patientId": "p1", "order": "ServiceRequest/d1", "performer": "Organization/o", "fulfillment-tasks": [task]},
    ):
        request = parse(call("order-dispatch", context=context))
        assert request.context.dispatched_orders == ("ServiceRequest/d1",)  # type: ignore[attr-defined]
        assert request.drafts() == (task,)


def test_prefetch_tells_not_sent_from_null_from_an_error() -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": []}
    prefetch = parse(call("patient-view", prefetch={"labs": None, "history": outcome, "own": [1]})).prefetch
    assert "imaging" not in prefetch
    assert bytes(prefetch["labs"]) == b"null"
    assert json.loads(bytes(prefetch["history"])) == outcome
    assert parse(call("patient-view")).prefetch == {}
    assert parse(call("patient-view", prefetch=None)).prefetch == {}
    assert refused(call("patient-view", prefetch=[CANARY])).expression == "prefetch"


def test_a_token_needs_the_server_it_is_for() -> None:
    assert refused(call("patient-view", fhirAuthorization=AUTHORIZATION)).expression == "fhirServer"
    request = parse(call("patient-view", fhirAuthorization=AUTHORIZATION, fhirServer="https://ehr.example.org/R4/"))
    assert request.fhir_authorization is not None
    assert request.fhir_authorization.access_token == AUTHORIZATION["access_token"]


@pytest.mark.parametrize("member", AUTHORIZATION)
def test_every_member_of_the_authorization_is_required_and_typed(member: str) -> None:
    for authorization in ({k: v for k, v in AUTHORIZATION.items() if k != member}, {**AUTHORIZATION, member: []}):
        body = call("patient-view", fhirServer="https://ehr.example.org", fhirAuthorization=authorization)
        assert refused(body).expression == f"fhirAuthorization.{member}"


def test_a_token_that_would_break_a_header_is_refused() -> None:
    for token in (f"{CANARY}\r\nX-Other: 1", f"{CANARY} b", "", "\u00e9"):
        body = call(
            "patient-view",
            fhirServer="https://ehr.example.org",
            fhirAuthorization={**AUTHORIZATION, "access_token": token},
        )
        assert refused(body).expression == "fhirAuthorization.access_token"


def test_a_token_for_another_patient_is_refused() -> None:
    server = "https://ehr.example.org"
    for patient in ("p2", "Patient/p2"):
        body = call("patient-view", fhirServer=server, fhirAuthorization={**AUTHORIZATION, "patient": patient})
        assert refused(body).expression == "fhirAuthorization.patient"
    for patient in ("p1", "Patient/p1", None, ""):
        parse(call("patient-view", fhirServer=server, fhirAuthorization={**AUTHORIZATION, "patient": patient}))


@pytest.mark.parametrize("url", ["file:///etc/passwd", CANARY, "//host/x", "https://", "https://h:port/", 7])
def test_a_fhir_server_that_is_no_http_url_is_refused(url: Any) -> None:
    assert refused(call("patient-view", fhirServer=url)).expression == "fhirServer"


def test_neither_token_nor_record_is_in_the_repr() -> None:
    request = parse(
        call(
            "order-sign",
            context={"userId": CANARY, "patientId": CANARY, "draftOrders": bundle({**IMAGING, "note": CANARY})},
            fhirServer=f"https://ehr.example.org/{CANARY}",
            fhirAuthorization=AUTHORIZATION,
            prefetch={"labs": {"x": CANARY}},
        )
    )
    assert CANARY not in repr(request)
    assert CANARY not in repr(request.fhir_authorization)


DEEP = b'{"hook":"patient-view","hookInstance":"x","context":{"patientId":"p1","userId":"Practitioner/1","a":'
ODD = {
    "nothing": b"",
    "a bare value": b"5",
    "a bare string": json.dumps(CANARY).encode(),
    "null": b"null",
    "a list": b"[]",
    "half an object": b'{"hook":"patient-view"',
    "NaN": DEEP + b"NaN}}",
    "Infinity": DEEP + b"-Infinity}}",
    "an infinite number": DEEP + b"1e400}}",
    "a number of 5000 digits": DEEP + b"9" * 5000 + b"}}",
    "a number beyond 64 bits": DEEP + b"123456789012345678901}}",
    "U+0000": DEEP + b'"a\\u0000b"}}',
    "a raw control character": DEEP + b'"a\x01b"}}',
    "a lone surrogate": DEEP + b'"\\ud800"}}',
    "invalid UTF-8": DEEP + b'"\xff"}}',
    "UTF-16": json.dumps(call("patient-view")).encode("utf-16"),
    "the same key twice": DEEP + b'1,"patientId":"p2"}}',
    "an escaped key twice": DEEP + b'1,"patient\\u0049d":"p2"}}',
    "65 levels": DEEP + b"[" * 63 + b"]" * 63 + b"}}",
    "1100 levels": DEEP + b"[" * 1100 + b"]" * 1100 + b"}}",
    "a million brackets": b"[" * 1_000_000,
    "too many objects": b"[" + b"{}," * 600_000 + b"{}]",
    "a comment": b"// hello\n{}",
    "a trailing comma": DEEP + b"1,}}",
    "two values": b"{} {}",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_json_is_refused_without_a_word_of_it(name: str) -> None:
    refused(ODD[name])


def test_json_that_only_looks_odd_is_read() -> None:
    parse(DEEP + b"[" * 62 + b"]" * 62 + b"}}")
    parse(DEEP + b'": a colon", "b":"\\\\u0000 123456789012345678901234","c":"\\ud83d\\ude00"}}')
    parse(b"\xef\xbb\xbf" + json.dumps(call("patient-view")).encode())
