"""Vignettes S04 to S07 over HTTP, each with the twin that one deciding fact makes of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from r4 import suggested_resources, validate_r4
from vignettes import SERVICES, from_vignette

from cds_service.app import create_app
from cds_service.manifest import load_services
from cds_service.settings import Settings
from cds_service.trust.clients import Clients

Vignette = dict[str, Any]
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def vignettes(shared: Path) -> dict[str, Vignette]:
    file = shared / "clinical" / "vignettes.json"
    return {v["id"]: v for v in json.loads(file.read_text(encoding="utf-8"))["vignettes"]}


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Post a vignette's call to a service of the shipped manifests, at the vignette's own moment."""
    moment: list[datetime] = []
    settings = Settings(jwt="off", state_dir=tmp_path / "state", manifests=SERVICES.parent)
    services = load_services(SERVICES, "non_device")
    app = create_app(settings, services=services, engines={}, clients=Clients(), clock=lambda: moment[-1])

    def post(
        vignette: Vignette, name: str, *, unsent: Iterable[str] = (), absent: Iterable[str] = (), status: int = 200
    ) -> list[dict[str, Any]]:
        moment.append(datetime.fromisoformat(vignette["now"].replace("Z", "+00:00")))
        call = json.loads(from_vignette(vignette).body(name))
        sent = {k: None if k in absent else v for k, v in call["prefetch"].items() if k not in unsent}
        answer = app.test_client().post(f"/cds-services/{name}", json={**call, "prefetch": sent})
        assert answer.status_code == status, answer.get_data(as_text=True)
        if status != 200:
            return []
        cards: list[dict[str, Any]] = answer.get_json()["cards"]
        return cards

    yield post
    app.extensions["ordersight"].close()


def changed(vignette: Vignette, change: Callable[[Vignette], object]) -> Vignette:
    twin = copy.deepcopy(vignette)
    change(twin)
    return twin


def actions(card: dict[str, Any]) -> list[dict[str, Any]]:
    return [a for s in card.get("suggestions", ()) for a in s["actions"]]


def test_s04_removes_the_scan_and_its_twin_at_the_limit_is_silent(vignettes: dict[str, Vignette], ask: Ask) -> None:
    (card,) = ask(vignettes["S04"], "pe-imaging")
    assert [(a["type"], a["resourceId"]) for a in actions(card)] == [("delete", "ServiceRequest/d1")]
    at_the_limit = changed(vignettes["S04"], lambda v: v["data"]["observations"][0].update(value=680))
    unanswered = changed(vignettes["S04"], lambda v: v["draftOrders"][0].pop("answers"))
    assert ask(at_the_limit, "pe-imaging") == []
    assert ask(unanswered, "pe-imaging") == []
    for name in ("imaging-timing", "imaging-safety"):
        assert ask(vignettes["S04"], name) == []


def test_s05_is_silent_and_its_twin_without_the_emergency_is_not(vignettes: dict[str, Vignette], ask: Ask) -> None:
    for name in ("pe-imaging", "imaging-timing", "imaging-safety"):
        assert ask(vignettes["S05"], name) == []

    def calm(vignette: Vignette) -> None:
        vignette["draftOrders"][0] |= {"priority": "urgent", "answers": {"pe_most_likely": False, "dvt_signs": False}}
        vignette["data"]["observations"][0]["value"] = 122

    stable = changed(vignettes["S05"], calm)
    (card,) = ask(stable, "pe-imaging")
    assert "order D-dimer before CTPA" in card["summary"]
    shock = changed(stable, lambda v: v["data"]["observations"][0].update(value=82))
    assert ask(shock, "pe-imaging") == []


def test_s06_shows_the_film_of_the_morning_and_its_twin_of_the_night_is_silent(
    vignettes: dict[str, Vignette], ask: Ask
) -> None:
    (card,) = ask(vignettes["S06"], "imaging-timing")
    assert card["indicator"] == "info"
    assert "2026-03-10 09:05" in card["summary"]
    assert [(a["type"], a["resourceId"]) for a in actions(card)] == [("delete", "ServiceRequest/d1")]
    night = changed(vignettes["S06"], lambda v: v["data"]["imaging"][0].update(at="2026-03-10T01:05:00Z"))
    assert ask(night, "imaging-timing") == []


def test_s07_moves_the_ct_and_its_twin_in_its_window_is_silent(vignettes: dict[str, Vignette], ask: Ask) -> None:
    (card,) = ask(vignettes["S07"], "imaging-timing")
    (update,) = actions(card)
    assert update["resource"]["occurrenceDateTime"] == "2026-06-08"
    for resource in suggested_resources([card]):
        validate_r4(resource)
    in_time = changed(vignettes["S07"], lambda v: v["draftOrders"][0].update(occurrence="2026-06-20"))
    assert ask(in_time, "imaging-timing") == []


def test_s07_without_its_structured_findings_is_proposed_from_the_words_of_the_report(
    vignettes: dict[str, Vignette], ask: Ask
) -> None:
    words = changed(vignettes["S07"], lambda v: v["data"]["imaging"][0].pop("findings"))
    (card,) = ask(words, "imaging-timing")
    assert card["indicator"] == "info"
    assert "2026-06-08" in card["summary"]
    assert "isRecommended" not in card["suggestions"][0]


def test_none_of_the_two_services_disturbs_any_other_vignette(vignettes: dict[str, Vignette], ask: Ask) -> None:
    for id_, vignette in vignettes.items():
        for name in ("pe-imaging", "imaging-timing"):
            if vignette["hook"] not in ("order-select", "order-sign", "patient-view", "encounter-discharge"):
                continue
            if name == "pe-imaging" and not vignette["hook"].startswith("order-"):
                continue
            fired = any(f["service"] == name for f in vignette["expected"]["fire"])
            assert len(ask(vignette, name)) == (1 if fired else 0), f"{id_} {name}"


def test_what_was_not_sent_takes_its_worst_case_and_what_is_null_is_known_to_be_none(
    vignettes: dict[str, Vignette], ask: Ask
) -> None:
    for key in ("conditions", "history", "procedures"):
        assert ask(vignettes["S04"], "pe-imaging", unsent=(key,)) == [], key
    (card,) = ask(vignettes["S04"], "pe-imaging", absent=("conditions", "history", "procedures"))
    assert "Wells is at most 4" in card["summary"]
    ask(vignettes["S04"], "pe-imaging", unsent=("ddimer",), status=412)
    (card,) = ask(vignettes["S06"], "imaging-timing", unsent=("procedures",))
    assert "isRecommended" not in card["suggestions"][0]
    assert ask(vignettes["S06"], "imaging-timing", absent=("reports",)) == []
