"""The film viewer by key, slider and drag, and regions where a model gives them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from browsing import Watched, film_link, ready
from contrast import LOW, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from evidence_house import Evidence, advised, case_of, with_record
from playwright.sync_api import Page

from cds_service.pages.collect import collect
from cds_service.pages.films import encode
from cds_service.pages.snapshot import Region
from fhir_mappers.record import Image, Source


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


def test_a_region_lies_over_the_film_where_the_model_put_it(house: Evidence, seen: Watched) -> None:
    """A tall film in a square stage: the black beside it is not part of it. No model here gives regions yet."""
    picture = encode(np.full((600, 400), 0.5, np.float32))
    region = Region(title="Pleural effusion", x=0.25, y=0.5, width=0.25, height=0.25)
    case = case_of(contrast_chart(LOW, STEADY), CONTRAST)
    film = Image(np.zeros((600, 400), np.float32), "PA", case.record.as_of, "1.2", "1", Source("ImagingStudy/1"))
    snapshot = collect(with_record(case, images=(film,)), advised(case), None, [("1.2", picture)])
    films = (msgspec.structs.replace(snapshot.films[0], regions=(region,)),)
    page = seen.open(house.keep(msgspec.structs.replace(snapshot, films=films), [picture.data]))
    ready(page)
    stage = page.locator(".stage").first.bounding_box()
    drawn = page.locator(".regions rect").bounding_box()
    assert stage is not None
    assert drawn is not None
    side = stage["width"]
    # The film fills the height and two thirds of the width, a sixth of black on either side.
    assert drawn["x"] - stage["x"] == pytest.approx(side * (1 / 6 + 0.25 * 2 / 3), abs=4)
    assert drawn["y"] - stage["y"] == pytest.approx(side * 0.5, abs=4)
    assert drawn["width"] == pytest.approx(side * 0.25 * 2 / 3, abs=4)
    page.click("#overlay")
    assert page.locator(".regions").is_hidden()
    page.click("#overlay")
    assert page.locator(".regions").is_visible()
