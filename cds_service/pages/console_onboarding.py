"""Onboarding an EHR: who is registered, what its FHIR server answers, whether its tokens hold, the sheet to hand over.

Only servers of the clients file are contacted: whoever may change registers one first, which is audited.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.wrappers import Response as AnyResponse

from cds_service import errors
from cds_service.onboarding import check_ehr, own_discovery, parts_of, trial_token
from cds_service.pages.console_page import Console, admin, reason
from cds_service.pages.words import REASONS
from cds_service.registration_sheet import EHRS, TITLES, RegistrationSheet, registration_sheet
from cds_service.trust import registering
from cds_service.trust.clients import Client, ClientsError
from cds_service.trust.keys import KeysUnavailable

MEANS = {
    "no-token": "it is not three parts of base64url joined by dots",
    "malformed": "its header or claims are no JSON object",
    "issuer": "no client of the clients file has its `iss`",
    "header": "its header lacks `alg` or `kid`, or `typ` is not JWT",
    "crit": "its header names `crit` or `b64`, which we do not understand",
    "jku": "its `jku` is not the address of keys that is registered",
    "audience": "its `aud` is not the URL of this very endpoint",
    "times": "`iat`, `exp` or `nbf` is missing or no number",
    "expired": "it has expired",
    "not-yet": "it is not valid yet; the clocks differ by more than a minute",
    "lifetime": "it is valid for longer than an hour",
    "jti": "it has no `jti`",
    "signature": "no key that the client publishes has signed it",
    "replay": "it was used before",
}


FIELDS = (
    "name",
    "tenant",
    "issuer",
    "jwks_url",
    "jwks_file",
    "audience",
    "fhir",
    "dicomweb",
    "allow_private",
    "origins",
    "token_url",
    "backend_id",
    "backend_key",
    "backend_scopes",
    "launch_id",
    "launch_key",
    "launch_link",
)
"""Of the form that registers a client."""


def client_of(asked: Mapping[str, str]) -> Client:
    """The client that a filled form describes; `dicomweb`, `origins` and `backend_scopes` are lists parted by blanks.

    Raises ClientsError, msgspec.ValidationError or ValueError saying what would be right.
    """
    if not asked["name"] or not asked["issuer"] or not (asked["jwks_url"] or asked["jwks_file"]):
        raise ClientsError("a client has a name, an issuer, and its keys at an address or in a file")
    smart: dict[str, object] = {"origins": asked["origins"].split(), "token_url": asked["token_url"]}
    if asked["backend_id"]:
        scopes = asked["backend_scopes"].split()
        smart["backend"] = {"client_id": asked["backend_id"], "key_file": asked["backend_key"], "scopes": scopes}
    if asked["launch_id"]:
        link = asked["launch_link"] or "smart"
        smart["launch"] = {"client_id": asked["launch_id"], "key_file": asked["launch_key"], "link": link}
    server = {
        "base": asked["fhir"],
        "dicomweb": asked["dicomweb"].split(),
        "allow_private": asked["allow_private"] == "yes",
        "smart": smart if asked["backend_id"] or asked["launch_id"] else None,
    }
    ours = {name: asked[name] for name in ("name", "tenant", "issuer", "jwks_url", "jwks_file", "audience")}
    return msgspec.convert(ours | {"fhir": [server]}, Client)


def add_onboarding(blueprint: Blueprint, console: Console) -> None:
    house = console.house

    def page(status: int = 200, **found: object) -> Response:
        values: dict[str, object] = {"check": None, "token": None, "discovery": None, "asked": {}, "said": ""}
        return console.page(
            "onboarding",
            status,
            clients=house.clients.all,
            services=house.services.on,
            ehrs=TITLES,
            base=house.settings.base_url,
            means=MEANS,
            reasons=REASONS,
            **(values | found),
        )

    def named() -> Client:
        client = next((c for c in house.clients.all if c.name == request.form.get("client", "")), None)
        if client is None:
            raise BadRequest("There is no such client in the clients file.")
        return client

    def sheet_of(ehr: str) -> RegistrationSheet:
        known = next((name for name in EHRS if name == ehr), None)
        if known is None:
            raise NotFound("There is no sheet for such an EHR.")
        return registration_sheet(house.settings, house.services, known)

    @blueprint.get("/onboarding")
    def onboarding() -> Response:
        return page(discovery=own_discovery(house))

    @blueprint.post("/onboarding/clients")
    def onboarding_register() -> Response | AnyResponse:
        why = reason()
        asked = {name: request.form.get(name, "").strip()[:4000] for name in FIELDS}
        try:
            client = client_of(asked)
            if client.jwks_file and not Path(client.jwks_file).is_file():
                raise ClientsError(f"{client.jwks_file}: there is no such file on this machine")
            registering.add(house.settings.clients, client)
        except (ClientsError, msgspec.ValidationError, ValueError) as error:
            return page(400, asked=asked, said=str(error))
        except OSError:
            text = "the clients file cannot be written from here; use `cds-service clients add` where it is kept"
            return page(409, asked=asked, said=text)
        console.desk.note(admin().name, "client registered", house.clock(), client=client.name, why=why)
        return console.to("onboarding")

    @blueprint.post("/onboarding/check")
    def onboarding_check() -> Response:
        """Reads at an EHR with an administrator's hand: so it needs the role `change`, a reason, and is audited."""
        why = reason()
        client = named()
        asked = {name: request.form.get(name, "").strip() for name in ("client", "fhir", "patient")}
        server = client.server(asked["fhir"])
        if server is None:
            raise BadRequest("This client has no such FHIR server in the clients file: nothing was contacted.")
        tenant = client.tenant or client.name
        key = house.state.key("patient", tenant, asked["patient"]) if asked["patient"] else ""
        noted = {"client": client.name, "why": why, **({"patient_key": key} if key else {})}
        console.desk.note(admin().name, "EHR checked", house.clock(), **noted)
        try:
            found = check_ehr(
                house, client, server, patient=asked["patient"], token=request.form.get("access_token", "").strip()
            )
        except errors.BadRequest:
            raise BadRequest("This is not an id a FHIR server gives to a patient.") from None
        return page(check=found, asked=asked)

    @blueprint.post("/onboarding/token")
    def onboarding_token() -> Response:
        path = f"/cds-services/{request.form.get('service', '')}"
        if not any(path == f"/cds-services/{s.id}" for s in house.services.on):
            raise BadRequest("There is no such service here.")
        token, keys, now = request.form.get("token", "").strip()[:20_000], None, house.clock()
        tried = not token
        if tried:
            client = named()
            audience = (client.audience or house.settings.base_url).rstrip("/")
            token, keys = trial_token(client, f"{audience}{path}", now)
        try:
            client_found, refusal = house.verifier.explain(token, path, now, keys)
        except KeysUnavailable:
            text = "The keys of this client cannot be read at the moment: its tokens are answered 503."
            return page(token={"parts": parts_of(token), "client": None, "why": text, "ok": False, "tried": tried})
        name = client_found.name if client_found else None
        why = MEANS[refusal] if refusal else ""
        verdict = {"parts": parts_of(token), "client": name, "why": why, "ok": not refusal, "tried": tried}
        return page(token=verdict, asked={"service": request.form["service"]})

    @blueprint.get("/onboarding/sheet/<ehr>")
    def onboarding_sheet(ehr: str) -> Response:
        return console.page("onboarding_sheet", sheet=sheet_of(ehr), ehrs=TITLES)

    @blueprint.get("/onboarding/sheet/<ehr>.json")
    def onboarding_sheet_json(ehr: str) -> Response:
        return Response(msgspec.json.encode(sheet_of(ehr)), content_type="application/json")
