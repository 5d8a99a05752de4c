"""Pictures of every page, from the running demo at one fixed moment: `python -P tests/pictures.py docs/images`.

Look at each before it is committed: nothing may overlap, be cut off or need explaining.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from cds_service.cli.cards import AS_OF, standing_house
from cds_service.logs import configure_logging
from cds_service.pages.console_accounts import Accounts

WIDE, PANE, PHONE = (1440, 1160), (1024, 1160), (390, 844)
TALLEST = 1700
"""Pixels of a page that a picture shows at most."""
PASSWORD = "only for the pictures"
WAIT_MS = 30_000
CONSOLE = {
    "": "",
    "-service": "/services/imaging-safety",
    "-feedback": "/feedback",
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
            studio.keep(f"worklist-{size[0]}", page)
    for size in (WIDE, PANE, PHONE):
        with studio.page(size) as page:
            chart(page, studio.base, "demo-juniper")
            page.wait_for_selector("#patient-view .card >> nth=0")
            studio.keep(f"chart-{size[0]}", page, whole=size == PHONE)
            with page.expect_popup() as opened:
                page.click("#patient-view .card .links a >> nth=0")
            evidence = opened.value
            evidence.wait_for_selector("#viewer[data-ready]")
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
    for size in (WIDE, PANE, PHONE):
        with studio.page(size) as page:
            console(studio, page, size[0])


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


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    configure_logging(level="ERROR")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory(prefix="ordersight-pictures-") as state:
        accounts = Accounts(Path(state))
        accounts.add("admin", "change", PASSWORD, AS_OF)
        accounts.close()
        with standing_house(Path(state)) as (base, _), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            take(Studio(base, browser, folder))
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
