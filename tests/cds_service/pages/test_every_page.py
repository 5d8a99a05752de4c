"""Every page there is: it bars nobody, fits every width with no table to push sideways, and hostile text stays text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from browsing import AXE, WIDTHS, Watched, watched
from callers import key_server
from console_house import HOUR
from every_page import log_in, pages_of, shown_in_turn, ward
from evidence_house import START, Evidence, advised
from playwright.sync_api import Browser
from read_films import read_case

sys.path.insert(0, str(Path(__file__).parents[1] / "state"))

from state_cases import answer, card

from cds_service.pages.collect import collect
from cds_service.pages.films import encode
from cds_service.pages.snapshot import Snapshot
from cds_service.state.records import FeedbackItem, Reason
from cds_service.trust.clients import Client, FhirServer

HOSTILE = '"><img src=x onerror="document.title=1"><script>document.title=2</script>'
OURS = frozenset({"url", "kind", "role", "mark", "indicator", "paths", "rested_on"})
"""Fields of a snapshot that hold a word of ours by which the page chooses what to show, and addresses we made."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Evidence]:
    with ward(tmp_path) as made:
        yield made


def lived_in(house: Evidence, said: str, tenant: str) -> None:
    """A few calls, cards, replies, switches and models, with these words wherever somebody else's words are kept."""
    state = house.app.extensions["ordersight"].state
    details = {"prefetch": {said: said, "labs": "no-access"}, "role": said, "unmapped": [said]}
    kept = card("h", rules=(said,)), card("s", rules=(said,), shadow=True)
    made = answer(*kept, at=START - HOUR, tenant=tenant, service=said, details=details, ms={said: 1, "evidence": 20})
    state.record_answer(made, timeout=30)
    reply = FeedbackItem(card="h", outcome="overridden", outcome_at=START, reasons=(Reason(said),))
    state.record_feedback(tenant, [reply])
    state.switch("rule", "DT-01", "shadow", who=said, why=said)
    state.switch("service", "deterioration", who=said, why=said, thresholds={"deterioration_24h.info": 0.4})
    state.activate_model(said, said, who=said, why=said)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_bars_anybody_and_each_fits_its_window(house: Evidence, browser: Browser, scheme: Any) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make node-packages")
    lived_in(house, "a word of some length, " * 9, "north")
    # Colours are the scheme's and what stands where is the width's: each pair of them needs no turn of its own.
    judged = WIDTHS[-1] if scheme == "light" else WIDTHS[0]
    with watched(browser, color_scheme=scheme, bypass_csp=True) as seen:
        for where in shown_in_turn(house, seen.page):
            seen.page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")
            seen.page.add_script_tag(path=str(AXE))
            for width in WIDTHS:
                seen.page.set_viewport_size({"width": width, "height": 900})
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, (where, width)
                if width < 400:
                    assert pushed(seen) == [], where
                if width == judged:
                    assert barriers(seen) == [], f"{where} {width}"
        assert seen.complaints == []


def pushed(seen: Watched) -> list[str]:
    """Name of each region that shows less than it holds, and has to be pushed sideways."""
    found = seen.page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"
    )
    assert isinstance(found, list)
    return found


def barriers(seen: Watched) -> list[str]:
    report = seen.page.evaluate(
        "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
    )
    return [json.dumps([v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]]) for v in report["violations"]]


def test_hostile_text_stays_text_on_every_page_that_shows_somebody_elses_words(
    house: Evidence, browser: Browser
) -> None:
    lived_in(house, HOSTILE, HOSTILE[:60])
    told = {"fhirVersion": HOSTILE, "software": {"name": HOSTILE}, "issuer": HOSTILE}
    clients = house.app.extensions["ordersight"].clients
    with key_server(told) as (url, _), watched(browser) as seen:
        hostile = Client(HOSTILE, (FhirServer(url.rsplit("/", 1)[0]),), issuer=HOSTILE, tenant=HOSTILE)
        clients._known = (hostile, *clients.all)
        shown = set()
        for where in shown_in_turn(house, seen.page):
            assert seen.page.query_selector("main img[src=x], main script, header script") is None, where
            assert not seen.page.title().isdigit(), where
            if "<img src=x" in seen.page.inner_text("main"):
                shown.add(where.removeprefix(house.base))
    service = "/admin/services/deterioration"
    assert {"/admin", service, "/admin/feedback", "/admin/running", "/admin/models", "/admin/onboarding"} <= shown
    assert {"/admin/audit, searched", "/admin/onboarding, checked", "/admin/onboarding, a token tried"} <= shown
    assert {url for url in seen.asked if not url.startswith((house.base, "data:", "blob:"))} == set()


def test_hostile_text_in_every_string_of_a_snapshot_stays_text_on_the_evidence_page(
    house: Evidence, seen: Watched
) -> None:
    """The film report, the model, the rule and the facts, whoever wrote them."""
    case = read_case()
    pictures = [(image.sop_uid, encode(image.pixels)) for image in case.record.images]
    plain = collect(case, advised(case), None, pictures)
    kept = msgspec.to_builtins(plain, builtin_types=(datetime, date))
    hostile = msgspec.convert(_poisoned(kept), Snapshot)
    films = [picture.data for _, picture in pictures]
    counted = [_elements(seen, house.keep(snapshot, films)) for snapshot in (plain, hostile)]
    assert counted[0] == counted[1]
    assert "<script>" in seen.page.inner_text("#film-report")
    assert seen.complaints == []


def _poisoned(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _poisoned(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_poisoned(v, key) for v in value]
    return f"{value} {HOSTILE}" if value and isinstance(value, str) and key not in OURS else value


def _elements(seen: Watched, link: str) -> dict[str, int]:
    page = seen.open(link)
    page.wait_for_selector("#viewer[data-ready]")
    counted = page.evaluate(
        "[...document.querySelectorAll('*')].reduce((n, e) => ({...n, [e.tagName]: (n[e.tagName] || 0) + 1}), {})"
    )
    assert isinstance(counted, dict)
    return counted


def test_the_pages_in_these_tests_are_those_of_the_service(house: Evidence, seen: Watched) -> None:
    log_in(seen.page, house.base)
    found = {url.removeprefix(house.base) for url in pages_of(house, seen.page)}
    assert {"/admin/running", "/admin/onboarding", "/admin/onboarding/sheet/epic", "/admin/models"} <= found
    assert {"/admin/source-attributes/deterioration", "/admin/audit", "/demo/", "/demo/patients/demo-alder"} <= found
    assert not any(path.endswith((".json", ".csv")) for path in found)
