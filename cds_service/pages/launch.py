"""`Launches`: a card's evidence for whom the EHR vouches, by SMART App Launch with PKCE.

GET /launch (from the EHR, with `iss` and `launch`), or an absolute link's key posted where the EHR launches nothing:
both go to the EHR's login and come back to /launch/callback. What the EHR then says of patient and tenant must be what
the evidence was sealed for. The access token is dropped: all that is shown was read when the card was made.

Source: SMART App Launch 2.2, CDS Hooks 2.0 "Link" (`appContext`).
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, g, request

from cds_service.pages import code_flow
from cds_service.pages.access import Pass, Refused, open_first, peek
from cds_service.pages.code_flow import Astray, CodeFlow, Login, code_of, onward
from cds_service.pages.evidence import evidence_blueprint, give_pass, pages, security_headers
from cds_service.pages.maps import add_maps
from cds_service.pages.snapshot import decode
from cds_service.state.errors import StateUnavailable
from cds_service.state.launches import note_launch
from cds_service.transport import FetchFailed
from cds_service.trust.clients import Client, FhirServer
from cds_service.trust.oidc import BadIdToken, redeem, verify_id_token
from cds_service.trust.private_keys import published
from cds_service.trust.registrations import Launch

if TYPE_CHECKING:
    from cds_service.app import House

log = logging.getLogger(__name__)

_LAUNCH = re.compile(r"[!-~]{1,2048}")
_REFERENCE = re.compile(r"(?:^|/)([A-Z][A-Za-z]{0,63}/[A-Za-z0-9.-]{1,256})$")

Why = Literal[
    code_flow.Fault,
    "unknown-ehr",
    "no-launch",
    "unreachable",
    "not-proved",
    "no-evidence",
    "not-this-patient",
    "unavailable",
]
STATUS: dict[Why, int] = {
    "unknown-ehr": 404,
    "no-launch": 400,
    "no-evidence": 404,
    "busy": 503,
    "unreachable": 503,
    "unavailable": 503,
}
"""All others are 403."""


class TurnedAway(Exception):
    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why: Why = why


@dataclass(frozen=True, slots=True)
class Place:
    """Where a user logs in: one FHIR server of a client, and how the evidence page is registered there."""

    client: Client
    server: FhirServer
    launch: Launch

    @property
    def tenant(self) -> str:
        return self.client.tenant or self.client.name

    @property
    def id(self) -> str:
        return f"{self.client.name}|{self.server.fhir_base()}"


class Launches:
    def __init__(self, house: House) -> None:
        public = urlsplit(house.settings.base_url)
        self.house = house
        self.root = public.path.rstrip("/")
        self.flow = CodeFlow(
            "launch",
            f"{house.settings.base_url}/launch/callback",
            f"{self.root}/launch",
            house.state,
            secure=public.scheme == "https",
        )

    def places(self) -> list[Place]:
        return [
            Place(client, server, server.smart.launch)
            for client in self.house.clients.all
            for server in client.fhir
            if server.smart is not None and server.smart.launch is not None
        ]

    def framed_by(self, tenant: str | None) -> tuple[str, ...]:
        return self.house.clients.framed_by(tenant)

    def from_ehr(self, issuer: str, launch: str) -> Response:
        """The EHR opens us: to its login, with the `launch` it gave. Raises TurnedAway, Astray or FetchFailed."""
        place = next((p for p in self.places() if p.client.server(issuer) is p.server), None)
        if place is None:
            raise TurnedAway("unknown-ehr")
        if not _LAUNCH.fullmatch(launch):
            raise TurnedAway("no-launch")
        return self._send(place, "launch", launch=launch)

    def from_link(self, link_id: str, key: str) -> Response | None:
        """The way to the EHR's login for an absolute link, if its tenant's EHR has one. Raises Refused for a wrong key.

        Whoever opened it before comes with its visit, and is not asked again.
        """
        places = self.places()
        if not places:
            return None
        found, page = peek(self.house.evidence, link_id, key)
        ours = [place for place in places if place.tenant == found.tenant]
        if not ours or found.opened_at is not None:
            return None
        patient = decode(page).patient_ref.url
        place = next((p for p in ours if patient.startswith(f"{p.server.fhir_base()}/")), ours[0])
        return self._send(place, "launch/patient", kept=f"{link_id}.{key}")

    def _send(self, place: Place, context: str, kept: str = "", **more: str) -> Response:
        with self.flow.asking() as deadline:
            server = self.house.backend.directory.of_fhir(place.server, deadline)
        if not server.pkce:
            # SMART has its servers say so; elsewhere silence is common, and the nonce stands beside PKCE.
            raise Astray("no-pkce")
        g.framed_by = self.framed_by(place.tenant)
        scope = " ".join((context, *place.launch.scopes))
        # `aud` as the clients file has it: what the address bar said only selected it.
        asked = {"client_id": place.launch.client_id, "scope": scope, "aud": str(place.server.fhir_base())}
        framed = bool(g.framed_by)
        return self.flow.send(server, self.house.clock(), place.id, kept, framed=framed, **asked, **more)[1]

    def back(self) -> Response:
        """Who comes back from the login is shown the evidence, if it is of the patient the EHR says it is about."""
        now = self.house.clock()
        login = self.flow.back(request.args, request.cookies, now)
        place = next((p for p in self.places() if p.id == login.to), None)
        if place is None:
            raise TurnedAway("unknown-ehr")
        g.framed_by = self.framed_by(place.tenant)
        user, patient, evidence = self._vouched(place, login)
        link_id, _, key = evidence.partition(".")
        try:
            response = self._open(place, link_id, key, patient, user)
        except Refused as refused:
            log.info("evidence refused", extra={"fields": {"why": refused.reason, "client": place.client.name}})
            if refused.reason == "unknown":
                note_launch(self.house.state, place.tenant, now, user=user, refused="unknown evidence")
                raise TurnedAway("no-evidence") from None
            # Its own page says so, and shows it to the browser that opened it.
            response = onward(f"{self.root}/evidence/{link_id}")
        return self.flow.forget(response, login, framed=bool(g.framed_by))

    def _vouched(self, place: Place, login: Login) -> tuple[str, str, str]:
        """User, patient and appContext, as the EHR says them. Raises TurnedAway, Astray or FetchFailed."""
        launch, directory = place.launch, self.house.backend.directory
        with self.flow.asking() as deadline:
            server = directory.of_fhir(place.server, deadline)
            told = redeem(
                directory.transport,
                server,
                deadline,
                code=code_of(request.args, server),
                verifier=login.verifier,
                redirect_uri=self.flow.redirect_uri,
                client_id=launch.client_id,
                key_file=launch.key_file,
                now=self.house.clock().timestamp(),
            )
            user = ""
            if "openid" in launch.scopes:
                now = self.house.clock().timestamp()
                claims = verify_id_token(
                    told.get("id_token"),
                    server,
                    self.house.verifier.keys,
                    client_id=launch.client_id,
                    nonce=login.nonce,
                    now=now,
                )
                # As hooks name the user (`context.userId`), so that the audit knows both as one.
                named = _REFERENCE.search(str(claims.get("fhirUser", "")))
                user = named[1] if named else str(claims["sub"])
        patient, evidence = told.get("patient"), login.kept or told.get("appContext")
        if not isinstance(evidence, str) or Pass.read(evidence) is None:
            raise TurnedAway("no-evidence")
        if not isinstance(patient, str) or not patient:
            raise TurnedAway("not-this-patient")
        return user, patient.removeprefix("Patient/"), evidence

    def _open(self, place: Place, link_id: str, key: str, patient: str, user: str) -> Response:
        """Raises Refused, and TurnedAway for another tenant's evidence or another patient's."""
        house, now = self.house, self.house.clock()
        found, _ = peek(house.evidence, link_id, key)
        if found.tenant != place.tenant:
            note_launch(house.state, place.tenant, now, user=user, refused="another tenant's evidence")
            raise TurnedAway("not-this-patient")
        if found.patient_key != house.evidence.store.patient_key(place.tenant, patient):
            note_launch(
                house.state,
                place.tenant,
                now,
                user=user,
                service=found.service,
                refused="another patient",
                card=found.card,
            )
            raise TurnedAway("not-this-patient")
        # Said before it is done: evidence that was seen is never unsaid.
        note_launch(
            house.state,
            place.tenant,
            now,
            user=user,
            service=found.service,
            patient_key=found.patient_key,
            launched=place.client.name,
            card=found.card,
        )
        pass_, found = open_first(house.evidence, link_id, key, None)
        response = onward(f"{self.root}/evidence/{link_id}")
        give_pass(response, pass_, found.expires - now, link_id, house.settings, framed=bool(g.framed_by))
        return response

    def refuse(self, error: Exception) -> Response:
        why = _why(error)
        log.info("launch refused", extra={"fields": {"why": why}})
        html = pages.get_template("pages/launch_refused.html").render(why=why, assets=f"{self.root}/evidence/static")
        response = Response(html, STATUS.get(why, 403), content_type="text/html; charset=utf-8")
        if response.status_code == 503:
            response.headers["Retry-After"] = "5"
        return response


def mount_evidence(app: Flask, house: House) -> None:
    """The evidence pages, their two ways in, and the keys with which we prove ourselves to EHRs."""
    launches = Launches(house)
    evidence = evidence_blueprint(house.evidence, house.settings, launches.from_link, launches.framed_by)
    for kind in (Astray, FetchFailed):
        evidence.register_error_handler(kind, launches.refuse)
    add_maps(evidence, house.evidence, house.engines)
    app.register_blueprint(evidence)
    app.register_blueprint(launch_blueprint(launches))

    @app.get("/.well-known/jwks.json")
    def jwks() -> Response:
        return Response(json.dumps(published(house.clients.all)), content_type="application/json")


def launch_blueprint(launches: Launches) -> Blueprint:
    blueprint = Blueprint("launch", __name__, url_prefix="/launch")

    @blueprint.get("")
    def launch() -> Response:
        return launches.from_ehr(request.args.get("iss", ""), request.args.get("launch", ""))

    @blueprint.get("/callback")
    def callback() -> Response:
        return launches.back()

    for kind in (TurnedAway, Astray, BadIdToken, FetchFailed, StateUnavailable):
        blueprint.register_error_handler(kind, launches.refuse)

    @blueprint.after_request
    def secure(response: Response) -> Response:
        response.headers.update(security_headers(g.framed_by if "framed_by" in g else launches.framed_by(None)))
        return response

    return blueprint


def _why(error: Exception) -> Why:
    if isinstance(error, TurnedAway):
        return error.why
    if isinstance(error, Astray):
        return error.fault
    if isinstance(error, BadIdToken):
        log.warning("id token refused", extra={"fields": {"fault": error.fault}})
        return "not-proved"
    if isinstance(error, FetchFailed):
        log.warning("authorization server", extra={"fields": {"error": error.reason}})
        return "not-proved" if error.reason == "refused" else "unreachable"
    return "unavailable"
