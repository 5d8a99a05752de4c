"""The service with evidence links, served on a socket; cases of charts written down in tests."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import requests
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from demo_server import served
from flask import Flask
from vignettes import SERVICES, Answers, Chart, service

from cds_service.advice import load_advice
from cds_service.app import create_app
from cds_service.cards import Card
from cds_service.consult import Case
from cds_service.demo.ehr import demo_blueprint
from cds_service.demo.fire import Ehr
from cds_service.manifest import Services, load_services
from cds_service.pages.collect import LIFETIME, collect
from cds_service.pages.films import Picture
from cds_service.pages.links import place
from cds_service.pages.seal import ID_BYTES, KEY_BYTES, known_as, new_secret, seal
from cds_service.pages.snapshot import ModelView, Snapshot, encode
from cds_service.settings import Settings
from cds_service.state.sealed import SealedEvidence
from cds_service.trust.clients import Client, Clients, FhirServer
from fhir_mappers.tensors import to_fusion_input

START = datetime(2026, 3, 10, 14, tzinfo=UTC)
"""The moment of the charts in contrast.py."""
FINDINGS = ("pneumothorax", "consolidation", "edema", "effusion", "opacity", "mass")
MODEL = Answers(
    {
        **{f"finding.{name}": (0.12, 0.06, 0.22) for name in FINDINGS},
        "finding.effusion": (0.88, 0.81, 0.93),
        "icu_care": (0.2, 0.1, 0.3),
    },
    prior={"finding.effusion": (0.06, 0.03, 0.10)},
    masked={"imaging": 0.31, "labs": 0.83},
    titles={"finding.effusion": "Pleural effusion"},
)


class Clock:
    """The service's clock: stands at START and can be put forward."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Evidence:
    """One running house. `link` gives a card's evidence link; `opened` a browser session that has opened it."""

    base: str
    app: Flask
    clock: Clock
    folder: Path
    cards: list[Mapping[str, Any]] = field(default_factory=list)

    def ask(self, chart: Chart, name: str) -> list[Mapping[str, Any]]:
        body = chart.body(name)
        headers = {"Content-Type": "application/json"}
        answer = requests.post(f"{self.base}/cds-services/{name}", body, headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text
        self.cards = answer.json()["cards"]
        return self.cards

    def link(self, chart: Chart | None = None, name: str = CONTRAST) -> str:
        (card,) = self.ask(chart or contrast_chart(LOW, STEADY, METFORMIN), name)
        return link_of(card)

    def fire(self, patient: str, hook: str, service_id: str) -> Mapping[str, Any]:
        """The card of one service for a patient of the demo EHR."""
        ehr = Ehr(self.base)
        ehr.discover()
        outcomes = ehr.fire(patient, hook, with_prefetch=True)
        return next(card for o in outcomes if o.service == service_id for card in o.cards)

    def keep(self, snapshot: Snapshot, films: Sequence[bytes]) -> str:
        """Seal a snapshot made in a test as the service seals its own; the link to it."""
        id_, key = new_secret(ID_BYTES), new_secret(KEY_BYTES)
        row, tenant = known_as(id_), "tests"
        self.app.extensions["ordersight"].evidence.store.keep(
            SealedEvidence(
                id=row,
                tenant=tenant,
                card=snapshot.card,
                service=snapshot.service_id,
                patient_key="",
                made_at=self.clock(),
                expires=self.clock() + LIFETIME,
                page=seal(encode(snapshot), key, place(tenant, row, "page")),
                films=seal(msgspec.msgpack.encode(list(films)), key, place(tenant, row, "films")),
            )
        )
        return f"{self.base}/evidence/{id_}#{key}"

    def opened(self, link: str) -> requests.Session:
        session = requests.Session()
        answer = post_key(session, link)
        assert answer.status_code == 200, answer.text
        return session


def link_of(card: Mapping[str, Any]) -> str:
    return str(next(link["url"] for link in card["links"] if link["label"] == "Evidence"))


def parts(link: str) -> tuple[str, str]:
    """The address without the key, and the key."""
    address, _, key = link.partition("#")
    return address, key


def post_key(session: requests.Session | Any, link: str) -> requests.Response:
    """What the opening page's script does, and then what the browser does with the answer."""
    address, key = parts(link)
    return session.post(address, {"key": key}, timeout=20)  # type: ignore[no-any-return]


@contextmanager
def evidence_house(
    folder: Path, model: Answers = MODEL, clients: Sequence[Client] = (), **settings: Any
) -> Iterator[Evidence]:
    clock = Clock()
    given = Settings(jwt="off", state_dir=folder / "state", profile="research_imaging", **settings)
    # A busy machine that draws the demo's films for the first time must not cost a card its film.
    patient = [
        msgspec.structs.replace(s, budget_ms=dict.fromkeys(s.hooks, 20_000))
        for s in load_services(SERVICES, given.profile).all
    ]
    app = create_app(
        given,
        services=Services(patient, given.profile),
        engines={"chest-open": model},
        clients=Clients(),
        clock=clock,
    )
    app.register_blueprint(demo_blueprint(START, draw=False))
    links = app.extensions["ordersight"].evidence
    with served(app) as base:
        if not settings.get("base_url"):
            links._base = f"{base}/evidence"
        known = Client("demo-ehr", (FhirServer(f"{base}/demo/fhir", (f"{base}/demo/dicomweb",)),))
        app.extensions["ordersight"].clients = Clients([known, *clients])
        try:
            yield Evidence(base, app, clock, folder / "state")
        finally:
            app.extensions["ordersight"].close()


def case_of(chart: Chart, name: str, model: Answers | None = None) -> Case:
    """The case of a chart, as `consult` makes it."""
    chosen, request, record = service(name), chart.request(name), chart.record(name)
    answers = model or chart.model
    assessment, used = None, {}
    if answers is not None and chosen.model is not None:
        inputs = to_fusion_input(record, answers.spec)
        assessment, used = answers.assess(inputs, timeout=1.0), dict(inputs.used)
    return Case(chosen, request, record, assessment, chart.shortfalls, chart.profile, "", used)


def advised(case: Case) -> Card:
    (card,) = load_advice(case.service.advice)(case)
    return card


def snapshot_of(
    chart: Chart, name: str, *, films: Sequence[tuple[str, Picture]] = (), model: ModelView | None = None
) -> Snapshot:
    case = case_of(chart, name)
    return collect(case, advised(case), model, films)


def with_record(case: Case, **changes: Any) -> Case:
    return dataclasses.replace(case, record=dataclasses.replace(case.record, **changes))


def words_of(html: str) -> str:
    """A page's text without its tags, blanks folded."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def at_once(count: int, work: Any) -> list[Any]:
    """Run `work()` in `count` threads that start together; what each returned."""
    barrier, found = threading.Barrier(count), []

    def run() -> None:
        barrier.wait()
        found.append(work())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
