"""A browser's page under watch: what it complained of, what it asked for, how much came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evidence_house import Evidence, link_of
from playwright.sync_api import Browser, Page

AXE = Path(__file__).resolve().parents[2] / "servers" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (390, 1024, 1440)


class Watched:
    """A page with what its browser complained of and every address it asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.bytes: dict[str, int] = {}
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on("request", lambda r: self.asked.append(r.url))
        page.on("requestfinished", lambda r: self.bytes.update({r.url: r.sizes()["responseBodySize"]}))

    def open(self, link: str) -> Page:
        self.page.goto(link)
        self.page.wait_for_selector(".lead h1")
        return self.page


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Watched]:
    context = browser.new_context(**options)
    try:
        yield Watched(context.new_page())
    finally:
        context.close()


def film_link(house: Evidence) -> str:
    """A film card of the demo's patient with an effusion now and none before."""
    return link_of(house.fire("demo-juniper", "patient-view", "cxr-insight"))


def ready(page: Page) -> None:
    page.wait_for_selector("#viewer[data-ready]", timeout=20_000)
