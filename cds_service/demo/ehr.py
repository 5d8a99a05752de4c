"""`demo_blueprint`: a small EHR of generated patients, mounted by the service under /demo.

It has a FHIR R4 endpoint, a DICOMweb archive and a page, and reaches the decision support service only through the
public CDS Hooks protocol, as any other client would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from cds_service.demo.archive import add_archive
from cds_service.demo.pages import add_pages
from cds_service.demo.search import TYPES, BadSearch, included_types, page_of, search
from cds_service.demo.store import ENDPOINT_ID, Store, wall_clock

FHIR_JSON = "application/fhir+json"
Resource = Mapping[str, Any]


def demo_blueprint(as_of: datetime | None = None, *, draw: bool = True) -> Blueprint:
    """The demo EHR. Its charts follow the clock, or stand still at `as_of` where that is given (timezone-aware).

    draw  False puts off drawing the films (some seconds) until each is first asked for
    """
    store = Store(wall_clock if as_of is None else lambda: as_of)
    if draw:
        store.draw_films()
    blueprint = Blueprint(
        "demo",
        __name__,
        url_prefix="/demo",
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    _add_fhir(blueprint, store)
    add_archive(blueprint, store)
    add_pages(blueprint, store)
    blueprint.after_request(_allow_browsers)
    return blueprint


def _allow_browsers(response: Response) -> Response:
    """Generated data hold no secret, and browser-based CDS clients read FHIR from their own origin."""
    if request.path.startswith(("/demo/fhir", "/demo/dicomweb")):
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = "accept, authorization, content-type, prefer"
    return response


def fhir_base() -> str:
    return f"{request.host_url}demo/fhir"


def _answer(resource: Resource, status: int = 200) -> Response:
    return Response(json.dumps(resource, ensure_ascii=False), status, content_type=FHIR_JSON)


def outcome(status: int, code: str, diagnostics: str) -> Response:
    issue = {"severity": "error", "code": code, "diagnostics": diagnostics}
    return _answer({"resourceType": "OperationOutcome", "issue": [issue]}, status)


def _add_fhir(blueprint: Blueprint, store: Store) -> None:
    @blueprint.get("/fhir/metadata")
    def capabilities() -> Response:
        return _answer(_capabilities(store.charts().as_of))

    @blueprint.get("/fhir/<type_>/<id_>")
    @blueprint.get("/fhir/<type_>/<id_>/_history/1")
    def read(type_: str, id_: str) -> Response:
        """Charts never change, so there is one version of everything."""
        if type_ == "Endpoint" and id_ == ENDPOINT_ID:
            return _answer(_endpoint())
        found = store.charts().resources.get(type_, {}).get(id_)
        if found is None:
            return outcome(404, "not-found", "there is no such resource on this server")
        response = _answer(found)
        response.headers["ETag"] = 'W/"1"'
        return response

    @blueprint.route("/fhir/<type_>", methods=["GET"])
    @blueprint.route("/fhir/<type_>/_search", methods=["POST", "GET"])
    def find(type_: str) -> Response:
        if type_ not in TYPES:
            return outcome(404, "not-supported", "this server does not hold resources of this type")
        parameters = [*request.args.items(multi=True), *request.form.items(multi=True)]
        try:
            return _answer(_bundle(store, type_, parameters))
        except BadSearch as error:
            return outcome(400, "invalid", str(error))

    @blueprint.route("/fhir/", defaults={"path": ""}, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    @blueprint.route("/fhir/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def refuse(path: str) -> Response:
        return outcome(404, "not-supported", "this server answers read and search; see metadata")


def _bundle(store: Store, type_: str, parameters: list[tuple[str, str]]) -> Resource:
    lenient = "handling=lenient" in request.headers.get("Prefer", "")
    # Keyed by type, so that a search for one type never yields another's resources.
    held = store.charts().resources.get(type_, {}).values()
    found = search(type_, held if type_ != "Endpoint" else (_endpoint(),), parameters, lenient=lenient)
    offset, count = page_of(parameters)
    page = found[offset : offset + count]
    base = fhir_base()

    def url(start: int) -> str:
        kept = [(n, v) for n, v in parameters if n not in ("_offset", "_count")]
        return f"{base}/{type_}?{urlencode([*kept, ('_count', str(count)), ('_offset', str(start))])}"

    links = [{"relation": "self", "url": url(offset)}]
    if count and offset + count < len(found):
        links.append({"relation": "next", "url": url(offset + count)})
    entries = [_entry(base, r, "match") for r in page]
    if "Endpoint" in included_types(parameters) and page:
        entries.append(_entry(base, _endpoint(), "include"))
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": len(found), "link": links}
    return bundle | ({"entry": entries} if entries else {})


def _entry(base: str, resource: Resource, mode: str) -> Resource:
    url = f"{base}/{resource['resourceType']}/{resource['id']}"
    return {"fullUrl": url, "resource": resource, "search": {"mode": mode}}


def _endpoint() -> Resource:
    return {
        "resourceType": "Endpoint",
        "id": ENDPOINT_ID,
        "status": "active",
        "connectionType": {
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "dicom-wado-rs",
        },
        "payloadType": [{"text": "DICOM"}],
        "address": f"{request.host_url}demo/dicomweb",
    }


def _capabilities(at: datetime) -> Resource:
    interactions = [{"code": "read"}, {"code": "search-type"}]
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": at.isoformat(timespec="seconds"),
        "kind": "instance",
        "software": {"name": "Ordersight demo EHR"},
        "implementation": {"description": "Generated patients; nobody here is real.", "url": fhir_base()},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [{"mode": "server", "resource": [{"type": t, "interaction": interactions} for t in TYPES]}],
    }
