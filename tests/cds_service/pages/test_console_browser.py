"""The console in a browser: keyboard alone, three widths, light and dark, and its kill-switch works."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browsing import AXE, WIDTHS, watched
from console_house import ADMINS, ConsoleHouse, console_house, reply, shown
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from playwright.sync_api import Browser, Page

PAGES = (
    "/admin",
    "/admin/services/deterioration",
    "/admin/feedback",
    "/admin/models",
    "/admin/source-attributes/deterioration",
    "/admin/audit",
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ConsoleHouse]:
    with console_house(tmp_path) as made:
        yield made


def log_in(page: Page, house: ConsoleHouse, name: str = "ada") -> None:
    page.goto(f"{house.base}/admin")
    page.keyboard.press("Tab")
    page.locator("#name").focus()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(ADMINS[name][1])
    page.keyboard.press("Enter")
    page.wait_for_selector("#all")


def cards(house: ConsoleHouse) -> list[Any]:
    body = contrast_chart(LOW, STEADY, METFORMIN).body(CONTRAST)
    headers = {"Content-Type": "application/json"}
    answer = requests.post(f"{house.base}/cds-services/{CONTRAST}", body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["cards"]
    return found


def test_the_kill_switch_works_from_the_keyboard_and_within_a_second(house: ConsoleHouse, browser: Browser) -> None:
    assert len(cards(house)) == 1
    with watched(browser) as seen:
        log_in(seen.page, house)
        seen.page.goto(f"{house.base}/admin/services/{CONTRAST}")
        seen.page.locator("form[action$='/switch'] select").first.focus()
        seen.page.keyboard.type("off")
        seen.page.keyboard.press("Tab")
        seen.page.keyboard.type("drill")
        clicked = time.monotonic()
        seen.page.keyboard.press("Enter")
        while cards(house):
            assert time.monotonic() - clicked < 2
        assert time.monotonic() - clicked < 1
        seen.page.wait_for_selector(f"td:has-text('{CONTRAST}')")
        assert "drill" in seen.page.inner_text("main")
        assert seen.complaints == []
        assert all(url.startswith(house.base) for url in seen.asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_bars_anybody_or_grows_wider_than_its_window(
    house: ConsoleHouse, browser: Browser, scheme: Any
) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make node-packages")
    shown(house, 21)
    reply(house, "u-0", "overridden", "benefit-outweighs-risk")
    house.state.switch("rule", "DT-01", "shadow", who="ada", why="silent mode")
    house.state.switch("service", "pe-imaging", "off", who="ada", why="a reason " * 30)
    with watched(browser, color_scheme=scheme, bypass_csp=True) as seen:
        log_in(seen.page, house)
        for path in PAGES:
            seen.page.goto(house.base + path)
            if path == "/admin/audit":
                seen.page.fill("[name=why]", "complaint 12")
                seen.page.keyboard.press("Enter")
                seen.page.wait_for_selector("#found")
            seen.page.add_script_tag(path=str(AXE))
            for width in WIDTHS:
                seen.page.set_viewport_size({"width": width, "height": 900})
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
                report = seen.page.evaluate(
                    "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
                )
                bad = [(v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]) for v in report["violations"]]
                assert bad == [], f"{path} {width} " + json.dumps(bad, indent=1)
        assert seen.complaints == []


def test_the_login_page_and_a_refusal_bar_nobody(house: ConsoleHouse, browser: Browser) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make node-packages")
    with watched(browser, bypass_csp=True) as seen:
        seen.page.goto(f"{house.base}/admin")
        seen.page.fill("#name", "ada")
        seen.page.fill("#password", "wrong")
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector("[role=alert]")
        seen.page.add_script_tag(path=str(AXE))
        assert seen.page.evaluate("axe.run().then(r => r.violations.map(v => v.id))") == []
