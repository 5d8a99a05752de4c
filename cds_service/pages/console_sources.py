"""The source attributes of each service, as a page and as JSON."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response
from werkzeug.exceptions import NotFound

from cds_service.manifest import ManifestError
from cds_service.pages.console_models import model_cards
from cds_service.pages.console_page import Console
from cds_service.source_attributes import Sheet, load_texts, sheet


def add_sources(blueprint: Blueprint, console: Console) -> None:
    house = console.house

    def made(service_id: str) -> Sheet:
        service = next((s for s in house.services.all if s.id == service_id), None)
        if service is None:
            raise NotFound("There is no such service here.")
        card = next((c for c in model_cards(house.settings.models) if c.name == service.model), None)
        try:
            return sheet(service, card, load_texts(house.settings.manifests))
        except ManifestError as error:
            raise NotFound(f"The source attributes cannot be shown: {error}") from None

    @blueprint.get("/source-attributes/<service_id>")
    def sources(service_id: str) -> Response:
        return console.page("sources", sheet=made(service_id))

    @blueprint.get("/source-attributes/<service_id>.json")
    def sources_json(service_id: str) -> Response:
        return Response(msgspec.json.encode(made(service_id)), content_type="application/json")
