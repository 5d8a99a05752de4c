"""A hospital with a file of its own, its EHR on a real socket, and a patient whose creatinine has a local code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import orjson
from contrast import LOW, METFORMIN, STEADY, chart
from moody import Mood, Moody, Seen, reply
from vignettes import SERVICES, Resource

from cds_service.app import create_app
from cds_service.manifest import Services, load_services
from cds_service.settings import Settings
from cds_service.trust.clients import Client, Clients, FhirServer

LAB = "https://lab.example.org/codes"
CODES = f"system,code,target,unit,written\n{LAB},CREA,http://loinc.org|2160-0,mg/dL,\n"
SERVICE = "imaging-safety"
NOW = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)


def of_the_lab(resource: Resource) -> Resource:
    """The same result under the laboratory's own code, without a unit."""
    value = {"value": resource["valueQuantity"]["value"]}
    return {**resource, "code": {"coding": [{"system": LAB, "code": "CREA"}]}, "valueQuantity": value}


def written(folder: Path, text: str = "codes: general.csv\n", codes: str = CODES, tenant: str = "hospital") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{tenant}.yaml").write_text(text)
    (folder / "general.csv").write_text(codes)
    return folder


class Asked:
    def __init__(self, app: Any, ehr: Moody) -> None:
        self.app, self.ehr = app, ehr

    def cards(
        self, drop: tuple[str, ...] = (), service: str = SERVICE, sent: Resource | None = None, **context: str
    ) -> list[dict[str, Any]]:
        """The cards for the patient; `drop` are keys the EHR does not send, `sent` keys it sends besides."""
        given = chart(of_the_lab(LOW), of_the_lab(STEADY), METFORMIN)
        body = json.loads(given.body(service)) | {"fhirServer": self.ehr.base}
        body["context"] |= context
        body["prefetch"] |= sent or {}
        for key in drop:
            del body["prefetch"][key]
        answer = self.app.test_client().post(f"/cds-services/{service}", json=body)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        cards: list[dict[str, Any]] = answer.get_json()["cards"]
        return cards

    def last(self) -> Any:
        *_, row = (
            r
            for r in map(orjson.loads, self.app.extensions["ordersight"].state.export_audit())
            if r["kind"] == "answer"
        )
        return row


def ehr_of(*resources: Resource) -> Callable[[Seen], Mood]:
    """An EHR that finds these by exactly the codes a search names, and nothing else."""

    def answer(seen: Seen) -> Mood:
        asked = parse_qs(urlsplit(seen.path).query)
        tokens = {t for given in asked.get("code", ()) for t in given.split(",")}
        kind = urlsplit(seen.path).path.rsplit("/", 1)[-1]
        found = [
            r
            for r in resources
            if r["resourceType"] == kind
            and (not tokens or any(f"{c['system']}|{c['code']}" in tokens for c in r["code"]["coding"]))
        ]
        return reply({"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": r} for r in found]})

    return answer


def unhurried() -> Services:
    """The shipped services, none of which is in a hurry."""
    shipped = load_services(SERVICES)
    slow = [msgspec.structs.replace(s, budget_ms=dict.fromkeys(s.hooks, 60_000)) for s in shipped.all]
    return Services(slow, shipped.profile)


@contextmanager
def site(folder: Path, state: Path, *held: Resource, **settings: Any) -> Iterator[Asked]:
    with Moody(ehr_of(*held)) as ehr:
        app = create_app(
            Settings(jwt="off", state_dir=state, outbox_mb=1, sites=folder, **settings),
            services=unhurried(),
            clients=Clients([Client("hospital", (FhirServer(ehr.base),))]),
            clock=lambda: NOW,
        )
        try:
            yield Asked(app, ehr)
        finally:
            app.extensions["ordersight"].close()
