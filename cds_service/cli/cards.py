"""`cds-service cards`: every card of the demo's patients on one page, as a clinician reads it."""

from __future__ import annotations

import re
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import requests
import typer

from cds_service.app import create_app
from cds_service.cli.demo import MODEL
from cds_service.cli.errors import CommandError
from cds_service.cli.serve import load_engines
from cds_service.demo.chart import PLACES, age_of
from cds_service.demo.ehr import demo_blueprint
from cds_service.demo.fire import USER
from cds_service.logs import configure_logging
from cds_service.manifest import Services, load_services
from cds_service.server import listen
from cds_service.settings import Settings
from cds_service.trust.clients import Client, Clients, FhirServer
from fhir_mappers.cohort.facts import GeneratedPatient, Occasion
from fhir_mappers.cohort.resources import encounter_id
from fhir_mappers.cohort.scenarios import demo_patients

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
"""The page's moment. Charts are told relative to it and the service's clock stands at it."""
BUDGET_MS = 60_000
"""A page is the same on a slow machine: no card may be missing because an answer was late."""
TIMEOUT_S = 90.0

INTRO = """\
# What the cards say

Every card of the demo's patients, through the whole service at one fixed moment: the eight services, the rules, the
model `{model}`, profile research_imaging. Made by `cds-service cards --page docs/cards.md`; a test compares this page
with a fresh one and reads it for words a tired clinician would stumble over. The patients are invented. Each
service's answer is shown as it is given, before repeats are held back and before two cards a hook are all that is left.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one service answered on one occasion of one patient. `call` is the call's hookInstance."""

    patient: GeneratedPatient
    occasion: Occasion
    service: str
    call: str
    cards: tuple[Mapping[str, Any], ...]


def cards(
    page: Annotated[Path | None, typer.Option(help="File to write the page to; printed without one.")] = None,
) -> None:
    """Write every card of the demo's patients on one page, the same page every time."""
    configure_logging(level="ERROR")
    text = render(demo_answers())
    if page is None:
        typer.echo(text, nl=False)
        return
    page.write_text(text, encoding="utf-8")
    typer.echo(f"{page}: {len(re.findall('^#### ', text, re.MULTILINE))} cards")


def demo_answers() -> list[Answer]:
    """Fire every occasion of every demo patient at every service that listens, with the clock standing at AS_OF."""
    with (
        tempfile.TemporaryDirectory(prefix="ordersight-cards-") as state,
        standing_house(Path(state)) as (base, services),
        requests.Session() as session,
    ):
        return [
            _ask(session, base, service.id, patient, occasion)
            for patient in demo_patients(AS_OF)
            for occasion in patient.occasions
            for service in services.on
            if occasion.hook in service.hooks
        ]


@contextmanager
def standing_house(state: Path) -> Iterator[tuple[str, Services]]:
    """The demo, service and EHR, on a free port, as it is at AS_OF: its address and its services. `state` is a folder.

    Every card is shown every time, and no answer is late.
    """
    settings = Settings(
        host="127.0.0.1",
        port=0,
        profile="research_imaging",
        jwt="off",
        economy="off",
        state_dir=state,
        outbox_mb=1,
    )
    loaded = load_services(settings.manifests / "services", settings.profile, model=MODEL)
    unhurried = [msgspec.structs.replace(s, budget_ms=dict.fromkeys(s.hooks, BUDGET_MS)) for s in loaded.all]
    services = Services(unhurried, settings.profile)
    with listen(settings) as server:
        known = Client("demo-ehr", (FhirServer(f"{server.url}/demo/fhir", (f"{server.url}/demo/dicomweb",)),))
        app = create_app(
            server.settings,
            services=services,
            engines=load_engines(services, settings),
            clients=Clients([known]),
            clock=lambda: AS_OF,
        )
        app.register_blueprint(demo_blueprint(AS_OF))
        threading.Thread(target=server.run, args=(app,), daemon=True).start()
        yield server.url, services


def _ask(session: requests.Session, base: str, service: str, patient: GeneratedPatient, occasion: Occasion) -> Answer:
    context: dict[str, Any] = {"userId": USER, "patientId": patient.id, "encounterId": encounter_id(patient)}
    if occasion.drafts:
        entries = [{"resource": draft} for draft in occasion.drafts]
        context["draftOrders"] = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    if occasion.hook == "order-select":
        context["selections"] = list(occasion.selections)
    # Nothing is prefetched: the chart is read at the page's moment, and templates with today() mean that day.
    call = str(uuid.uuid4())
    body = {"hook": occasion.hook, "hookInstance": call, "fhirServer": f"{base}/demo/fhir"}
    answer = session.post(f"{base}/cds-services/{service}", json={**body, "context": context}, timeout=TIMEOUT_S)
    if answer.status_code != requests.codes.ok:
        raise CommandError(f"{service} answered {answer.status_code} to {occasion.hook} of {patient.id}")
    return Answer(patient, occasion, service, call, tuple(answer.json()["cards"]))


# ------------------------------------------------------------------------------------------------------- the page


def render(answers: Sequence[Answer]) -> str:
    """The page: nothing in it depends on the run. What several hooks say alike about one order stands once."""
    parts = [INTRO.format(model=MODEL)]
    for patient in dict.fromkeys(a.patient.id for a in answers):
        mine = [a for a in answers if a.patient.id == patient]
        parts.append(_heading(mine[0].patient))
        told: dict[str, str] = {}
        for event in dict.fromkeys(_event(a.occasion) for a in mine):
            parts += _section(event, [a for a in mine if _event(a.occasion) == event], told)
    return "\n".join(parts)


def _heading(patient: GeneratedPatient) -> str:
    sex = "female" if patient.female else "male"
    where = PLACES[patient.unit].lower()
    return f"## {patient.name}: {patient.title}\n\n{age_of(patient)} years, {sex}, {where}. {patient.story}\n"


def _event(occasion: Occasion) -> str:
    """What the clinician does; choosing and signing the same order is one thing to read about."""
    return occasion.title.partition(": ")[2] if occasion.drafts else occasion.title


def _section(event: str, answers: Sequence[Answer], told: dict[str, str]) -> list[str]:
    """What was said on one event. `told` says under which event of this patient a card already stands."""
    hooks = dict.fromkeys(a.occasion.hook for a in answers)
    said: dict[tuple[str, str], list[str]] = {}
    for answer in answers:
        for card in answer.cards:
            said.setdefault((f"{card['indicator']}: {answer.service}", _card(card)), []).append(answer.occasion.hook)
    parts = [f"### {event} ({', '.join(hooks)})\n"]
    for (title, text), heard in said.items():
        only = "" if set(heard) == set(hooks) else f" (only on {', '.join(heard)})"
        before = told.setdefault(text, event)
        parts.append(f"#### {title}{only}\n\n" + (text if before == event else f"As on: {before}.\n"))
    spoke = {a.service for a in answers if a.cards}
    silent = dict.fromkeys(a.service for a in answers if a.service not in spoke)
    if silent:
        parts.append(f"Nothing to say: {', '.join(silent)}.\n")
    return parts


def _card(card: Mapping[str, Any]) -> str:
    """One card as a clinician reads it: summary, detail, buttons, reasons, source."""
    lines = [f"**{card['summary']}**", "", *card.get("detail", "").splitlines()]
    buttons = [
        f"- [ {s['label']} ]" + (" (recommended)" if s.get("isRecommended") else "")
        for s in card.get("suggestions", ())
    ]
    if buttons:
        lines += ["", *buttons]
    reasons = [r["display"] for r in card.get("overrideReasons", ())]
    if reasons:
        lines += ["", f"Or say why not: {' · '.join(reasons)}"]
    lines += ["", f"Source: {card['source']['label']}"]
    return "\n".join(f"> {line}".rstrip() for line in lines) + "\n"
