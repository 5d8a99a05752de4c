"""The evidence page in a frame of an EHR's own page, in a real browser: whose page may show it and whose may not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import Watched
from launch_house import Launching, launch_house
from playwright.sync_api import FrameLocator

DECIDING = "2.6 mg/dL"


@contextmanager
def chart_pages() -> Iterator[str]:
    """An EHR's page that shows the address after `?show=` in a frame; its origin, of another site than ours."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = parse_qs(urlsplit(self.path).query).get("show", ["about:blank"])[0].replace("&", "&amp;")
            page = f'<!doctype html><link rel="icon" href="data:,"><h1>Chart</h1><iframe src="{shown}"></iframe>'
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Ward:
    """Charts of north and of south are registered, those of nobody are not."""

    house: Launching
    north: str
    south: str
    nobody: str


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with ExitStack() as stack:
        north, south, nobody = (stack.enter_context(chart_pages()) for _ in range(3))
        framed_by = {"north": (north,), "south": (south,)}
        house = stack.enter_context(launch_house(tmp_path, host="localhost", framed_by=framed_by))
        yield Ward(house, north, south, nobody)


def opened(seen: Watched, chart: str, address: str) -> FrameLocator:
    seen.page.goto(f"{chart}/?show={address.replace('&', '%26')}")
    return seen.page.frame_locator("iframe")


def test_an_ehr_that_is_registered_launches_the_evidence_into_its_own_page(ward: Ward, seen: Watched) -> None:
    address = ward.house.opens(ward.house.ehr, ward.house.link()["appContext"])
    for _ in range(2):  # a chart that is opened again is of the browser that opened it first
        frame = opened(seen, ward.north, address)
        frame.locator(".lead h1").wait_for()
        assert DECIDING in frame.locator("main").inner_text()
    assert seen.page.locator("h1").inner_text() == "Chart"
    assert seen.complaints == []
    cookies = {cookie["name"]: cookie for cookie in seen.page.context.cookies()}
    assert set(cookies) == {"evidence"}  # the login's own has gone
    assert (cookies["evidence"]["sameSite"], cookies["evidence"]["secure"]) == ("None", True)


@pytest.mark.parametrize("whose", ["nobody", "south"])
def test_a_page_that_the_tenants_ehr_did_not_register_shows_nothing_and_spends_nothing(
    ward: Ward, seen: Watched, whose: str
) -> None:
    address = ward.house.opens(ward.house.ehr, ward.house.link()["appContext"])
    with seen.page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        opened(seen, getattr(ward, whose), address)
    assert "/authorize" not in ward.house.ehr.asked, "the login began in a frame that may not show its end"
    frame = opened(seen, ward.north, address)
    frame.locator(".lead h1").wait_for()
    shown = next(f.url for f in seen.page.frames if "/evidence/" in f.url)
    with seen.page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        opened(seen, getattr(ward, whose), shown)
    assert all(DECIDING not in frame.content() for frame in seen.page.frames)


def test_why_nothing_is_shown_is_told_in_the_frame_of_any_registered_ehr_and_of_no_other(
    ward: Ward, seen: Watched
) -> None:
    """Before it is known whose evidence it is, the page holds nobody's."""
    address = f"{ward.house.base}/launch/callback?state=x"
    for chart in (ward.north, ward.south):
        frame = opened(seen, chart, address)
        frame.locator("h1").wait_for()
        assert frame.locator("h1").inner_text() == "This login is over"
    with seen.page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        opened(seen, ward.nobody, address)
