"""Pictures of every page: `python -P tests/pictures.py docs/images`.

The demo at one fixed moment, and the console after a day of its patients, which is today.

Look at each before it is committed: nothing may overlap, be cut off or need explaining.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from joserfc import jwt
from joserfc.jwk import ECKey
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from cds_service.app import create_app
from cds_service.cli.cards import AS_OF, standing_house
from cds_service.cli.demo import MODEL
from cds_service.cli.serve import load_engines
from cds_service.demo.ehr import demo_blueprint
from cds_service.demo.fire import USER, fill
from cds_service.logs import configure_logging
from cds_service.manifest import load_services
from cds_service.pages.console_accounts import Accounts
from cds_service.server import listen
from cds_service.settings import Settings
from cds_service.state.store import Store
from cds_service.trust.clients import Client, Clients, FhirServer
from fhir_mappers.cohort.resources import encounter_id
from fhir_mappers.cohort.scenarios import demo_patients

WIDE, PANE, PHONE = (1440, 1160), (1024, 1160), (390, 844)
TALLEST = 1700
"""Pixels of a page that a picture shows at most."""
PASSWORD = "only for the pictures"
WAIT_MS = 30_000
CONSOLE = {
    "": "",
    "-service": "/services/imaging-safety",
    "-feedback": "/feedback",
    "-quality": "/quality",
    "-running": "/running",
    "-models": "/models",
    "-onboarding": "/onboarding",
    "-sheet": "/onboarding/sheet/epic",
    "-sources": "/source-attributes/deterioration",
    "-audit": "/audit",
}
"""Name of a picture -> page of the console."""


@dataclass(frozen=True)
class Studio:
    base: str
    browser: Browser
    folder: Path

    @contextmanager
    def page(self, size: tuple[int, int]) -> Iterator[Page]:
        width, height = size
        context = self.browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
        try:
            page = context.new_page()
            page.set_default_timeout(WAIT_MS)
            # The browser's today is the charts' today: prefetch templates ask for days.
            page.clock.set_fixed_time(AS_OF)
            yield page
        finally:
            context.close()

    def keep(self, name: str, view: Page | Locator, *, whole: bool = False) -> None:
        """Write a picture, in at most 256 colours: that is a third of the size and the same to the eye."""
        raw = view.screenshot(full_page=True) if isinstance(view, Page) and whole else view.screenshot()
        image = Image.open(io.BytesIO(raw)).convert("RGB")
        image = image.crop((0, 0, image.width, min(image.height, TALLEST)))
        path = self.folder / f"{name}.png"
        image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}  {image.width} x {image.height}, {path.stat().st_size // 1024} kB")


def take(studio: Studio) -> None:
    for size in (WIDE, PANE, PHONE):
        with studio.page(size) as page:
            page.goto(f"{studio.base}/demo/")
            studio.keep(f"worklist-{size[0]}", page, whole=True)
    for size in (WIDE, PANE, PHONE):
        with studio.page(size) as page:
            chart(page, studio.base, "demo-juniper")
            page.wait_for_selector("#patient-view .card >> nth=0")
            studio.keep(f"chart-{size[0]}", page, whole=size == PHONE)
            with page.expect_popup() as opened:
                page.click("#patient-view .card .links a >> nth=0")
            evidence = opened.value
            evidence.wait_for_selector("#viewer[data-ready]")
            for shape in evidence.locator(".shows [data-kind=outline], .shows [data-kind=heat]").all():
                shape.click()
            studio.keep(f"evidence-{size[0]}", evidence, whole=True)
    with studio.page(WIDE) as page:
        order(page, studio.base)
        studio.keep("demo-card", page)
        page.click("#order-answers .suggestions button >> nth=0")
        page.wait_for_selector("#drafts >> text=changed by suggestion")
        page.wait_for_timeout(2000)
        studio.keep("accepted-1440", page)
        page.click("#sign:not(:disabled)")
        page.wait_for_selector("#signed >> text=signed")
    with studio.page(PHONE) as page:
        order(page, studio.base)
        page.locator("#orders-title").scroll_into_view_if_needed()
        studio.keep("order-390", page.locator("aside.orders"))


def console(studio: Studio, page: Page, width: int) -> None:
    page.goto(f"{studio.base}/admin/login")
    studio.keep(f"console-login-{width}", page)
    page.fill("[name=name]", "admin")
    page.fill("[name=password]", PASSWORD)
    page.press("[name=password]", "Enter")
    page.wait_for_url(lambda url: "login" not in url)
    for name, path in CONSOLE.items():
        page.goto(f"{studio.base}/admin{path}")
        if name == "-audit":
            page.fill("[name=why]", "A picture for the documentation")
            page.press("[name=why]", "Enter")
            page.wait_for_selector("#found")
        if name == "-onboarding":
            page.fill("form[action$='/check'] [name=patient]", "demo-alder")
            page.fill("form[action$='/check'] [name=why]", "A picture for the documentation")
            page.press("form[action$='/check'] [name=why]", "Enter")
            page.wait_for_selector("#checked")
        studio.keep(f"console{name}-{width}", page, whole=True)


def chart(page: Page, base: str, patient: str) -> None:
    page.goto(f"{base}/demo/patients/{patient}")


def order(page: Page, base: str) -> None:
    """A contrast CT for a patient with an eGFR of 26, and the card it brings."""
    chart(page, base, "demo-alder")
    page.click("#suggested button")
    page.wait_for_selector("#order-answers .card")


@contextmanager
def working_house(state: Path, now: datetime) -> Iterator[str]:
    """The service as a site runs it: an EHR that signs its calls, its own budgets, each card shown once. Its address.

    A day of the demo's patients has gone through it: every call with prefetch and again without, some cards accepted,
    some overridden.
    """
    settings = Settings(host="127.0.0.1", port=0, profile="research_imaging", state_dir=state, outbox_mb=1)
    services = load_services(settings.manifests / "services", settings.profile, model=MODEL)
    key = ECKey.generate_key("P-384")
    keys = state / "demo-ehr.json"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False) | {"kid": key.thumbprint()}]}))
    with listen(settings) as server:
        fhir = FhirServer(f"{server.url}/demo/fhir", (f"{server.url}/demo/dicomweb",))
        client = Client("demo-ehr", (fhir,), issuer="https://ehr.example.org", jwks_file=str(keys))
        app = create_app(
            server.settings,
            services=services,
            engines=load_engines(services, settings),
            clients=Clients([client]),
        )
        app.register_blueprint(demo_blueprint(now))
        threading.Thread(target=server.run, args=(app,), daemon=True).start()
        store: Store = app.extensions["ordersight"].state
        store.switch("rule", "TM-01", "shadow", who="admin", why="silent trial before go-live")
        asked = {"deterioration_24h.info": 0.4}
        store.switch("service", "deterioration", who="admin", why="asked by the ward leads", thresholds=asked)
        with requests.Session() as session:
            work_a_day(server.url, client, key, session, now)
        yield server.url


def work_a_day(base: str, client: Client, key: ECKey, session: requests.Session, now: datetime) -> None:
    def post(path: str, body: object) -> requests.Response:
        """As an EHR does, once more after a pause where the machine was busy."""
        for _ in range(20):
            at = round(time.time())
            claims = {
                "iss": client.issuer,
                "aud": f"{base}{path}",
                "iat": at,
                "exp": at + 300,
                "jti": str(uuid.uuid4()),
            }
            header = {"alg": "ES384", "typ": "JWT", "kid": key.thumbprint()}
            token = jwt.encode(header, claims, key, algorithms=["ES384"])
            answer = session.post(base + path, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60)
            if answer.status_code != requests.codes.unavailable:
                break
            time.sleep(2)
        return answer

    services = session.get(f"{base}/cds-services", timeout=60).json()["services"]
    seen: list[tuple[str, dict[str, Any]]] = []
    patients = demo_patients(now)
    for number, patient in enumerate(patients * 2):
        for occasion in patient.occasions:
            context: dict[str, Any] = {"userId": USER, "patientId": patient.id, "encounterId": encounter_id(patient)}
            drafts = {"resourceType": "Bundle", "entry": [{"resource": draft} for draft in occasion.drafts]}
            context |= {"draftOrders": drafts} if occasion.drafts else {}
            context |= {"selections": list(occasion.selections)} if occasion.hook == "order-select" else {}
            for service in services:
                if service["hook"] == occasion.hook:
                    fhir = client.fhir[0].base
                    body: dict[str, Any] = {
                        "hook": occasion.hook,
                        "hookInstance": str(uuid.uuid4()),
                        "fhirServer": fhir,
                    }
                    if number < len(patients):
                        filled = {key_: fill(template, context) for key_, template in service["prefetch"].items()}
                        sent = {name: session.get(f"{fhir}/{q}", timeout=60) for name, q in filled.items() if q}
                        body["prefetch"] = {name: got.json() for name, got in sent.items() if got.ok}
                    path = f"/cds-services/{service['id']}"
                    answer = post(path, body | {"context": context})
                    seen += [(path, card) for card in (answer.json()["cards"] if answer.ok else ())]
    at = now.isoformat()
    for number, (path, card) in enumerate({card["uuid"]: (path, card) for path, card in seen}.values()):
        said: dict[str, object] = {"card": card["uuid"], "outcomeTimestamp": at}
        if number % 4 == 0 and card.get("suggestions"):
            accepted = [{"id": card["suggestions"][0]["uuid"]}]
            post(f"{path}/feedback", {"feedback": [said | {"outcome": "accepted", "acceptedSuggestions": accepted}]})
        elif number % 4 == 1 and card.get("overrideReasons"):
            offered = card["overrideReasons"]
            wrong = [r for r in offered if r["code"] == "cds-not-applicable" and number % 8 == 1]
            reason = {"reason": {"code": (wrong or offered)[number % len(wrong or offered)]["code"]}}
            post(f"{path}/feedback", {"feedback": [said | {"outcome": "overridden", "overrideReason": reason}]})


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    configure_logging(level="ERROR")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory(prefix="ordersight-pictures-") as state, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with standing_house(Path(state) / "demo") as (base, _):
            take(Studio(base, browser, folder))
        working, now = Path(state) / "working", datetime.now(UTC)
        accounts = Accounts(working)
        accounts.add("admin", "change", PASSWORD, now)
        accounts.close()
        with working_house(working, now) as base:
            studio = Studio(base, browser, folder)
            for size in (WIDE, PANE, PHONE):
                with studio.page(size) as page:
                    console(studio, page, size[0])
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
