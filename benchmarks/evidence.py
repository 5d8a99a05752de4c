"""How soon the evidence of a film of 2,048 pixels is seen, and how much is sent, in a browser on this machine.

    python benchmarks/evidence.py [--opens 10]

Each opening is a link of its own in a browser context of its own.

kept     from the card to evidence that waits, sealed, for its reader
first    first contentful paint after the key was posted: opened, unsealed, rendered, painted
films    both films and their tools are drawn, after the same moment
kB       sent, with and without the films

Goals: first 1,000 ms, 500 kB without the films. One machine serves, reads the films and shows them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from healthy import ROOT
from load import quantile
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rig import save

from cds_service.advice import load_advice
from cds_service.app import create_app
from cds_service.cli.cards import AS_OF
from cds_service.cli.serve import load_engines
from cds_service.consult import Case
from cds_service.hooks import parse_hook_request
from cds_service.manifest import Services, load_services
from cds_service.pages.links import EvidenceLinks
from cds_service.pages.seal import known_as
from cds_service.server import listen
from cds_service.settings import Settings
from cds_service.trust.clients import Clients
from fhir_mappers.cohort.records import to_record
from fhir_mappers.cohort.scenarios import demo_patients
from fhir_mappers.tensors import to_fusion_input

SERVICE, MODEL, PIXELS, PATIENT = "cxr-insight", "chest-generated", 2048, "demo-juniper"


def case_of(services: Services, engine: Any, as_of: datetime) -> Case:
    """A film with a finding that the film before had not, both of PIXELS, read by the shipped model."""
    patient = next(p for p in demo_patients(as_of) if p.id == PATIENT)
    films = tuple(dataclasses.replace(film, size=PIXELS) for film in patient.films)
    record = to_record(dataclasses.replace(patient, films=films))
    context = {"userId": "Practitioner/u1", "patientId": PATIENT}
    call = {"hook": "patient-view", "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea", "context": context}
    service = next(s for s in services.all if s.id == SERVICE)
    inputs = to_fusion_input(record, engine.spec)
    targets = [t for t in service.targets if t in engine.spec.target_names()]
    assessment = engine.assess(inputs, timeout=60.0, targets=targets)
    request = parse_hook_request(json.dumps(call).encode(), as_of)
    return Case(service, request, record, assessment, profile="research_imaging", used=dict(inputs.used))


@contextmanager
def standing(state: Path) -> Iterator[tuple[str, EvidenceLinks, Case]]:
    settings = Settings(host="127.0.0.1", port=0, profile="research_imaging", jwt="off", state_dir=state, outbox_mb=1)
    loaded = load_services(settings.manifests / "services", settings.profile, model=MODEL)
    services = Services([s for s in loaded.all if s.id == SERVICE], settings.profile)
    engines = load_engines(services, settings)
    with listen(settings) as server:
        app = create_app(server.settings, services=services, engines=engines, clients=Clients(), clock=lambda: AS_OF)
        threading.Thread(target=server.run, args=(app,), daemon=True).start()
        yield server.url, app.extensions["ordersight"].evidence, case_of(services, engines[MODEL], AS_OF)


def opened(browser: Browser, link: str) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page, sizes = context.new_page(), dict[str, int]()
    page.on("requestfinished", lambda r: sizes.update({r.url: r.sizes()["responseBodySize"]}))
    page.goto(link)
    page.wait_for_selector("#viewer[data-ready]", timeout=60_000)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    drawn = page.evaluate("performance.now()")
    page.wait_for_load_state("networkidle")
    films = sum(size for url, size in sizes.items() if "/films/" in url)
    context.close()
    whole = sum(sizes.values())
    return {"first_ms": paint, "films_ms": drawn, "kB_without_films": (whole - films) / 1000, "kB": whole / 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opens", type=int, default=10)
    parser.add_argument("--out", type=Path, help="where to write the results, in place of benchmarks/results")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with (
        tempfile.TemporaryDirectory() as state,
        standing(Path(state)) as (base, links, case),
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        (card,) = load_advice(case.service.advice)(case)
        seen = []
        for _ in range(given.opens):
            began = time.perf_counter()
            (linked,) = links.attach(case, [card], "benchmark")
            url = next(link.url for link in linked.links if link.label == "Evidence")
            id_, _, key = url.rpartition("/")[2].partition("#")
            links.wait(known_as(id_), 60.0)
            kept_ms = 1000 * (time.perf_counter() - began)
            seen.append({"kept_ms": kept_ms, **opened(browser, f"{base}/evidence/{id_}#{key}")})
        browser.close()
    report = {
        name: {f"p{q}": round(quantile([one[name] for one in seen], q / 100), 1) for q in (50, 95)} for name in seen[0]
    }
    Console().print_json(json.dumps(report))
    found = {"opens": len(seen), "pixels": PIXELS, **report}
    path = save("evidence", found, ("flask", "jinja2", "playwright"), given.out)
    Console().print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
