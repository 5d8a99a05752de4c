"""Maps of what a score rests on: worked out for who opened the evidence, from its picture, and kept sealed."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import requests
import torch
from browsing import Watched, ready
from evidence_house import START, Evidence, advised, evidence_house, parts
from PIL import Image as Pictures
from read_films import read_case

from cds_service.pages.collect import collect
from cds_service.pages.films import encode
from cds_service.pages.maps import OPAQUE, Kept, draw_map
from cds_service.pages.seal import KEY_BYTES, WrongKey, new_secret
from cds_service.pages.snapshot import ModelView
from fhir_mappers.cohort.anatomy import Build, Pose
from fhir_mappers.cohort.exposure import Exposure
from fhir_mappers.cohort.films import Signs, draw_film
from fhir_mappers.tensors import square_of
from models.serving import Engine

MODELS = Path(__file__).resolve().parents[3] / "manifests" / "models"
WIDE_S = 60.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    before = torch.get_num_threads()
    with Engine.load(MODELS / "chest-generated", device="cpu", threads=1) as loaded:
        yield loaded
    torch.set_num_threads(before)


@pytest.fixture
def house(tmp_path: Path, engine: Engine) -> Iterator[Evidence]:
    with evidence_house(tmp_path, engine) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A film, higher than wide, with fluid at the patient's left base."""
    square = draw_film(Signs(effusions=(("left", 0.5),)), Build(texture=5), Pose(), Exposure(seed=5), 512).pixels
    return np.ascontiguousarray(square[:, 32:-32])


def link_to(house: Evidence, pixels: np.ndarray, digest: str) -> str:
    case = read_case()
    images = tuple(dataclasses.replace(i, pixels=pixels, shape=pixels.shape) for i in case.record.images)
    case = dataclasses.replace(case, record=dataclasses.replace(case.record, images=images))
    films = [(image.sop_uid, encode(image.pixels)) for image in images]
    model = ModelView(name="chest-open@1", digest=digest, trained_on="", card_found=False)
    snapshot = msgspec.structs.replace(
        collect(case, advised(case), model, films), expires=START + timedelta(minutes=15)
    )
    return house.keep(snapshot, [picture.data for _, picture in films])


def ask(session: requests.Session, link: str, film: int = 0, finding: str = "effusion") -> requests.Response:
    return session.get(f"{parts(link)[0]}/maps/{film}/{finding}", timeout=WIDE_S)


def alpha(png: bytes) -> np.ndarray:
    return np.asarray(Pictures.open(io.BytesIO(png)), np.float32)[..., 3]


def test_who_opened_the_evidence_is_shown_what_the_score_rests_on(
    house: Evidence, engine: Engine, pixels: np.ndarray
) -> None:
    link = link_to(house, pixels, engine.digest)
    answer = ask(house.opened(link), link)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.headers["Cache-Control"] == "no-store"
    shown = alpha(answer.content)
    # 512 x 448 on a square of 96: 96 x 84.
    assert shown.shape == (96, 84)
    assert shown.max() == OPAQUE
    # The patient's left is the picture's right, and fluid lies at the base.
    strongest = np.argwhere(shown > 0.75 * OPAQUE)
    assert strongest[:, 0].mean() > 48
    assert strongest[:, 1].mean() > 42


def test_the_kept_picture_gives_the_map_that_the_films_own_pixels_give(engine: Engine, pixels: np.ndarray) -> None:
    size = engine.spec.image.size
    own = engine.explain(square_of(pixels, size)[None], "effusion", timeout=WIDE_S)[:, 6:-6]
    shown = alpha(draw_map(engine, encode(pixels).data, "effusion", WIDE_S))
    assert np.corrcoef(own.ravel(), shown.ravel())[0, 1] > 0.99


def test_a_map_is_worked_out_once_and_not_for_another_weights_score(
    house: Evidence, engine: Engine, pixels: np.ndarray
) -> None:
    link = link_to(house, pixels, engine.digest)
    session = house.opened(link)
    first = ask(session, link)
    engines = house.app.extensions["ordersight"].engines
    del engines["chest-open"]
    assert ask(session, link).content == first.content
    other = link_to(house, pixels, engine.digest)
    refused = ask(house.opened(other), other)
    assert (refused.status_code, refused.content, refused.headers["Retry-After"]) == (503, b"", "5")


@pytest.mark.parametrize(("film", "finding"), [(0, "nodule"), (1, "effusion"), (7, "effusion"), (0, "x" * 300)])
def test_only_a_map_that_the_page_offers_is_made(
    house: Evidence, engine: Engine, pixels: np.ndarray, film: int, finding: str
) -> None:
    link = link_to(house, pixels, engine.digest)
    assert ask(house.opened(link), link, film, finding).status_code == 404


def test_nobody_else_is_shown_a_map_and_nobody_once_the_time_is_over(
    house: Evidence, engine: Engine, pixels: np.ndarray
) -> None:
    link = link_to(house, pixels, engine.digest)
    assert ask(requests.Session(), link).status_code == 404
    session = house.opened(link)
    assert ask(session, link).status_code == 200
    assert ask(requests.Session(), link).status_code == 410
    house.clock.forward(minutes=16)
    assert ask(session, link).status_code == 410


def test_a_kept_map_opens_with_its_own_key_alone_and_goes_when_its_time_is_over() -> None:
    now = [START]
    kept = Kept(lambda: now[0], most=2)
    key, other = new_secret(KEY_BYTES), new_secret(KEY_BYTES)
    secret = b"a map of somebody's lungs" * 9
    kept.keep("one", key, secret, START + timedelta(minutes=15))
    assert kept.find("one", key) == secret
    assert secret not in kept._sealed["one"][1]
    with pytest.raises(WrongKey):
        kept.find("one", other)
    now[0] += timedelta(minutes=16)
    kept.keep("two", key, b"2", now[0] + timedelta(minutes=15))
    assert (kept.find("one", key), len(kept)) == (None, 1)
    for name in ("three", "four"):
        kept.keep(name, key, b"3", now[0] + timedelta(minutes=15))
    assert (kept.find("two", key), len(kept)) == (None, 2)


def shown(seen: Watched, house: Evidence, link: str) -> Callable[[str], None]:
    page = seen.open(link)
    ready(page)
    assert not page.locator("img.map").first.is_visible()

    def says(text: str) -> None:
        page.wait_for_function("text => document.getElementById('shown').textContent.includes(text)", arg=text)

    page.click('.shows [data-shows="map.effusion"]')
    return says


def test_a_map_is_fetched_when_it_is_asked_for_and_lies_over_the_film(
    house: Evidence, engine: Engine, pixels: np.ndarray, seen: Watched
) -> None:
    says = shown(seen, house, link_to(house, pixels, engine.digest))
    says("what the score rests on, not where disease is")
    page = seen.page
    drawn = page.locator("img.map").first
    assert drawn.is_visible()
    assert drawn.evaluate("i => i.naturalWidth") == 84
    stage = page.locator(".stage").first
    stage.focus()
    for key in ("+", "+", "ArrowLeft"):
        page.keyboard.press(key)
    page.wait_for_function(
        "document.querySelector('img.map').style.transform === document.querySelector('canvas').style.transform"
    )
    assert "scale(1" in str(drawn.evaluate("i => i.style.transform"))
    page.keyboard.press("m")
    assert drawn.is_hidden()
    assert [url for url in seen.asked if "/maps/" in url] == [url for url in seen.asked if url.endswith("/0/effusion")]
    assert seen.complaints == []


def test_a_map_that_cannot_be_had_is_said_not_to_be_had(house: Evidence, pixels: np.ndarray, seen: Watched) -> None:
    says = shown(seen, house, link_to(house, pixels, "0" * 64))
    says("This map could not be worked out now.")
    assert seen.page.locator("img.map").first.is_hidden()
    assert seen.page.locator('.shows [data-shows="map.effusion"]').get_attribute("aria-pressed") == "false"
