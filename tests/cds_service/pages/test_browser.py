"""The evidence page in a real browser: what a clinician sees and does, at three widths, light and dark."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from evidence_house import Evidence, advised, case_of, link_of, parts
from playwright.sync_api import Browser, Page
from vignettes import condition

from cds_service.markdown import plain_text
from cds_service.pages import links
from cds_service.pages.snapshot import Region
from fhir_mappers.record import Image, Source

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


@pytest.fixture
def seen(browser: Browser) -> Iterator[Watched]:
    with watched(browser, viewport={"width": 1440, "height": 900}) as found:
        yield found


def film_link(house: Evidence) -> str:
    """A film card of the demo's patient with an effusion now and none before."""
    return link_of(house.fire("demo-juniper", "patient-view", "cxr-insight"))


def ready(page: Page) -> None:
    page.wait_for_selector("#viewer[data-ready]", timeout=20_000)


# --------------------------------------------------------------------------------------------------------- opening


def test_a_click_on_the_card_opens_the_evidence_and_the_key_leaves_the_address(house: Evidence, seen: Watched) -> None:
    link = house.link(contrast_chart(LOW, STEADY, METFORMIN))
    page = seen.open(link)
    assert page.inner_text("h1") == house.cards[0]["summary"]
    assert page.url == parts(link)[0]
    assert all(parts(link)[1] not in url for url in seen.asked if "#" not in url)
    page.reload()
    assert page.inner_text("h1") == house.cards[0]["summary"]
    assert seen.complaints == []
    assert {urlsplit(url).netloc for url in seen.asked} == {urlsplit(house.base).netloc}


def test_another_browser_is_refused_and_the_first_may_come_back_from_the_refusal(
    house: Evidence, browser: Browser, seen: Watched
) -> None:
    link = house.link()
    seen.open(link)
    with watched(browser) as other:
        answer = other.page.goto(link)
        assert answer is not None
        assert answer.status == 410
        assert "opened already" in other.page.inner_text("h1")
        other.page.click("text=show it again")
        assert "opened already" in other.page.inner_text("h1")
    seen.page.goto("about:blank")
    seen.page.goto(link)
    seen.page.wait_for_selector(".lead h1")


def test_a_link_without_its_key_says_so(house: Evidence, seen: Watched) -> None:
    page = seen.page
    page.goto(parts(house.link())[0])
    page.wait_for_selector("#incomplete:not([hidden])")
    assert "only the card has it" in page.inner_text("#incomplete")
    page.goto(f"{parts(house.link())[0]}#tooshort")
    page.wait_for_selector("#incomplete:not([hidden])")


# ----------------------------------------------------------------------------------------------------------- plots


def test_the_plot_holds_the_values_of_the_record_at_their_height_and_marks_the_deciding_one(
    house: Evidence, seen: Watched
) -> None:
    link = house.link(contrast_chart(LOW, STEADY))
    page = seen.open(link)
    plot = page.locator('.plot[data-analyte="creatinine"]')
    spots = plot.locator(".spot").evaluate_all(
        """nodes => nodes.map(n => ({value: +n.dataset.value, y: +n.getAttribute('cy'),
                                    deciding: n.classList.contains('deciding')}))"""
    )
    assert [(s["value"], s["deciding"]) for s in spots] == [(2.5, False), (2.6, True)]
    ticks = plot.locator("text.value").evaluate_all(
        "nodes => nodes.map(n => [+n.textContent, n.getAttribute('y') - 4])"
    )
    (low, y_low), (high, y_high) = ticks[0], ticks[-1]
    for spot in spots:
        assert spot["y"] == pytest.approx(y_low + (spot["value"] - low) / (high - low) * (y_high - y_low), abs=0.2)
    assert plot.locator(".deciding-label").text_content() == "2.60"
    assert plot.locator(".band").count() == 1
    assert "mg/dL" in plot.locator("svg > title").text_content()
    plot.locator("summary").click()
    rows = plot.locator("tbody tr").all_inner_texts()
    assert rows[0].split("\t")[0] == "2026-03-10 06:10"
    assert "2.6 mg/dL deciding" in rows[0]


# ----------------------------------------------------------------------------------------------------------- films


def grey(page: Page, index: int = 0) -> int:
    """The grey level in the middle of a film as it is painted."""
    return int(
        page.locator("canvas")
        .nth(index)
        .evaluate("c => c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data[0]")
    )


def moved(page: Page, index: int) -> str:
    return str(page.locator("canvas").nth(index).evaluate("c => c.style.transform"))


def test_two_films_stand_side_by_side_and_answer_keys_sliders_and_drags(house: Evidence, seen: Watched) -> None:
    page = seen.open(film_link(house))
    ready(page)
    assert page.locator("canvas").count() == 2
    captions = page.locator(".film figcaption").all_inner_texts()
    assert "Newest film" in captions[0]
    assert "Film before" in captions[1]
    plain = grey(page)

    stage = page.locator(".stage").first
    stage.focus()
    page.keyboard.press("i")
    page.wait_for_function("document.getElementById('invert').getAttribute('aria-pressed') === 'true'")
    page.wait_for_timeout(100)
    assert grey(page) == 255 - plain
    page.keyboard.press("i")

    for _ in range(3):
        page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(100)
    assert "scale(1.95" in moved(page, 0)
    assert moved(page, 1) == moved(page, 0) != ""

    page.click("#together")
    page.keyboard.press("Tab")
    stage.focus()
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    assert moved(page, 1) != moved(page, 0)

    page.click("#reset")
    page.wait_for_timeout(100)
    page.locator("#level").fill("200")
    page.wait_for_timeout(100)
    assert grey(page) < plain  # a higher level makes everything darker
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] + 100, steps=4)
    page.mouse.up()
    page.wait_for_timeout(100)
    assert int(page.input_value("#window")) < 255
    assert seen.complaints == []


def test_regions_are_drawn_only_where_the_model_gave_one_and_can_be_taken_away(house: Evidence, seen: Watched) -> None:
    page = seen.open(film_link(house))
    ready(page)
    assert page.locator("#overlay").count() == 0
    assert "gives no region" in page.inner_text("#films")


def test_a_region_lies_over_the_film_where_the_model_put_it(
    house: Evidence, seen: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model here gives regions yet, so one is put into the snapshot before it is sealed."""
    collected = links.collect

    def with_region(*arguments: Any) -> Any:
        made = collected(*arguments)
        region = Region(title="Pleural effusion", x=0.25, y=0.5, width=0.25, height=0.25)
        films = tuple(msgspec.structs.replace(f, regions=(region,)) if not f.number else f for f in made.films)
        return msgspec.structs.replace(made, films=films)

    monkeypatch.setattr(links, "collect", with_region)
    page = seen.open(film_link(house))
    ready(page)
    film = page.locator(".stage").first.bounding_box()
    region = page.locator(".regions rect").bounding_box()
    assert film is not None
    assert region is not None
    assert region["x"] - film["x"] == pytest.approx(film["width"] * 0.25, abs=3)
    assert region["y"] - film["y"] == pytest.approx(film["height"] * 0.5, abs=3)
    assert region["width"] == pytest.approx(film["width"] * 0.25, abs=3)
    page.click("#overlay")
    assert page.locator(".regions").is_hidden()
    page.click("#overlay")
    assert page.locator(".regions").is_visible()


# ------------------------------------------------------------------------------------------- for everybody, on time


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["rule", "film"])
def test_nothing_bars_anyone_and_nothing_overflows_at_any_width(
    house: Evidence, browser: Browser, scheme: Any, kind: str
) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make node-packages")
    link = film_link(house) if kind == "film" else house.link(contrast_chart(LOW, STEADY, METFORMIN))
    with watched(browser, color_scheme=scheme, bypass_csp=True) as found:
        page = found.open(link)
        if kind == "film":
            ready(page)
        page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")
        page.add_script_tag(path=str(AXE))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(100)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            report = page.evaluate(
                "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
            )
            bad = [(v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]) for v in report["violations"]]
            assert bad == [], json.dumps(bad, indent=1)


def test_the_notices_bar_nobody_either(house: Evidence, browser: Browser) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make node-packages")
    address = parts(house.link())[0]
    with watched(browser, bypass_csp=True) as found:
        for url in (address, f"{address[:-22]}{'A' * 22}"):
            found.page.goto(url)
            found.page.add_script_tag(path=str(AXE))
            assert found.page.evaluate("axe.run().then(r => r.violations.map(v => v.id))") == []


def test_everything_can_be_reached_with_the_keyboard_alone(house: Evidence, seen: Watched) -> None:
    page = seen.open(film_link(house))
    ready(page)
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
        if page.evaluate("document.activeElement === document.body"):
            break
    assert {"window", "level", "zoom-in", "zoom-out", "invert", "together", "reset", "drag-pan"} <= reached
    assert any("stage" in name for name in reached)


def test_the_page_is_light_and_early_with_a_film_of_2000_pixels(house: Evidence, seen: Watched) -> None:
    """First contentful evidence within a second, under 500 kB without the film."""
    case = case_of(contrast_chart(LOW, STEADY, METFORMIN), CONTRAST)
    at = case.record.as_of
    pixels = np.clip(np.add.outer(np.linspace(0, 0.6, 2048), np.sin(np.linspace(0, 60, 2048)) / 4), 0, 1).astype(
        np.float32
    )
    films = tuple(Image(pixels, "PA", at, f"1.{n}", "1", Source("ImagingStudy/1")) for n in range(2))
    case = dataclasses.replace(case, record=dataclasses.replace(case.record, images=films))
    (card,) = house.app.extensions["ordersight"].evidence.attach(case, [advised(case)], "north")
    link = next(entry.url for entry in card.links if entry.label == "Evidence")
    page = seen.open(link)
    ready(page)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    film_bytes = sum(size for url, size in seen.bytes.items() if "/films/" in url)
    assert film_bytes > 50_000
    assert sum(seen.bytes.values()) - film_bytes < 500_000
    assert paint < 1000


def test_printing_leaves_the_tools_away(house: Evidence, seen: Watched) -> None:
    page = seen.open(film_link(house))
    ready(page)
    page.emulate_media(media="print")
    assert page.locator("#tools").is_hidden()
    assert page.locator(".lead h1").is_visible()
    assert page.locator("canvas").first.is_visible()


# ---------------------------------------------------------------------------------------------------- hostile text

PAYLOADS = (
    "<script>window.hurt=1</script>",
    '"><img src=x onerror="window.hurt=1">',
    "<svg/onload=window.hurt=1>",
    "{{7*7}}{% raw %}",
    "javascript:window.hurt=1",
    "</title></section></main><h1>Owned</h1>",
    "' onmouseover='window.hurt=1",
    "\u202edetrevni\u0007\ufeff\u2066",
    "&lt;b&gt; &#60;i&#62;",
    "<iframe srcdoc='<script>parent.hurt=1</script>'>",
    "](javascript:window.hurt=1) **bold** `code` | cell",
    "https://evil.example.org/track.png",
    "<style>*{display:none}</style>",
)


def poisoned(value: Any, payload: str, keep: frozenset[str]) -> Any:
    """Every free string of a resource with a payload in it; codes, ids, dates and units stay, or nothing is read."""
    if isinstance(value, dict):
        return {k: v if k in keep else poisoned(v, payload, keep) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v, payload, keep) for v in value]
    return f"{value} {payload}" if isinstance(value, str) else value


STRUCTURE = frozenset(
    {"resourceType", "id", "status", "system", "code", "unit", "reference", "intent", "priority", "birthDate", "gender",
     "effectiveDateTime", "authoredOn", "onsetDateTime", "class", "clinicalStatus", "verificationStatus", "category",
     "issued", "started", "value"}
)  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_in_every_string_of_a_record_stays_text(house: Evidence, seen: Watched, payload: str) -> None:
    chart = contrast_chart(
        *(
            poisoned({**r, "text": "x", "note": [{"text": "n"}]}, payload, STRUCTURE)
            for r in (LOW, STEADY, METFORMIN, hostile_condition(), hostile_allergy())
        ),
        drafts=tuple(poisoned(d, payload, STRUCTURE) for d in contrast_chart().drafts),
    )
    plain = elements(house, seen, contrast_chart(LOW, STEADY, METFORMIN, hostile_condition(), hostile_allergy()))
    hostile = elements(house, seen, chart)
    page = seen.page
    assert page.evaluate("window.hurt") is None
    # The same elements as with harmless text: no tag of a record became one of the page.
    assert hostile == plain
    visible = " ".join(page.locator("#history").text_content().split())
    assert plain_text(payload, 120) in visible
    assert not set("\u202e\u0007\ufeff\u2066") & set(page.content())
    assert seen.complaints == []
    assert {urlsplit(url).netloc for url in seen.asked} == {urlsplit(house.base).netloc}


def elements(house: Evidence, seen: Watched, chart: Any) -> dict[str, int]:
    page = seen.open(house.link(chart))
    counted = page.evaluate(
        "[...document.querySelectorAll('*')].reduce((n, e) => ({...n, [e.tagName]: (n[e.tagName] || 0) + 1}), {})"
    )
    assert isinstance(counted, dict)
    return counted


def hostile_condition() -> dict[str, Any]:
    return condition("c9", "I10", onsetDateTime="2015-12-12", note=[{"text": "n"}])


def hostile_allergy() -> dict[str, Any]:
    return {
        "resourceType": "AllergyIntolerance",
        "id": "al1",
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "verificationStatus": {"coding": [{"code": "confirmed"}]},
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "387207008"}], "text": "Ibuprofen"},
        "patient": {"reference": "Patient/p1"},
    }


def test_the_demo_ehr_shows_the_link_on_the_card(house: Evidence, seen: Watched) -> None:
    """From the chart as a clinician would: the card's link opens the page in a tab of its own."""
    page = seen.page
    page.goto(f"{house.base}/demo/patients/demo-juniper")
    page.wait_for_selector("#patient-view .card a:has-text('Evidence')", timeout=20_000)
    with page.context.expect_page() as opened:
        page.locator("#patient-view .card a:has-text('Evidence')").first.click()
    tab = opened.value
    tab.wait_for_selector(".lead h1", timeout=20_000)
    assert tab.title().startswith("Evidence")


def test_a_reference_leads_to_the_resource_and_its_version(house: Evidence, seen: Watched) -> None:
    page = seen.open(link_of(house.fire("demo-alder", "order-sign", CONTRAST)))
    links = page.locator(".facts tbody tr").first.locator("a.ref")
    addresses = [a.get_attribute("href") for a in links.all()]
    assert len(addresses) == 2
    for address in addresses:
        assert address is not None
        answer = page.request.get(address)
        assert answer.status == 200
        assert answer.json()["valueQuantity"]["value"] == 2.6


def test_the_page_needs_no_script_to_be_read(house: Evidence, browser: Browser, house_with: Callable[..., Any]) -> None:
    """Opening does; everything after it is in the page as it was sent."""
    link = film_link(house)
    with watched(browser) as first:
        first.open(link)
        cookies = first.page.context.cookies()
    context = browser.new_context(java_script_enabled=False)
    context.add_cookies(cookies)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(parts(link)[0])
    assert page.locator(".film img").count() == 2
    assert page.locator("#tools").is_hidden()
    assert page.locator(".lead h1").is_visible()
    context.close()
