"""A clinician at the demo EHR and an admin at the console, each in a browser: what one does the other sees."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import torch
from browsing import Watched, watched
from every_page import log_in
from every_page import ward as demo_ward
from evidence_house import START, Evidence
from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).parents[1] / "state"))

from state_cases import until

from cds_service.settings import Settings
from models.checkpoint import load_checkpoint, save_checkpoint
from models.registry import Registry
from models.rollout import ServedModels
from models.serving import Engine

SHIPPED = Settings().models / "chest-generated"


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Evidence]:
    with demo_ward(tmp_path) as house:
        yield house


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
    with demo_ward(tmp_path, models=models) as house, watched(browser) as seen:
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
                page.click("form[action$='/models/activate'] button")
                page.wait_for_selector(f"[aria-label=Activations] >> text={why}")
                until(lambda digest=digest: served[SHIPPED.name].digest == digest, 30)  # type: ignore[misc]
            words = [(w.digest, w.who, w.why) for w in state.model_history()]
            assert words == [(added.digest, "ada", "trial"), (shipped, "ada", "worse at the bedside")]
            clean(seen, house.base)
