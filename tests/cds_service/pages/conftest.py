"""A service on a socket whose clock can be put forward, and a browser to look at its pages."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parent))

from browsing import Watched, watched
from evidence_house import Evidence, evidence_house

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Evidence]:
    with evidence_house(tmp_path) as made:
        yield made


@pytest.fixture
def house_with(tmp_path: Path) -> Iterator[Callable[..., Evidence]]:
    """A house with other settings or another model."""
    open_: list[object] = []

    def make(**changes: object) -> Evidence:
        context = evidence_house(tmp_path, **changes)
        open_.append(context)
        return context.__enter__()

    yield make
    for context in reversed(open_):
        context.__exit__(None, None, None)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def seen(browser: Browser) -> Iterator[Watched]:
    with watched(browser, viewport={"width": 1440, "height": 900}) as found:
        yield found
