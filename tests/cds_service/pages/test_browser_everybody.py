"""No barriers, no overflow, no waiting, and no text of a record that does anything."""

from __future__ import annotations

import dataclasses
import json
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsing import AXE, WIDTHS, Watched, film_link, ready, watched
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from evidence_house import Evidence, advised, case_of, parts
from playwright.sync_api import Browser
from read_films import read_film
from vignettes import condition

from cds_service.markdown import plain_text
from fhir_mappers.record import Image, Source


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["rule", "film", "read film"])
def test_nothing_bars_anyone_and_nothing_overflows_at_any_width(
    house: Evidence, browser: Browser, scheme: Any, kind: str
) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make node-packages")
    if kind == "rule":
        link = house.link(contrast_chart(LOW, STEADY, METFORMIN))
    else:
        link = film_link(house) if kind == "film" else read_film(house)
    # Colours are the scheme's and what stands where is the width's: each pair of them needs no turn of its own.
    judged = WIDTHS[-1] if scheme == "light" else WIDTHS[0]
    with watched(browser, color_scheme=scheme, bypass_csp=True) as found:
        page = found.open(link)
        if kind != "rule":
            ready(page)
        for button in page.locator(".shows [data-shows]").all():
            button.click()
        page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")
        page.add_script_tag(path=str(AXE))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(100)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if width != judged:
                continue
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


def test_the_page_is_light_with_a_film_of_2000_pixels(house: Evidence, seen: Watched) -> None:
    """Under 500 kB without the film. How soon it is seen is the machine's: benchmarks/evidence.py measures it."""
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
    film_bytes = sum(size for url, size in seen.bytes.items() if "/films/" in url)
    assert film_bytes > 50_000
    assert sum(seen.bytes.values()) - film_bytes < 500_000


def test_printing_leaves_the_tools_away(house: Evidence, seen: Watched) -> None:
    page = seen.open(film_link(house))
    ready(page)
    page.emulate_media(media="print")
    assert page.locator("#tools").is_hidden()
    assert page.locator(".lead h1").is_visible()
    assert page.locator("canvas").first.is_visible()


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
