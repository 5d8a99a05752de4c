"""`create_app`: discovery, the call, feedback, live and ready; and every error as an OperationOutcome.

app = create_app(Settings.from_env(), engines={"chest-open": engine})
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from cds_service.admission import Admission
from cds_service.advice import load_advice
from cds_service.cards import to_json
from cds_service.consult import Means, consult
from cds_service.cors import cors_headers
from cds_service.deadline import Deadline
from cds_service.durable import open_state
from cds_service.errors import (
    BadRequest,
    MethodNotAllowed,
    ServiceError,
    TooLarge,
    UnknownService,
    UnsupportedMedia,
    operation_outcome,
    service_error,
)
from cds_service.feedback import parse_feedback, to_items
from cds_service.fhir_client import FhirClient
from cds_service.films.ahead import Ahead, open_ahead
from cds_service.films.subscriptions import subscriptions_blueprint
from cds_service.hooks import HookRequest, parse_hook_request
from cds_service.ledger import Entry, Ledger
from cds_service.manifest import Service, Services, load_services
from cds_service.metrics import Metrics
from cds_service.openapi import served
from cds_service.pages.console import console_blueprint
from cds_service.pages.launch import mount_evidence
from cds_service.pages.links import EvidenceLinks
from cds_service.readiness import answer
from cds_service.settings import Settings
from cds_service.sites import Sites, load_sites, rule_names
from cds_service.state.store import Store
from cds_service.tracing import Tracing
from cds_service.trust.authorization_servers import Directory
from cds_service.trust.clients import Client, Clients, WatchedClients
from cds_service.trust.jwt import Verifier
from cds_service.trust.keys import KeySets, check_sources
from cds_service.trust.replay import UsedTokens
from cds_service.trust.smart_backend import BackendTokens
from cds_service.watch import begin, watch
from cds_service.write_back import WriteBack
from models.contract import Assessor

log = logging.getLogger(__name__)

JSON_TYPES = ("application/json", "application/fhir+json")
CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
NOBODY = Client(name="anonymous", fhir=())
"""Who calls when callers are not checked and no registered client has the request's FHIR server."""

Clock = Callable[[], datetime]


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class House:
    """What the routes share; `app.extensions["ordersight"]`."""

    settings: Settings
    services: Services
    sites: Sites
    engines: Mapping[str, Assessor]
    clients: Clients
    fetcher: FhirClient
    verifier: Verifier
    admission: Admission
    clock: Clock
    state: Store
    ledger: Ledger
    evidence: EvidenceLinks
    write_back: WriteBack
    metrics: Metrics
    backend: BackendTokens
    means: Means = field(default_factory=Means)
    draining: Event = field(default_factory=Event)
    tracing: Tracing | None = None
    ahead: Ahead | None = None

    def verify(self) -> Client:
        """The caller of the current request; NOBODY when callers are not checked."""
        if self.settings.jwt == "off":
            return NOBODY
        return self.verifier.verify_client(dict(request.headers), request.environ["ordersight.path"], self.clock())

    def client_of(self, caller: Client, hook: HookRequest) -> Client:
        """Whose FHIR servers may be read: the verified caller's; unchecked, whoever registered this very server."""
        if self.settings.jwt == "off" and hook.fhir_server is not None:
            return next((c for c in self.clients.all if c.server(hook.fhir_server)), caller)
        return caller

    def close(self) -> None:
        parts = (self.ahead, self.fetcher, self.means, self.evidence, self.write_back, self.state, self.tracing)
        for part in parts:
            if part is not None:
                part.close()


def create_app(
    settings: Settings,
    *,
    services: Services | None = None,
    engines: Mapping[str, Assessor] | None = None,
    clients: Clients | None = None,
    clock: Clock | None = None,
    fetcher: FhirClient | None = None,
    state: Store | None = None,
) -> Flask:
    """The WSGI application. What is not given is read from the files the settings name; engines are never loaded here.

    Raises ManifestError, ClientsError or SettingsError for files that cannot be used, UnknownAdvice for a service
    whose advice no installed package declares.
    """
    clients = WatchedClients(settings.clients, check_sources) if clients is None else clients
    fetcher = fetcher or FhirClient(
        fhir_in_flight=settings.fhir_in_flight,
        dicomweb_in_flight=settings.dicomweb_in_flight,
        ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
    )
    state = state or open_state(settings)
    services = services or load_services(settings.manifests / "services", settings.profile)
    sites = load_sites(settings.sites, rule_names(services))
    services = sites.asked_of(services)
    engines = {} if engines is None else engines  # one elsewhere may be empty only so far
    house = House(
        settings=settings,
        services=services,
        sites=sites,
        engines=engines,
        clients=clients,
        fetcher=fetcher,
        verifier=Verifier(clients, settings, UsedTokens(state), KeySets(clients.all, fetcher.transport)),
        admission=Admission(
            settings.threads, lambda: len({_tenant(c) for c in clients.all}), float(settings.client_points_per_s)
        ),
        clock=clock or now,
        state=state,
        ledger=Ledger(state, economy=settings.economy == "on"),
        evidence=EvidenceLinks(settings.base_url, state.evidence, clock or now, models=settings.models),
        write_back=WriteBack(state, services, clients, fetcher.transport, clock or now),
        metrics=Metrics(services, engines),
        backend=BackendTokens(Directory(fetcher.transport)),
    )
    for service in house.services.on:
        load_advice(service.advice)
    if settings.profile == "research_imaging":
        decoders, tokens = house.means.decoders, house.backend
        decoders.warm()
        house.ahead = open_ahead(settings, state, clients, fetcher, decoders, engines, house.clock, tokens)
    if settings.jwt == "off":
        log.warning("CALLERS ARE NOT CHECKED: anyone who reaches this port is answered (ORDERSIGHT_JWT=off)")
    else:
        house.verifier.warm()
    app = Flask("cds_service", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.extensions["ordersight"] = house
    app.url_map.strict_slashes = False
    app.wsgi_app = _TidyPath(app.wsgi_app)  # type: ignore[method-assign]
    _add_routes(app, house)
    mount_evidence(app, house)
    app.register_blueprint(console_blueprint(house))
    app.register_blueprint(subscriptions_blueprint(house))
    app.register_error_handler(Exception, _answer_error)
    app.after_request(lambda response: _finish(response, settings))
    watch(app, house)
    return app


class _TidyPath:
    """`/cds-services//id/` is `/cds-services/id`: users type slashes, and a redirect would lose the POST.

    The path as called stays in `ordersight.path`, since the audience of the caller's token names it.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path: str = environ.get("PATH_INFO", "")
        environ["ordersight.path"] = path
        environ.setdefault("ordersight.started", time.monotonic())
        environ["PATH_INFO"] = "/" + "/".join(part for part in path.split("/") if part)
        return self._app(environ, start_response)


def _add_routes(app: Flask, house: House) -> None:
    @app.get("/cds-services")
    def discovery() -> Response:
        """Carries no patient data, so callers need not prove who they are."""
        return _json(house.services.discovery())

    @app.post("/cds-services/<service_id>")
    def call_service(service_id: str) -> Response:
        stages = begin()
        caller = house.verify()
        stages.done("caller")
        g.entry = entry = house.ledger.open(_tenant(caller), house.clock())
        service = house.services.named(service_id)
        g.service = service.id
        entry.of(service)
        entry.hook = hook = parse_hook_request(_body(), entry.at)
        g.hook_instance = hook.hook_instance
        if hook.hook not in service.hooks:
            raise BadRequest("`hook` is not one this service answers", expression="hook")
        g.hook, g.budget_s = hook.hook, service.budget_s(hook.hook)
        g.client = client = house.client_of(caller, hook)
        entry.deadline = deadline = Deadline(request.environ["ordersight.started"] + g.budget_s)
        attach = partial(house.evidence.attach, smart=caller.opens_smart_links(hook.fhir_server))
        entry.keep = partial(house.write_back.keep, attach, _tenant(caller), client)
        stages.done("request")
        if entry.off:
            return Response(to_json(entry.nothing()), content_type="application/json")
        with house.admission.call(_tenant(client), hook.hook, deadline), entry.part(client.name):
            g.taken_on = True
            engine = _engine(house, service)  # once: a model activated meanwhile answers the next call
            cards = consult(
                entry.in_force.service,
                hook,
                deadline,
                fhir=house.fetcher.for_request(hook, client),
                engine=engine,
                means=house.means,
                kept=house.ahead.of_call(client, hook, engine) if house.ahead is not None else None,
                profile=house.settings.profile,
                base_url=house.settings.base_url,
                site=house.sites.of(_tenant(client)),
                settle=entry.settle,
                recall=entry.recall,
                stages=stages,
            )
        stages.done("kept")
        g.cards = cards
        return Response(to_json(cards), content_type="application/json")

    @app.post("/cds-services/<service_id>/feedback")
    def feedback(service_id: str) -> Response:
        caller = house.verify()
        service = house.services.named(service_id)
        g.service = service.id
        items = parse_feedback(_body())
        counts = house.state.record_feedback(_tenant(caller), to_items(items), service=service.id)
        house.write_back.accepted(_tenant(caller), service, items)
        house.metrics.feedback(service.id, items, counts)
        fields = {
            "service": service.id,
            "new": counts.stored,
            "repeated": counts.repeated,
            "unmatched": counts.unmatched,
        }
        log.info("feedback", extra={"fields": fields})
        return _json({})

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(served(), content_type="application/json")

    @app.get("/healthz")
    def live() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    def ready() -> Response:
        return _json(*answer(house))


def _engine(house: House, service: Service) -> Assessor | None:
    return house.engines.get(service.model) if service.model is not None else None


def _tenant(client: Client) -> str:
    return client.tenant or client.name


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), status, content_type="application/json")


def _body() -> bytes:
    """The body, whole and unencoded, of a JSON request. Raises UnsupportedMedia, TooLarge or BadRequest."""
    if request.mimetype not in JSON_TYPES:
        raise UnsupportedMedia("the body must be application/json")
    if request.mimetype_params.get("charset", "utf-8").strip().lower() not in CHARSETS:
        raise UnsupportedMedia("the body must be in UTF-8")
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        # A kilobyte of gzip can unpack to gigabytes, and no CDS client compresses.
        raise UnsupportedMedia("the body must be sent without Content-Encoding")
    try:
        return request.get_data(cache=False)
    except HTTPException:
        raise
    except (OSError, ValueError):
        raise BadRequest("the body ended before its announced length") from None


def _answer_error(error: Exception) -> Response:
    """The one place where anything raised becomes an answer."""
    face = _http_face(error) if isinstance(error, HTTPException) else service_error(error)
    instance = g.get("hook_instance")
    fields = {"status": int(face.status), "service": g.get("service"), "hookInstance": instance}
    if face.status == 500:
        g.error = type(error).__name__
        log.error("unexpected error", exc_info=error, extra={"fields": fields})
        if instance:
            face.diagnostics = f"{face.diagnostics}: {instance}"
    else:
        log.info("refused", extra={"fields": {**fields, "field": face.expression}})
    entry: Entry | None = g.get("entry")
    if entry is not None:
        entry.refuse(int(face.status), g.stages.ms)
    response = Response(operation_outcome(face), int(face.status), content_type="application/json")
    if face.retry_after_s is not None:
        response.headers["Retry-After"] = str(face.retry_after_s)
    if isinstance(face, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(face.allow)
    if face.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _http_face(error: HTTPException) -> ServiceError:
    if isinstance(error, NotFound):
        return UnknownService("there is nothing at this address; services are listed at /cds-services")
    if isinstance(error, WrongMethod):
        return MethodNotAllowed(tuple(sorted(error.valid_methods or ())))
    if isinstance(error, RequestEntityTooLarge):
        return TooLarge("the body is larger than this service reads")
    return BadRequest("the request cannot be read")


def _finish(response: Response, settings: Settings) -> Response:
    """Headers of every answer, errors included."""
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    for name, value in cors_headers(request.headers.get("Origin", ""), settings).items():
        response.headers[name] = value
    return response
