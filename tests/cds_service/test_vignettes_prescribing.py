"""The shared vignettes of precision-prescribing over HTTP, each with a twin made silent by its one deciding fact."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from r4 import suggested_resources, validate_r4
from vignettes import SERVICES, from_vignette

from cds_service.app import create_app
from cds_service.manifest import Services, load_service
from cds_service.settings import Settings
from cds_service.trust.clients import Clients

NAME = "precision-prescribing"
Vignette = dict[str, Any]


@pytest.fixture(scope="session")
def vignettes(shared: Path) -> dict[str, Vignette]:
    file = shared / "clinical" / "vignettes.json"
    return {v["id"]: v for v in json.loads(file.read_text(encoding="utf-8"))["vignettes"]}


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[[Vignette], list[dict[str, Any]]]]:
    """What the service answers over HTTP at the vignette's own moment."""
    made = []

    def answer(vignette: Vignette) -> list[dict[str, Any]]:
        now = datetime.fromisoformat(vignette["now"].replace("Z", "+00:00"))
        app = create_app(
            Settings(jwt="off", state_dir=tmp_path / f"state{len(made)}", outbox_mb=1),
            services=Services([load_service(SERVICES / f"{NAME}.yaml")]),
            clients=Clients(),
            clock=lambda: now,
        )
        made.append(app)
        body = from_vignette(vignette).body(NAME)
        response = app.test_client().post(f"/cds-services/{NAME}", data=body, content_type="application/json")
        assert response.status_code == 200, response.get_data(as_text=True)
        cards: list[dict[str, Any]] = response.get_json()["cards"]
        for resource in suggested_resources(cards):
            validate_r4(resource)
        return cards

    yield answer
    for app in made:
        app.extensions["ordersight"].close()


def actions(card: dict[str, Any]) -> list[dict[str, Any]]:
    return [a for s in card["suggestions"] for a in s["actions"]]


def created(card: dict[str, Any]) -> set[str]:
    drugs = [
        a["resource"] for a in actions(card) if a["type"] == "create" and "medicationCodeableConcept" in a["resource"]
    ]
    return {c["code"] for d in drugs for c in d["medicationCodeableConcept"]["coding"]}


def deleted(card: dict[str, Any]) -> set[str]:
    return {a["resourceId"] for a in actions(card) if a["type"] == "delete"}


@pytest.mark.parametrize(
    ("name", "removes", "adds", "never"),
    [
        ("S09", "MedicationRequest/m1", {"3640", "8591", "6585"}, set()),
        ("S12", "MedicationRequest/m1", {"1116632"}, {"613391"}),
        ("S13", "MedicationRequest/m1", {"301542"}, set()),
    ],
)
def test_a_vignette_gets_the_card_and_the_actions_it_asks_for(
    vignettes: dict[str, Vignette], ask: Any, name: str, removes: str, adds: set[str], never: set[str]
) -> None:
    vignette = vignettes[name]
    (wanted,) = [w for w in vignette["expected"]["fire"] if w["service"] == NAME]
    (card,) = ask(vignette)
    assert card["indicator"] == wanted["indicator"]
    said = f"{card['summary']}\n{card['detail']}".lower()
    for words in wanted["must_contain"]:
        assert words.lower() in said, words
    assert removes in deleted(card)
    assert adds <= created(card)
    assert not never & created(card)


def twin(vignette: Vignette, **data: Any) -> Vignette:
    changed = copy.deepcopy(vignette)
    changed["data"].update(data)
    return changed


def test_s09_is_silent_with_a_qtc_of_440(vignettes: dict[str, Vignette], ask: Any) -> None:
    observations = copy.deepcopy(vignettes["S09"]["data"]["observations"])
    observations[0]["value"] = 440
    assert ask(twin(vignettes["S09"], observations=observations)) == []


def test_s12_is_silent_for_a_normal_metabolizer(vignettes: dict[str, Vignette], ask: Any) -> None:
    (result,) = vignettes["S12"]["data"]["genomics"]
    normal = {**result, "value": "*1/*1", "phenotype": "Normal Metabolizer"}
    assert ask(twin(vignettes["S12"], genomics=[normal])) == []
    assert ask(twin(vignettes["S12"], genomics=[{**result, "source": "somatic"}])) == []


def test_s12_informs_when_the_source_of_the_result_is_not_stated(vignettes: dict[str, Vignette], ask: Any) -> None:
    (result,) = vignettes["S12"]["data"]["genomics"]
    (card,) = ask(twin(vignettes["S12"], genomics=[{**result, "source": "unknown"}]))
    assert card["indicator"] == "info"


def test_s12_without_the_stroke_offers_prasugrel_too(vignettes: dict[str, Vignette], ask: Any) -> None:
    conditions = [c for c in vignettes["S12"]["data"]["conditions"] if not c["icd10"].startswith("I63")]
    (card,) = ask(twin(vignettes["S12"], conditions=conditions))
    assert created(card) == {"1116632", "613391"}


def test_s13_is_silent_at_10_mg(vignettes: dict[str, Vignette], ask: Any) -> None:
    changed = copy.deepcopy(vignettes["S13"])
    changed["draftOrders"][0]["text"] = "simvastatin 10 mg nightly"
    assert ask(changed) == []


def test_s15_is_silent_when_negative_critical_when_positive_and_critical_when_untested(
    vignettes: dict[str, Vignette], ask: Any
) -> None:
    assert ask(vignettes["S15"]) == []
    (result,) = vignettes["S15"]["data"]["genomics"]
    (positive,) = ask(twin(vignettes["S15"], genomics=[{**result, "value": "positive"}]))
    assert (positive["indicator"], deleted(positive)) == ("critical", {"MedicationRequest/m1"})
    (untested,) = ask(twin(vignettes["S15"], genomics=[]))
    assert untested["indicator"] == "critical"
    assert "screen before the first dose" in untested["summary"]


def test_every_vignette_that_wants_silence_gets_it(vignettes: dict[str, Vignette], ask: Any) -> None:
    wanted = [v for v in vignettes.values() if NAME in v["expected"]["silent"]]
    assert wanted
    assert [v["id"] for v in wanted if ask(v)] == []
