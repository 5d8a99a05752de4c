"""`POST /fhir-subscriptions/NAME`: an EHR tells us of new imaging studies (FHIR R4 Subscriptions Backport, REST hook).

A notification is a Bundle of type `history` whose first entry is the status, a Parameters resource. Payload `id-only`
names ImagingStudy resources, `full-resource` brings them; `empty` says too little to act on. What it brings is only a
hint at which patient's films to fetch: nothing of it reaches a card. Source: HL7 Subscriptions R5 Backport 1.1.0.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, g, request

from cds_service import strict_json
from cds_service.errors import BadRequest, Unauthorized, Unavailable
from cds_service.films.encoding import Wish, patient_of
from cds_service.state.errors import StateError
from cds_service.trust.clients import Client, FhirServer
from cds_service.trust.origins import NotAllowed

if TYPE_CHECKING:
    from cds_service.app import House

log = logging.getLogger(__name__)

MOST_EVENTS = 200
"""Studies in one notification; an EHR that has more to tell sends several."""
KEEP_S = 5.0
ID = re.compile(r"[A-Za-z0-9.-]{1,128}")
TYPES = ("handshake", "heartbeat", "event-notification", "query-status", "query-event")


def subscriptions_blueprint(house: House) -> Blueprint:
    blueprint = Blueprint("subscriptions", __name__)

    @blueprint.post("/fhir-subscriptions/<name>")
    def notified(name: str) -> Response:
        client, server = _sender(house, name)
        g.service = None
        if request.mimetype not in ("application/fhir+json", "application/json"):
            raise BadRequest("the notification must be FHIR JSON")
        wishes = list(read_notification(request.get_data(cache=False), client, server))
        if house.ahead is not None and house.ahead.useful:
            try:
                kept = [house.ahead.note(wish) for wish in wishes]
                for future in kept:
                    if future is not None:
                        future.result(KEEP_S)
            except (StateError, TimeoutError):
                # The sender tries again: it must not believe what is not on disk.
                raise Unavailable("the notification could not be kept") from None
        log.info("notified", extra={"fields": {"subscription": name, "studies": len(wishes)}})
        return Response("", 200, content_type="application/fhir+json")

    return blueprint


def _sender(house: House, name: str) -> tuple[Client, FhirServer]:
    """Whose subscription this is. Raises Unauthorized, the same for a name nobody has and for a wrong secret."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).hexdigest()
    for client in house.clients.all:
        for server in client.fhir:
            expected = server.subscriptions.get(name, "")
            if expected and scheme.lower() == "bearer" and hmac.compare_digest(digest, expected):
                return client, server
    raise Unauthorized("the subscription's secret is missing or wrong")


def read_notification(body: bytes, client: Client, server: FhirServer) -> Iterator[Wish]:
    """The studies a notification names, each once. Raises BadRequest, which holds nothing of it."""
    bundle = _parsed(body)
    entries = bundle.get("entry")
    entries = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    status = entries[0].get("resource") if entries else None
    if bundle.get("resourceType") != "Bundle" or not isinstance(status, dict):
        raise BadRequest("the notification is no Bundle that begins with its status")
    if status.get("resourceType") != "Parameters":
        raise BadRequest("the status of an R4 notification is a Parameters resource")
    parameters = _parameters(status)
    kind = next((p.get("valueCode") for p in parameters if p.get("name") == "type"), None)
    if kind not in TYPES:
        raise BadRequest("the status has no type of notification")
    if kind in ("handshake", "heartbeat", "query-status"):
        return
    named = [_focus(p) for p in parameters if p.get("name") == "notification-event"]
    named += [str(e.get("fullUrl", "")) for e in entries[1:]]
    sent = [e["resource"] for e in entries[1:] if isinstance(e.get("resource"), dict)]
    if len(named) > MOST_EVENTS:
        raise BadRequest(f"more than {MOST_EVENTS} events in one notification")
    seen: set[str] = set()
    for study in sent:
        id_, patient = study.get("id"), patient_of(study)
        if study.get("resourceType") == "ImagingStudy" and isinstance(id_, str) and ID.fullmatch(id_):
            seen.add(id_)
            resources = (study,) if ID.fullmatch(patient) else ()
            yield Wish(
                client=client.name,
                base=server.base,
                patient=patient if resources else "",
                study=id_,
                resources=resources,
            )
    for reference in named:
        found = _study_of(reference, server)
        if found and found not in seen:
            seen.add(found)
            yield Wish(client=client.name, base=server.base, study=found)


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        parsed = strict_json.parse(body.removeprefix(strict_json.BOM))
    except strict_json.BadJson as error:
        raise BadRequest(str(error)) from None
    if not isinstance(parsed, dict):
        raise BadRequest("the notification is no JSON object")
    return parsed


def _parameters(resource: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = resource.get("parameter")
    return [p for p in found if isinstance(p, dict)] if isinstance(found, list) else []


def _focus(event: Mapping[str, Any]) -> str:
    parts = event.get("part")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and part.get("name") == "focus":
            reference = part.get("valueReference")
            told = reference.get("reference") if isinstance(reference, dict) else None
            return told if isinstance(told, str) else ""
    return ""


def _study_of(reference: str, server: FhirServer) -> str:
    """The id of an ImagingStudy at the registered server itself; empty for anything else."""
    try:
        below = server.fhir_base().below(reference) if reference else ""
    except NotAllowed:
        return ""
    type_, _, id_ = below.partition("/")
    id_ = id_.partition("/_history/")[0]
    return id_ if type_ == "ImagingStudy" and ID.fullmatch(id_) else ""
