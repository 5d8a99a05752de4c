"""Every page the service has, from its own map of addresses: one that is added later is in the tests from then on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import requests
from browsing import film_link
from console_house import ADMINS
from evidence_house import Evidence, evidence_house
from playwright.sync_api import Page

from cds_service.pages.console_accounts import Accounts

FILLED = {"service_id": "deterioration", "ehr": "epic", "patient_id": "demo-alder"}
"""A value for each part of an address that changes."""
NO_PAGE = frozenset({"filename", "table", "type_", "path", "study", "link_id"})
"""Parts of addresses that lead to files, films and resources; the evidence page is opened by its own link."""


@contextmanager
def ward(folder: Path, **settings: object) -> Iterator[Evidence]:
    """The service with its demo EHR and the console's two accounts."""
    accounts = Accounts(folder / "state")
    for name, (role, password) in ADMINS.items():
        accounts.add(name, role, password, datetime(2026, 3, 1, tzinfo=UTC))
    accounts.close()
    with evidence_house(folder, **settings) as house:  # type: ignore[arg-type]
        yield house


def log_in(page: Page, base: str, name: str = "ada") -> None:
    page.goto(f"{base}/admin/login")
    page.fill("#name", name)
    page.fill("#password", ADMINS[name][1])
    page.keyboard.press("Enter")
    page.wait_for_selector("#all")


def pages_of(house: Evidence, page: Page) -> list[str]:
    """Address of everything that answers HTML to the browser that is logged in, refusals left out."""
    session = requests.Session()
    for cookie in page.context.cookies():
        session.cookies.set(cookie["name"], cookie["value"])
    found = []
    for rule in house.app.url_map.iter_rules():
        if "GET" not in (rule.methods or ()):
            continue
        if rule.arguments & NO_PAGE:
            continue
        unknown = rule.arguments - FILLED.keys()
        assert not unknown, f"{rule.rule}: say in FILLED what stands for {unknown}, or in NO_PAGE that it is no page"
        path = rule.rule
        for name in rule.arguments:
            path = path.replace(f"<{name}>", FILLED[name])
        answer = session.get(house.base + path, timeout=30)
        if answer.ok and answer.headers["Content-Type"].startswith("text/html"):
            found.append(house.base + path)
    return found


def shown_in_turn(house: Evidence, page: Page) -> Iterator[str]:
    """Lead the browser to every page, and to what their forms bring; the address each time."""
    log_in(page, house.base)
    for url in pages_of(house, page):
        page.goto(url)
        page.wait_for_selector(".busy", state="detached")
        yield url
        if url.endswith("/admin/audit"):
            page.fill("[name=why]", "complaint 12")
            page.press("[name=why]", "Enter")
            page.wait_for_selector("#found")
            yield f"{url}, searched"
        if url.endswith("/admin/onboarding"):
            page.fill("form[action$='/check'] [name=patient]", "demo-alder")
            page.fill("form[action$='/check'] [name=why]", "go-live")
            page.press("form[action$='/check'] [name=why]", "Enter")
            page.wait_for_selector("#checked")
            yield f"{url}, checked"
            page.click("form[action$='/token'] button")
            page.wait_for_selector("#verdict")
            yield f"{url}, a token tried"
    page.goto(film_link(house))
    page.wait_for_selector("#viewer[data-ready]")
    yield f"{house.base}/evidence"
