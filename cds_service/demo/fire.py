"""`fire_demo`: the demo from the terminal. An EHR's calls for real over HTTP, and the cards that come back."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import requests
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from cds_service.cli.show import card_panel

USER = "Practitioner/demo-clinician"
SCENES: tuple[tuple[str, str], ...] = (
    ("demo-alder", "order-sign"),
    ("demo-fir", "order-select"),
    ("demo-cedar", "order-sign"),
    ("demo-juniper", "patient-view"),
    ("demo-maple", "patient-view"),
    ("demo-oak", "patient-view"),
    ("demo-spruce", "patient-view"),
    ("demo-rowan", "patient-view"),
)
"""Patient and hook of each call the demo prints; every one is made with prefetch and again without."""
TIMEOUT_S = 20.0


class DemoError(RuntimeError):
    """The demo cannot go on: what was asked and what came instead."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call: the HTTP status, how long it took, and what came."""

    service: str
    hook: str
    patient: str
    with_prefetch: bool
    status: int
    ms: int
    cards: tuple[Mapping[str, Any], ...] = ()
    problem: str = ""


@dataclass(slots=True)
class Ehr:
    """The demo EHR as a CDS client: what it knows comes from its own FHIR endpoint and from discovery."""

    base_url: str
    session: requests.Session = field(default_factory=requests.Session)
    services: tuple[Mapping[str, Any], ...] = ()

    @property
    def fhir(self) -> str:
        return f"{self.base_url}/demo/fhir"

    def discover(self) -> None:
        """Read discovery. Raises DemoError when nobody answers it."""
        try:
            answer = self.session.get(f"{self.base_url}/cds-services", timeout=TIMEOUT_S)
            self.services = tuple(answer.json()["services"])
        except (requests.RequestException, KeyError, ValueError) as error:
            raise DemoError(f"no services at {self.base_url}/cds-services ({type(error).__name__})") from None

    def fire(self, patient: str, hook: str, *, with_prefetch: bool) -> list[Outcome]:
        """Call every service that listens to the hook, for the first order of the patient's scenario."""
        chart = self._get(f"{self.base_url}/demo/patients/{patient}/order-entry") or {}
        context: dict[str, Any] = {"userId": USER, "patientId": patient, "encounterId": chart.get("encounterId")}
        if hook.startswith("order-"):
            drafts = chart["scenario"][0]["drafts"]
            context["draftOrders"] = {"resourceType": "Bundle", "type": "collection"}
            context["draftOrders"]["entry"] = [{"resource": d} for d in drafts]
        if hook == "order-select":
            context["selections"] = [f"{d['resourceType']}/{d['id']}" for d in drafts]
        listening = [s for s in self.services if s["hook"] == hook]
        return [self._call(s, patient, context, with_prefetch) for s in listening]

    def _call(
        self, service: Mapping[str, Any], patient: str, context: Mapping[str, Any], with_prefetch: bool
    ) -> Outcome:
        body: dict[str, Any] = {
            "hook": service["hook"],
            "hookInstance": str(uuid.uuid4()),
            "fhirServer": self.fhir,
            "context": context,
        }
        if with_prefetch:
            body["prefetch"] = self._prefetch(service.get("prefetch", {}), context)
        started = time.perf_counter()
        try:
            url = f"{self.base_url}/cds-services/{service['id']}"
            answer = self.session.post(url, json=body, timeout=TIMEOUT_S)
            content = answer.json()
        except (requests.RequestException, ValueError) as error:
            status, content = 0, {"issue": [{"diagnostics": type(error).__name__}]}
        else:
            status = answer.status_code
        ms = round((time.perf_counter() - started) * 1000)
        problem = "" if status == 200 else content.get("issue", [{}])[0].get("diagnostics", f"HTTP {status}")
        cards = tuple(content.get("cards", ()))
        return Outcome(service["id"], service["hook"], patient, with_prefetch, status, ms, cards, problem)

    def _prefetch(self, templates: Mapping[str, str], context: Mapping[str, Any]) -> dict[str, Any]:
        """Fill and read every template; what cannot be filled or read is left out, which means: ask yourself."""
        filled = {key: fill(template, context) for key, template in templates.items()}
        read = {key: self._get(f"{self.fhir}/{query}") for key, query in filled.items() if query is not None}
        return {key: resource for key, resource in read.items() if resource is not None}

    def _get(self, url: str) -> Any | None:
        answer = self.session.get(url, timeout=TIMEOUT_S)
        return answer.json() if answer.ok else None


def fill(template: str, context: Mapping[str, Any]) -> str | None:
    """A prefetch template with its tokens filled; None where one has no value (CDS Hooks 2.0, "Prefetch tokens")."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        token = match.group(1)
        if today := re.fullmatch(r"today\(\)(?:\s*([+-])\s*(\d{1,5})\s+days?)?", token):
            sign, days = today.groups()
            return (datetime.now(UTC) + timedelta(days=int(days or 0) * (-1 if sign == "-" else 1))).date().isoformat()
        if token == "userPractitionerId":  # noqa: S105 - the name of a template's token
            return USER.partition("/")[2]
        found = context.get(token.removeprefix("context.")) if token.startswith("context.") else None
        missing = missing or not isinstance(found, str)
        return quote(str(found), safe="")

    filled = re.sub(r"\{\{\s*(.*?)\s*\}\}", value, template)
    return None if missing else filled


def fire_demo(base_url: str, console: Console) -> tuple[Outcome, ...]:
    """Fire the scenes with and without prefetch and print what came back. Raises DemoError without a service."""
    ehr = Ehr(base_url.rstrip("/"))
    ehr.discover()
    names = dict.fromkeys(f"{s['id']} ({s['hook']})" for s in ehr.services)
    console.print(Text.assemble(("Discovery  ", "bold"), ", ".join(names)))
    outcomes: list[Outcome] = []
    for patient, hook in SCENES:
        sent = ehr.fire(patient, hook, with_prefetch=True)
        unsent = ehr.fire(patient, hook, with_prefetch=False)
        console.print()
        console.rule(Text.assemble((f"{hook}  ", "bold cyan"), _title(ehr, patient)), align="left", style="dim")
        pairs = list(zip(sent, unsent, strict=True))
        spoke = [pair for pair in pairs if any(o.problem or o.cards for o in pair)]
        for with_prefetch, without in spoke:
            _print_outcome(console, with_prefetch, without)
        quiet = [f"{a.service} ({a.ms} ms)" for a, b in pairs if (a, b) not in spoke]
        if quiet:
            console.print(Padding(Text("looked, nothing to say: " + ", ".join(quiet), style="dim"), (0, 0, 0, 2)))
        outcomes += [*sent, *unsent]
    console.print()
    console.print(Text.assemble("Open ", (f"{ehr.base_url}/demo/", "bold underline"), " to order something yourself."))
    return tuple(outcomes)


def _title(ehr: Ehr, patient: str) -> str:
    found = ehr._get(f"{ehr.fhir}/Patient/{patient}") or {}
    name = (found.get("name") or [{}])[0]
    return f"{name.get('family', patient)}, {' '.join(name.get('given', ()))}"


def _print_outcome(console: Console, sent: Outcome, unsent: Outcome) -> None:
    for outcome in (sent, unsent):
        if outcome.problem:
            words = f"{outcome.service}: {outcome.status} {outcome.problem}"
            console.print(Padding(Text(words, style="red"), (0, 0, 0, 2)))
            return
    for card in sent.cards:
        console.print(Padding(card_panel(card), (0, 0, 0, 2)))
    alike = same_advice(sent.cards, unsent.cards)
    again = "the same without prefetch" if alike else "not the same without prefetch"
    said = f"{len(sent.cards)} card{'s' * (len(sent.cards) != 1)}"
    line = f"{sent.service}: {said} in {sent.ms} ms; {again} in {unsent.ms} ms"
    console.print(Padding(Text(line, style="dim" if alike else "yellow"), (0, 0, 0, 2)))


def same_advice(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> bool:
    """Whether two answers say the same: tier, summary, detail and suggestions' labels, uuids aside."""

    def essence(cards: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        return [
            (c["indicator"], c["summary"], c.get("detail"), tuple(s["label"] for s in c.get("suggestions", ())))
            for c in cards
        ]

    return essence(a) == essence(b)
