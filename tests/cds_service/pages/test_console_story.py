"""A clinician at the demo EHR and an admin at the console, each in a browser: what one does the other sees."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import torch
from browsing import AXE, WIDTHS, Watched, watched
from console_house import ADMINS
from evidence_house import START, Evidence, evidence_house
from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).parents[1] / "state"))

from state_cases import answer, card, until

from cds_service.pages.console_accounts import Accounts
from cds_service.settings import Settings
from cds_service.state.records import FeedbackItem, Reason
from models.checkpoint import load_checkpoint, save_checkpoint
from models.registry import Registry
from models.rollout import ServedModels
from models.serving import Engine

SHIPPED = Settings().models / "chest-generated"
NEW_PAGES = ("/admin/running", "/admin/onboarding", "/admin/onboarding/sheet/epic", "/admin/models")
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Evidence]:
    with _ward(tmp_path) as house:
        yield house


def _ward(folder: Path, **settings: object) -> AbstractContextManager[Evidence]:
    accounts = Accounts(folder / "state")
    for name, (role, password) in ADMINS.items():
        accounts.add(name, role, password, datetime(2026, 3, 1, tzinfo=UTC))
    accounts.close()
    return evidence_house(folder, **settings)


def log_in(page: Page, base: str, name: str = "ada") -> None:
    page.goto(f"{base}/admin/login")
    page.fill("#name", name)
    page.fill("#password", ADMINS[name][1])
    page.keyboard.press("Enter")
    page.wait_for_selector("#all")


def order(page: Page, base: str) -> None:
    """A contrast CT for a patient with an eGFR of 26."""
    page.goto(f"{base}/demo/patients/demo-alder")
    page.click("#suggested button")


def clean(seen: Watched, base: str) -> None:
    assert seen.complaints == []
    assert [url for url in seen.asked if not url.startswith((base, "data:", "blob:"))] == []


def test_what_a_clinician_accepts_and_overrides_stands_in_the_console(ward: Evidence, browser: Browser) -> None:
    with watched(browser) as seen:
        page = seen.page
        page.clock.set_fixed_time(START)
        order(page, ward.base)
        page.wait_for_selector("#order-answers .card")
        page.click("#order-answers .suggestions button >> nth=0")
        page.wait_for_selector("#drafts >> text=changed by suggestion")
        rows = lambda: list(ward.app.extensions["ordersight"].state.export_feedback())  # noqa: E731
        until(lambda: [r["outcome"] for r in rows()] == ["accepted"])
        page.goto(f"{ward.base}/demo/patients/demo-juniper")
        page.wait_for_selector("#patient-view .card")
        page.click("#patient-view .card >> nth=0 >> details.override summary")
        page.click("#patient-view .card >> nth=0 >> details.override button")
        until(lambda: sorted(r["outcome"] for r in rows()) == ["accepted", "overridden"])
        log_in(page, ward.base)
        page.goto(f"{ward.base}/admin/feedback")
        cells = [r.inner_text().split("\t") for r in page.query_selector_all("[aria-label='Table by rule'] tbody tr")]
        assert sorted((c[4].split()[0], c[5]) for c in cells if c[4] != "0" or c[5] != "0")
        assert sum(int(c[4].split()[0]) for c in cells) >= 1
        assert sum(int(c[5]) for c in cells) >= 1
        page.goto(f"{ward.base}/admin/running")
        assert "anonymous" in page.inner_text("[aria-label='Table of: Evidence per EHR and key']")
        clean(seen, ward.base)


def test_a_service_in_shadow_shows_nothing_at_the_bedside_and_its_card_in_the_report(
    ward: Evidence, browser: Browser
) -> None:
    with watched(browser) as seen:
        page = seen.page
        page.clock.set_fixed_time(START)
        log_in(page, ward.base)
        page.goto(f"{ward.base}/admin/services/imaging-safety")
        page.locator("form[action$='/switch'] select").first.select_option("shadow")
        page.locator("form[action$='/switch'] input[name=why]").first.fill("silent trial")
        page.keyboard.press("Enter")
        page.wait_for_selector("td:has-text('silent trial')")
        with page.expect_response(lambda r: r.url.endswith("/cds-services/imaging-safety")) as called:
            order(page, ward.base)
        assert called.value.json() == {"cards": []}
        page.goto(f"{ward.base}/admin/running")
        assert "imaging-safety" in page.inner_text("[aria-label='Table of: Shadow mode']")
        # A switch stands in the audit by the machine's own clock, which is ahead of this house's.
        ward.clock.now = datetime.now(UTC)
        log_in(page, ward.base)
        page.goto(f"{ward.base}/admin/running")
        assert "imaging-safety set to shadow: silent trial" in page.inner_text("[aria-label='Table of: Incident log']")
        clean(seen, ward.base)


def test_a_model_is_activated_and_rolled_back_from_the_page_without_a_restart(tmp_path: Path, browser: Browser) -> None:
    models = tmp_path / "models"
    shutil.copytree(SHIPPED, models / SHIPPED.name)
    stored = load_checkpoint(SHIPPED)
    with torch.no_grad():
        stored.model.bias.add_(0.5)
    card_two = msgspec.structs.replace(stored.card, version="2-trial")
    save_checkpoint(tmp_path / "incoming", stored.model, card_two, stored.gate)
    added = Registry(models).add(tmp_path / "incoming")
    served = ServedModels(Registry(models), {SHIPPED.name: Engine.load(models / SHIPPED.name)})
    shipped = served[SHIPPED.name].digest
    with _ward(tmp_path, models=models) as house, watched(browser) as seen:
        state, page = house.app.extensions["ordersight"].state, seen.page
        with served.following(state.active_models):
            log_in(page, house.base, "vic")
            page.goto(f"{house.base}/admin/models")
            assert page.query_selector("form[action$='/models/activate']") is None
            page.click("text=Log out")
            log_in(page, house.base)
            for why, digest in (("trial", added.digest), ("worse at the bedside", shipped)):
                page.goto(f"{house.base}/admin/models")
                page.fill("form[action$='/models/activate'] input[name=why]", why)
                began = time.monotonic()
                page.click("form[action$='/models/activate'] button")
                page.wait_for_selector(f"[aria-label=Activations] >> text={why}")
                until(lambda digest=digest: served[SHIPPED.name].digest == digest, 10)  # type: ignore[misc]
                assert time.monotonic() - began < 10
            words = [(w.digest, w.who, w.why) for w in state.model_history()]
            assert words == [(added.digest, "ada", "trial"), (shipped, "ada", "worse at the bedside")]
            clean(seen, house.base)


def test_hostile_text_stays_text_on_every_page_of_the_console(ward: Evidence, browser: Browser) -> None:
    state = ward.app.extensions["ordersight"].state
    details = {"prefetch": {HOSTILE: HOSTILE}, "role": HOSTILE, "unmapped": [HOSTILE]}
    kept = card("h", rules=(HOSTILE,))
    state.record_answer(
        answer(kept, at=START, tenant=HOSTILE[:60], service=HOSTILE, details=details, ms={HOSTILE: 1}), timeout=20
    )
    said = FeedbackItem(card="h", outcome="overridden", outcome_at=START, reasons=(Reason(HOSTILE),))
    state.record_feedback(HOSTILE[:60], [said])
    state.switch("rule", "IS-01", "shadow", who=HOSTILE, why=HOSTILE)
    state.activate_model(HOSTILE, HOSTILE, who=HOSTILE, why=HOSTILE)
    with watched(browser) as seen:
        log_in(seen.page, ward.base)
        for path in ("/admin", "/admin/services/imaging-safety", "/admin/feedback", *NEW_PAGES):
            seen.page.goto(ward.base + path)
            assert seen.page.query_selector("main img, main script") is None, path
            assert seen.page.title().endswith("Ordersight"), path
        clean(seen, ward.base)


def test_the_new_pages_bar_nobody_and_fit_every_width(ward: Evidence, browser: Browser) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make node-packages")
    ward.fire("demo-alder", "order-sign", "imaging-safety")
    with watched(browser, bypass_csp=True) as seen:
        log_in(seen.page, ward.base)
        for path in NEW_PAGES:
            seen.page.goto(ward.base + path)
            seen.page.add_script_tag(path=str(AXE))
            for width in WIDTHS:
                seen.page.set_viewport_size({"width": width, "height": 900})
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
            report = seen.page.evaluate("axe.run()")
            bad = [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in report["violations"]]
            assert bad == [], f"{path} " + json.dumps(bad, indent=1)
        assert seen.complaints == []
