"""The OpenAPI 3.1 document of our JSON routes, made from the types that read requests and write answers.

msgspec knows the shapes. What `hooks.py`, `feedback.py` and `cards.py` check beyond a shape is added here in the words
of JSON Schema, so that a body the document allows is one we take; tests/cds_service/test_openapi.py tries that out.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from cds_service import errors
from cds_service.cards import DETAIL_LIMIT, SUMMARY_LIMIT, CardResponse
from cds_service.feedback import MAX_ITEMS, FeedbackBatch, FeedbackMessage
from cds_service.hooks import CONTEXTS, Envelope
from cds_service.manifest import HOOKS

Schema = dict[str, Any]

SAID: dict[str, str] = {
    "200": "the answer",
    "400": "malformed; the issue names the member",
    "401": "the caller did not prove who it is; no reason is given",
    "404": "there is no such service",
    "412": "required FHIR data was neither sent as prefetch nor readable in time",
    "413": "the body is larger than we read",
    "415": "the body is not JSON in UTF-8, or it is encoded",
    "429": "this client makes more calls than it may",
    "500": "a fault of ours; the log has it under the hook instance",
    "503": "no room or no model in the time left",
}
RESOURCE: Schema = {"type": "object", "required": ["resourceType"], "properties": {"resourceType": {"type": "string"}}}
WEB_ADDRESS = r"^([Hh][Tt][Tt][Pp][Ss]?://[A-Za-z0-9.-]+(:[0-9]{1,4})?(/[A-Za-z0-9._~/-]*)?)?$"
"""Narrower than what we take: any absolute http(s) URL."""
COUNTED: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def document() -> Schema:
    """The whole document; the same for every installation, whatever its services are called."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ordersight",
            "version": version("ordersight"),
            "description": "Clinical decision support as CDS Hooks 2.0 services.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "cdsHooksJwt": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "CDS Hooks 2.0 `Trusting CDS Clients`: a token of its own for every call",
                }
            },
        },
    }


@cache
def served() -> bytes:
    """The document as it is served and kept in docs/openapi.json."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n"


def _paths() -> Schema:
    service = {
        "name": "service_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[a-z][a-z0-9-]{1,63}$"},
    }
    hook_calls = {"oneOf": [_ref(_call_name(hook)) for hook in CONTEXTS]}
    posts = ("400", "401", "404", "413", "415", "500", "503")
    return {
        "/cds-services": {"get": _get("discovery", "The services there are", "Discovery")},
        "/cds-services/{service_id}": {
            "parameters": [service],
            "post": _post("call", "Ask a service for cards", hook_calls, "CardResponse", (*posts, "412", "429")),
        },
        "/cds-services/{service_id}/feedback": {
            "parameters": [service],
            "post": _post("feedback", "Say what became of cards", _ref("FeedbackBatch"), "Nothing", posts),
        },
        "/healthz": {"get": _get("live", "Whether the process answers", "Live")},
        "/readyz": {"get": _get("ready", "Whether calls may come", "Ready", unready="Ready")},
        "/.well-known/jwks.json": {"get": _get("jwks", "The public keys we sign with at EHRs", "KeySet")},
        "/openapi.json": {"get": _get("openapi", "This document", "Document")},
    }


def _get(operation: str, summary: str, answer: str, unready: str | None = None) -> Schema:
    responses = {"200": _response("200", answer)}
    if unready is not None:
        responses["503"] = {"description": "not now; `checks` says why", "content": _json(_ref(unready))}
    return {"operationId": operation, "summary": summary, "security": [], "responses": responses}


def _post(operation: str, summary: str, body: Schema, answer: str, refusals: tuple[str, ...]) -> Schema:
    responses = {"200": _response("200", answer)}
    for status in sorted(refusals):
        responses[status] = _response(status, "OperationOutcome")
    for status in {"429", "503"} & set(responses):
        responses[status]["headers"] = {"Retry-After": {"description": "seconds", "schema": COUNTED}}
    if "401" in responses:
        responses["401"]["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    return {
        "operationId": operation,
        "summary": summary,
        "security": [{"cdsHooksJwt": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body}, "application/fhir+json": {"schema": body}},
        },
        "responses": responses,
    }


def _response(status: str, schema: str) -> Schema:
    return {"description": SAID[status], "content": _json(_ref(schema))}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _call_name(hook: str) -> str:
    return f"{CONTEXTS[hook].__name__}Call"


def _schemas() -> Schema:
    types = [*CONTEXTS.values(), Envelope, FeedbackMessage, FeedbackBatch]
    _, asked = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    _, said = msgspec.json.schema_components([CardResponse], ref_template="#/components/schemas/{name}")
    schemas = {name: _tidy(schema) for name, schema in asked.items()}
    schemas |= {name: _without_null(_tidy(schema)) for name, schema in said.items() if name != "Basis"}
    _tell_requests(schemas)
    _tell_cards(schemas)
    schemas |= {_call_name(hook): _hook_call(schemas, hook) for hook in CONTEXTS}
    del schemas["Envelope"]
    return schemas | _of_ours()


def _tidy(schema: Any) -> Any:
    """Without our own docstrings, and with an end of text that every JSON Schema reader knows."""
    if isinstance(schema, dict):
        kept = {k: _tidy(v) for k, v in schema.items() if k not in ("title", "description") or isinstance(v, dict)}
        return {k: v.replace(r"\Z", "$") if k == "pattern" and isinstance(v, str) else v for k, v in kept.items()}
    return [_tidy(item) for item in schema] if isinstance(schema, list) else schema


def _without_null(schema: Any) -> Any:
    """An answer's schema: members that are absent are left out, never null and never empty."""
    if isinstance(schema, list):
        return [_without_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    choices = [_without_null(s) for s in schema.get("anyOf", ()) if s != {"type": "null"}]
    if len(choices) == 1:
        return choices[0]
    kept = {k: _without_null(v) for k, v in schema.items() if k != "default"}
    if schema.get("default") == []:
        kept["minItems"] = 1
    if kept.get("type") == "object" and "properties" in kept:
        kept["additionalProperties"] = False
    return kept


def _tell_requests(schemas: Schema) -> None:
    schemas["Entry"]["properties"]["resource"] = {"anyOf": [RESOURCE, {"type": "null"}]}
    schemas["AllergyIntoleranceCreate"]["properties"]["allergyIntolerance"] = RESOURCE
    tasks: Schema = {"type": "array", "items": RESOURCE}
    schemas["OrderDispatch"]["properties"]["fulfillmentTasks"] = {"anyOf": [tasks, {"type": "null"}]}
    token = schemas["FhirAuthorization"]["properties"]
    token["access_token"] = {"type": "string", "pattern": "^[!-~]+$", "maxLength": 16_384}
    token["token_type"] = {"type": "string", "pattern": "^[Bb][Ee][Aa][Rr][Ee][Rr]$"}
    token["patient"]["description"] = "if given, the patient of the context"
    schemas["Envelope"]["properties"]["fhirServer"] = {"type": ["string", "null"], "pattern": WEB_ADDRESS}
    schemas["Envelope"]["properties"]["fhirAuthorization"] = _ref("FhirAuthorization")

    message = schemas.pop("FeedbackMessage")
    message["properties"]["outcomeTimestamp"] = {"type": "string", "format": "date-time"}
    for name, outcome in (("AcceptedFeedback", "accepted"), ("OverriddenFeedback", "overridden")):
        properties = {**message["properties"], "outcome": {"const": outcome}}
        required = list(message["required"])
        if outcome == "accepted":
            chosen: Schema = {"type": "array", "items": _ref("AcceptedSuggestion"), "minItems": 1}
            properties["acceptedSuggestions"] = chosen
            required.append("acceptedSuggestions")
        schemas[name] = {**message, "properties": properties, "required": required}
    either = {"oneOf": [_ref("AcceptedFeedback"), _ref("OverriddenFeedback")]}
    schemas["FeedbackBatch"]["properties"]["feedback"] = {"type": "array", "items": either, "maxItems": MAX_ITEMS}


def _tell_cards(schemas: Schema) -> None:
    card = schemas["Card"]
    del card["properties"]["basis"]
    card["properties"]["summary"] = {"type": "string", "minLength": 1, "maxLength": SUMMARY_LIMIT - 1}
    card["properties"]["detail"] = {"type": "string", "minLength": 1, "maxLength": DETAIL_LIMIT}
    card["required"] = ["uuid", *card["required"]]
    card["dependentRequired"] = {"suggestions": ["selectionBehavior"], "selectionBehavior": ["suggestions"]}
    schemas["Suggestion"]["required"] = ["uuid", *schemas["Suggestion"]["required"]]


def _hook_call(schemas: Schema, hook: str) -> Schema:
    """The envelope of one hook with its own context. A token comes with the server it is for."""
    properties = {
        **schemas["Envelope"]["properties"],
        "hook": {"const": hook},
        "context": _ref(CONTEXTS[hook].__name__),
    }
    plain = {name: schema for name, schema in properties.items() if name != "fhirAuthorization"}
    server = {"type": "string", "pattern": WEB_ADDRESS, "minLength": 8}
    required = schemas["Envelope"]["required"]
    return {
        "type": "object",
        "anyOf": [
            {"properties": {**plain, "fhirAuthorization": {"type": "null"}}, "required": required},
            {
                "properties": {**properties, "fhirServer": server},
                "required": [*required, "fhirServer", "fhirAuthorization"],
            },
        ],
    }


def _of_ours() -> Schema:
    """What is written by hand elsewhere: discovery, refusals, health."""
    text: Schema = {"type": "string", "minLength": 1}
    faults: list[type[errors.ServiceError]] = [errors.ServiceError, *errors.ServiceError.__subclasses__()]
    codes = sorted({fault.issue for fault in faults})
    issue = _closed(severity={"const": "error"}, code={"enum": codes}, diagnostics=text)
    issue["properties"]["expression"] = {"type": "array", "items": text, "minItems": 1}
    service = _closed(hook={"enum": list(HOOKS)}, id=text, title=text, description=text)
    service["properties"]["prefetch"] = {"type": "object", "additionalProperties": text}
    service["properties"]["usageRequirements"] = text
    check = _closed(ok={"type": "boolean"})
    check["properties"]["why"] = text
    ready = _closed(
        ready={"type": "boolean"},
        checks={"type": "object", "additionalProperties": check},
        jwt={"enum": ["required", "off"]},
    )
    ready["properties"]["warning"] = text
    return {
        "Discovery": _closed(services={"type": "array", "items": service}),
        "Document": {"type": "object", "required": ["openapi", "info", "paths"]},
        "KeySet": _closed(keys={"type": "array", "items": {"type": "object", "required": ["kty", "kid", "alg"]}}),
        "Live": _closed(status={"const": "ok"}),
        "Nothing": {"type": "object", "maxProperties": 0},
        "OperationOutcome": _closed(
            resourceType={"const": "OperationOutcome"}, issue={"type": "array", "items": issue, "minItems": 1}
        ),
        "Ready": ready,
    }


def _closed(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(properties),
        "properties": dict(properties),
        "additionalProperties": False,
    }
