"""The evidence page in a real browser: from the card to the page, and what it says there."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from browsing import Watched, film_link, watched
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from evidence_house import Evidence, link_of, parts
from playwright.sync_api import Browser


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
    assert plot.locator(".deciding-label").text_content() == "2.6"
    assert plot.locator(".band").count() == 1
    assert "mg/dL" in plot.locator("svg > title").text_content()
    plot.locator("summary").click()
    rows = plot.locator("tbody tr").all_inner_texts()
    assert rows[0].split("\t")[0] == "2026-03-10 06:10"
    assert "2.6 mg/dL deciding" in rows[0]


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


def test_the_page_needs_no_script_to_be_read(house: Evidence, browser: Browser) -> None:
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
