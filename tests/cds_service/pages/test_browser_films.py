"""The film viewer by key, slider and drag, what is laid over a film, and the report beside it."""

from __future__ import annotations

import pytest
from browsing import Watched, film_link, ready
from evidence_house import Evidence
from playwright.sync_api import Page
from read_films import read_film

EDGES = """path => {
  const box = path.getBBox(), to = path.getScreenCTM();
  const [left, top] = [box.x * to.a + to.e, box.y * to.d + to.f];
  return {left, top, right: left + box.width * to.a, bottom: top + box.height * to.d};
}"""
"""Where a path lies on the screen, without the width of its line."""


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


def test_nothing_is_drawn_over_a_film_whose_model_outlines_nothing(house: Evidence, seen: Watched) -> None:
    page = seen.open(film_link(house))
    ready(page)
    assert page.locator("[data-shows]").count() == 0
    assert "no lung and no heart was found" in page.inner_text("#films")


def test_each_part_is_laid_over_the_film_by_itself_where_the_network_saw_it(house: Evidence, seen: Watched) -> None:
    """A tall film in a square stage: the black beside it is part of neither the film nor what is drawn over it."""
    page = seen.open(read_film(house))
    ready(page)
    names = ("right_lung", "left_lung", "heart", "zones", "heat.effusion", "map.effusion")
    assert [b.get_attribute("data-shows") for b in page.locator(".shows [data-shows]").all()] == list(names)
    drawn = {name: page.locator(f'.shape[data-shape="{name}"]') for name in names}
    assert all(shape.is_hidden() for shape in drawn.values())
    page.click('.shows [data-shows="right_lung"]')
    assert [name for name in names if drawn[name].is_visible()] == ["right_lung"]
    stage = page.locator(".stage").first.bounding_box()
    assert stage is not None
    lung = drawn["right_lung"].locator("path").evaluate(EDGES)
    pixel = stage["width"] / 192
    # read_films.py: columns 30 to 70 and rows 40 to 150 of a square of 192; the square is as high as the stage.
    found = {side: (lung[side] - stage["x" if side in ("left", "right") else "y"]) / pixel for side in lung}
    assert found == pytest.approx({"left": 30, "top": 40, "right": 70, "bottom": 150}, abs=0.5)


def test_a_tall_film_is_shown_down_to_its_lower_edge(house: Evidence, seen: Watched) -> None:
    page = seen.open(read_film(house))
    ready(page)
    stage, film = page.locator(".stage").first.bounding_box(), page.locator("canvas").first.bounding_box()
    assert film == pytest.approx(stage, abs=1)


def test_what_is_drawn_stays_on_the_film_when_that_is_moved_and_enlarged(house: Evidence, seen: Watched) -> None:
    page = seen.open(read_film(house))
    ready(page)
    page.click('.shows [data-shows="right_lung"]')
    page.locator(".stage").first.focus()
    for key in ("+", "+", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    page.wait_for_timeout(100)
    film, shapes = page.locator("canvas").first.bounding_box(), page.locator(".shapes").bounding_box()
    assert film is not None
    assert shapes == pytest.approx(film, abs=1)
    assert seen.complaints == []


def test_keys_lay_lungs_heart_zones_and_evidence_over_the_film_and_clear_them(house: Evidence, seen: Watched) -> None:
    page = seen.open(read_film(house))
    ready(page)

    def shown() -> list[str | None]:
        return [s.get_attribute("data-shape") for s in page.locator(".shape:not(.off)").all()]

    page.locator(".stage").first.focus()
    page.keyboard.press("l")
    assert shown() == ["right_lung", "left_lung"]
    page.keyboard.press("h")
    page.keyboard.press("l")
    assert shown() == ["heart"]
    page.keyboard.press("z")
    page.keyboard.press("e")
    assert shown() == ["heart", "zones", "heat.effusion"]
    assert (
        page.inner_text("#shown") == "62 % of the evidence for pleural effusion lies in the patient's right lower zone."
    )
    page.keyboard.press("e")
    assert shown() == ["heart", "zones"]
    page.keyboard.press("c")
    assert shown() == []
    assert {b.get_attribute("aria-pressed") for b in page.locator("[data-shows]").all()} == {"false"}


def test_the_report_says_what_was_found_where_and_shows_it_on_the_film(house: Evidence, seen: Watched) -> None:
    page = seen.open(read_film(house))
    ready(page)
    section = page.locator("#film-report")
    assert "Preliminary, by a model. Research use: not cleared" in section.inner_text()
    rows = section.locator(".report-table").first.locator("tbody tr")
    assert rows.count() == 1
    cells = rows.locator("td").all_inner_texts()
    assert cells[:3] == ["probable", "right lower zone", "new"]
    assert cells[3] == "0.88 (0.81 to 0.93) before 0.06"
    rows.get_by_role("button", name="Show the evidence for Pleural effusion on the film").click()
    assert page.locator('.shape[data-shape="heat.effusion"]').is_visible()
    assert page.locator('.shows [data-shows="heat.effusion"]').get_attribute("aria-pressed") == "true"
    assert "Cardiothoracic ratio 0.56" in section.inner_text()
