"""How often a clinician would be interrupted: generated orders through the services in process, and what was said.

    python benchmarks/interruptions.py                  # 2,000 orders, some minutes; writes benchmarks/results/
    python benchmarks/interruptions.py --orders 200

Patients come from the generator, orders from the mix below, nobody answers a card. So this measures the machinery,
that silence is the default and that repeats are held back, and no hospital: its patients, its orders and its
clinicians' answers decide the rate there, which shadow mode measures (docs/operations.md).
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
import numpy as np
from flask import Flask

from cds_service.app import create_app
from cds_service.cli.demo import MODEL
from cds_service.cli.serve import load_engines
from cds_service.demo.search import search
from cds_service.hooks import parse_hook_request
from cds_service.manifest import Service, Services, load_services
from cds_service.prefetch import NoValue, expand
from cds_service.settings import Settings
from cds_service.state.records import FeedbackReport
from cds_service.trust.clients import Clients
from fhir_mappers.codes import LOINC, drugs
from fhir_mappers.cohort.facts import GeneratedPatient, Resource
from fhir_mappers.cohort.patients import generate_patient
from fhir_mappers.cohort.resources import concept, encounter_id
from fhir_mappers.cohort.writing import order_drug, order_imaging

BUDGET = 0.005
"""Interruptive cards on at most so many of all orders: the product's budget (docs/safety.md)."""
START = datetime(2026, 2, 2, 6, 0, tzinfo=UTC)
DAYS = 28
USERS = 80
ORDERS_PER_CHART = 4
HURRY_MS = 60_000
MOST_POINTS = 1_000_000
SHM = Path("/dev/shm")
KINDS = (("laboratory", 0.45), ("drug", 0.40), ("imaging", 0.15))
"""Assumed, not measured: what is ordered in a hospital, roughly. Drugs are drawn from tables/drug_classes.csv, which
lists those that some rule is about, and so are riskier than what is prescribed in a hospital."""
LABORATORY = (("2160-0", "Creatinine"), ("1988-5", "C-reactive protein"), ("718-7", "Haemoglobin"))
IMAGING = (
    ("30745-4", "XR chest", 0.50),
    ("29252-4", "CT chest without contrast", 0.14),
    ("24628-0", "CT chest with IV contrast", 0.12),
    ("36813-4", "CT abdomen and pelvis with IV contrast", 0.14),
    ("36147-7", "CT pulmonary angiogram", 0.06),
    ("24589-4", "MR brain with gadolinium", 0.04),
)


@dataclass(frozen=True, slots=True)
class Order:
    kind: str
    patient: GeneratedPatient
    user: str
    at: datetime
    draft: Resource


def orders(n: int, seed: int) -> Iterator[Order]:
    """In order of time. A chart gets some orders within a shift, by one of its clinicians."""
    rng = np.random.default_rng((seed, 7))
    starts = np.sort(rng.uniform(0, DAYS * 24, -(-n // ORDERS_PER_CHART)))
    made: list[Order] = []
    for number, start in enumerate(starts):
        at = (START + timedelta(hours=float(start))).replace(second=0, microsecond=0)
        patient = generate_patient(number, seed, as_of=at)
        team = rng.integers(0, USERS, 2)
        for _ in range(ORDERS_PER_CHART):
            later = at + timedelta(minutes=int(rng.integers(1, 480)))
            kind = str(rng.choice([k for k, _ in KINDS], p=[p for _, p in KINDS]))
            draft = {**_draft(rng, kind, patient.id, later), "id": f"draft-{len(made)}"}
            made.append(Order(kind, patient, f"Practitioner/u{rng.choice(team)}", later, draft))
    return iter(sorted(made[:n], key=lambda o: o.at))


def _draft(rng: np.random.Generator, kind: str, patient: str, at: datetime) -> Resource:
    if kind == "drug":
        known = [d.ingredient for d in drugs() if d.rxcui]
        return order_drug(patient, known[int(rng.integers(len(known)))], "usual dose", at)
    if kind == "imaging":
        code, title, _ = IMAGING[int(rng.choice(len(IMAGING), p=[p for *_, p in IMAGING]))]
        return order_imaging(patient, code, title, at)
    code, title = LABORATORY[int(rng.integers(len(LABORATORY)))]
    laboratory = concept("http://snomed.info/sct", "108252007", "Laboratory procedure")
    order = order_imaging(patient, code, title, at)
    return {**order, "category": [laboratory], "code": concept(LOINC, code, title)}


class Clock:
    now = START

    def __call__(self) -> datetime:
        return self.now


def body_of(service: Service, order: Order, hook_instance: str) -> dict[str, Any]:
    """The call with everything prefetched, as an EHR that knows every template sends it."""
    drafts = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": order.draft}]}
    body: dict[str, Any] = {
        "hook": "order-sign",
        "hookInstance": hook_instance,
        "context": {
            "userId": order.user,
            "patientId": order.patient.id,
            "encounterId": encounter_id(order.patient),
            "draftOrders": drafts,
        },
    }
    request = parse_hook_request(json.dumps(body).encode(), order.at)
    body["prefetch"] = {}
    for key, item in service.evidence.items():
        try:
            query = expand(item.template(), request)
        except NoValue:
            continue
        body["prefetch"][key] = read(order.patient, query)
    return body


def read(patient: GeneratedPatient, query: str) -> Mapping[str, Any] | None:
    path, asked, parameters = query.partition("?")
    kind, _, id_ = path.partition("/")
    held = [r for r in patient.resources if r["resourceType"] == kind]
    if not asked:
        return next((r for r in held if r["id"] == unquote(id_)), None)
    found = search(kind, held, parse_qsl(parameters), lenient=True)
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": r} for r in found]}


def house(state: Path, clock: Clock) -> tuple[Flask, Services]:
    """The service as a hospital installs it: profile non_device, so nothing is said about a film; economy on."""
    # The replay is one caller that asks as fast as it can, which is no flood.
    settings = Settings(jwt="off", state_dir=state, outbox_mb=1, client_points_per_s=MOST_POINTS)
    loaded = load_services(settings.manifests / "services", settings.profile, model=MODEL)
    unhurried = [msgspec.structs.replace(s, budget_ms=dict.fromkeys(s.hooks, HURRY_MS)) for s in loaded.all]
    services = Services(unhurried, settings.profile)
    engines = load_engines(services, settings)
    return create_app(settings, services=services, engines=engines, clients=Clients(), clock=clock), services


def replay(n: int, seed: int) -> dict[str, Any]:
    clock, began = Clock(), time.monotonic()
    asked: Counter[str] = Counter()
    interrupted: Counter[str] = Counter()
    told: Counter[str] = Counter()
    # The state of a measurement need not outlive it: in memory where the machine has such a folder.
    memory = SHM if SHM.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="ordersight-interruptions-", dir=memory) as state:
        app, services = house(Path(state), clock)
        client = app.test_client()
        for number, order in enumerate(orders(n, seed)):
            clock.now = order.at
            asked[order.kind] += 1
            tiers = []
            for service in services.on:
                if "order-sign" in service.hooks:
                    body = body_of(service, order, f"order-{number}")
                    answer = client.post(f"/cds-services/{service.id}", json=body)
                    if answer.status_code != 200:
                        raise RuntimeError(
                            f"{service.id} answered {answer.status_code}: {answer.get_data(as_text=True)}"
                        )
                    tiers += [card["indicator"] for card in answer.get_json()["cards"]]
            interrupted[order.kind] += any(tier != "info" for tier in tiers)
            told[order.kind] += bool(tiers)
        known = app.extensions["ordersight"]
        lowered = sum(
            decision["cause"] == "five per thousand orders"
            for line in known.state.export_audit()
            for decision in json.loads(json.loads(line)["decisions"])
        )
        report = known.state.feedback_report(START, START + timedelta(days=DAYS + 1))
        known.close()
    took_s = time.monotonic() - began
    return {
        "orders": n,
        "seed": seed,
        "seconds": round(took_s),
        "by_kind": {k: {"orders": asked[k], "interrupted": interrupted[k], "any_card": told[k]} for k in sorted(asked)},
        "interrupted": sum(interrupted.values()),
        "lowered": lowered,
        "rate": sum(interrupted.values()) / n,
        "budget": BUDGET,
        "service_calls": report.calls.get("order-sign", 0),
        "rules": rules_of(report),
    }


def rules_of(report: FeedbackReport) -> list[dict[str, Any]]:
    return [
        {
            "service": row.service,
            "rule": row.rule,
            "tier": row.indicator,
            "shown": row.shown,
            "accepted": row.accepted,
            "overridden": row.overridden,
            "unanswered": row.unanswered,
            "held_back": sum(row.suppressed.values()),
            "capped": sum(row.capped.values()),
        }
        for row in report.rows
        if row.rule
    ]


def page(found: Mapping[str, Any]) -> str:
    """The report an admin would read, in Markdown."""
    n = found["orders"]
    verdict = "within" if found["rate"] <= found["budget"] else "over"
    lines = [
        "# Interruptions of generated orders",
        "",
        f"{found['interrupted']} of {n:,} signed orders brought a warning or critical card: {found['rate']:.2%}, "
        f"{verdict} the budget of {found['budget']:.1%} of all orders. {found['lowered']} more warnings were over the "
        "budget and shown as info.",
        "",
        "| order | signed | interrupted | any card |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {k} | {v['orders']} | {v['interrupted']} | {v['any_card']} |" for k, v in found["by_kind"].items()]
    lines += [
        "",
        f"{found['service_calls']:,} service calls. Per rule, over {DAYS} days:",
        "",
        "| service | rule | tier | shown | accepted | overridden | no answer | held back | capped |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    columns = ("service", "rule", "tier", "shown", "accepted", "overridden", "unanswered", "held_back", "capped")
    lines += ["| " + " | ".join(str(row[c]) for c in columns) + " |" for row in found["rules"]]
    silent = found["silent_rules"]
    lines += ["", f"Never spoke: {', '.join(silent)}.", "", *CAVEATS, ""]
    return "\n".join(lines)


CAVEATS = (
    "What this is worth: the patients come from the project's generator, the mix of orders is assumed (it stands",
    "in `benchmarks/interruptions.py`), the profile is non_device, and nobody answers a card, so nothing was",
    "accepted or overridden. The mix is harsher than a hospital's in one way that weighs: drugs are drawn evenly",
    "from the table of those that some rule is about, so that the five whose label or agency asks for a gene test",
    "before the first dose (fluorouracil, capecitabine, abacavir, rasburicase, pegloticase) are one order in a",
    "hundred here, and none of their patients has been tested. The figures show which rules speak, that repeats",
    "are held back, that silence is the default and that the budget holds in code; critical cards pass it and",
    "count. What the rate is in a hospital, shadow mode in that hospital tells.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=20260302)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "interruptions.md")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found = replay(asked.orders, asked.seed)
    services = load_services(Settings(jwt="off").manifests / "services")
    spoke = {row["rule"] for row in found["rules"]}
    every = [id_ for s in services.all if "order-sign" in s.hooks for id_ in s.rules]
    found["silent_rules"] = [id_ for id_ in every if not any(r == id_ or r.startswith(f"{id_}-") for r in spoke)]
    text = page(found)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text, encoding="utf-8")
    asked.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
