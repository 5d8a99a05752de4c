"""A vignette's call over HTTP, to all services that hear its hook, with the films behind a real DICOMweb socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from moody import Mood, Moody, Seen, reply
from r4 import suggested_resources, validate_r4
from vignettes import SERVICES, Chart

from cds_service.app import create_app
from cds_service.evidence import DicomFile
from cds_service.manifest import Service, Services, load_services
from cds_service.settings import Settings
from cds_service.trust.clients import Client, Clients, FhirServer

Cards = list[dict[str, Any]]
Edit = Callable[[dict[str, Any]], object]
MODEL = "chest-open"


def archive(films: tuple[DicomFile, ...]) -> Callable[[Seen], Mood]:
    """A PACS that holds these films, one instance each."""
    held = {f.sop_uid: f for f in films}

    def answer(seen: Seen) -> Mood:
        parts = seen.path.split("?")[0].split("/")
        film = held.get(parts[parts.index("instances") + 1]) if "instances" in parts[:-1] else None
        if film is None:
            return reply([], 404)
        if parts[-1] == "metadata":
            return reply([dict(film.metadata)], content_type="application/dicom+json")
        part = (
            f"--b0\r\nContent-Type: application/octet-stream; transfer-syntax={film.transfer_syntax}\r\n\r\n".encode()
        )
        related = 'multipart/related; type="application/octet-stream"; boundary=b0'
        return reply(part + film.frame + b"\r\n--b0--\r\n", content_type=related)

    return answer


class House:
    """The eight services as a site that has switched image analysis on runs them, asked at one moment."""

    def __init__(self, chart: Chart, state: Path, pacs: Moody) -> None:
        self.chart, self.pacs = chart, pacs
        now = datetime.fromisoformat(chart.now.replace("Z", "+00:00"))
        client = Client("hospital", (FhirServer(f"{pacs.origin}/fhir", (f"{pacs.origin}/dicom-web",)),))
        loaded = load_services(SERVICES, "research_imaging")
        self.services = {s.id: _critical_films(s) for s in loaded.all}
        self.app = create_app(
            Settings(jwt="off", state_dir=state, outbox_mb=1, profile="research_imaging"),
            services=Services(list(self.services.values()), "research_imaging"),
            engines={MODEL: chart.model} if chart.model is not None else {},
            clients=Clients([client]),
            clock=lambda: now,
        )

    def hears(self, name: str) -> bool:
        return self.chart.hook in self.services[name].hooks

    def ask(self, name: str, chart: Chart | None = None, edit: Edit | None = None, status: int = 200) -> Cards:
        """What one service answers; every resource it suggests is valid R4."""
        call = json.loads((chart or self.chart).body(name))
        if (chart or self.chart).films:
            call["fhirServer"] = f"{self.pacs.origin}/fhir"
        if edit is not None:
            edit(call)
        answer = self.app.test_client().post(f"/cds-services/{name}", json=call)
        assert answer.status_code == status, answer.get_data(as_text=True)
        cards: Cards = answer.get_json().get("cards", []) if status == 200 else []
        for resource in suggested_resources(cards):
            validate_r4(resource)
        return cards


def _critical_films(service: Service) -> Service:
    """The vignettes' site lets an unread pneumothorax interrupt (L10: CX-01 when a site enables it)."""
    if "CX-01" not in service.rules:
        return service
    rule = msgspec.structs.replace(service.rules["CX-01"], tier="critical")
    return msgspec.structs.replace(service, rules={**service.rules, "CX-01": rule})


@contextmanager
def house(chart: Chart, state: Path) -> Iterator[House]:
    with Moody(archive(chart.films)) as pacs:
        opened = House(chart, state, pacs)
        try:
            yield opened
        finally:
            opened.app.extensions["ordersight"].close()
