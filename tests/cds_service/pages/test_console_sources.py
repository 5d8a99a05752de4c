"""Source attributes in the console: the page and the JSON say the same, and need a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from console_house import ConsoleHouse, console_house
from evidence_house import words_of

MANIFESTS = Path(__file__).resolve().parents[3] / "manifests"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ConsoleHouse]:
    with console_house(tmp_path) as made:
        yield made


def test_the_page_and_the_json_say_the_same(house: ConsoleHouse) -> None:
    vic = house.logged_in("vic")
    told = json.loads(vic.see("/admin/source-attributes/deterioration.json"))
    page = unescape(words_of(vic.see("/admin/source-attributes/deterioration")))
    assert (len(told["predictive"]), len(told["evidence"]), told["model"]) == (31, 13, "chest-open@1")
    for attribute in told["predictive"] + told["evidence"]:
        assert f"{attribute['cite']} {attribute['title']} {attribute['text']}" in page
        assert all(" ".join(line.split()) in page for line in attribute["figures"])


def test_a_service_of_rules_alone_has_the_13_and_claims_no_model(house: ConsoleHouse) -> None:
    told = json.loads(house.logged_in("vic").see("/admin/source-attributes/imaging-safety.json"))
    assert (told["predictive"], len(told["evidence"]), told["model"]) == ([], 13, "")


def test_a_service_that_is_not_there_is_a_404(house: ConsoleHouse) -> None:
    assert house.logged_in("vic").get(house.base + "/admin/source-attributes/nothing").status_code == 404


def test_a_site_without_the_file_is_told_so(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS / "services", tmp_path / "manifests" / "services")
    with console_house(tmp_path, manifests=tmp_path / "manifests") as house:
        answer = house.logged_in("vic").get(house.base + "/admin/source-attributes/deterioration")
        assert (answer.status_code, "source_attributes.yaml" in answer.text) == (404, True)
