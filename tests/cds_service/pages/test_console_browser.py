"""The console in a browser: from the keyboard alone its kill-switch works, and its login bars nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browsing import AXE, watched
from console_house import ADMINS, ConsoleHouse, console_house
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from playwright.sync_api import Browser, Page


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
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector(f"td:has-text('{CONTRAST}')")
        # Whatever is asked from a second after it was said, however slow the machine.
        seen.page.wait_for_timeout(1000)
        assert cards(house) == []
        assert "drill" in seen.page.inner_text("main")
        assert seen.complaints == []
        assert all(url.startswith(house.base) for url in seen.asked)


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
