"""What a clinician who goes on working is shown, over HTTP: each test is a morning on one ward."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from contrast import METFORMIN, chart, creatinine
from findings import Ward, service
from typer.testing import CliRunner
from vignettes import imaging_order
from vignettes import service as shipped

from cds_service.cli.main import assemble

WARNING = service("one", A_01="warning")
INFO = service("two", B_01="info")
CRITICAL = service("three", C_01="critical")
Make = Callable[..., Ward]


@pytest.fixture
def ward(plugin: Path, tmp_path: Path) -> Iterator[Make]:
    made: list[Ward] = []

    def make(*services: Any, **settings: Any) -> Ward:
        made.append(Ward(tmp_path, *(services or (WARNING, INFO, CRITICAL)), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def report(ward: Ward, rule: str) -> Any:
    (row,) = [
        r
        for r in ward.state.feedback_report(ward.now.replace(year=2025), ward.now.replace(year=2027)).rows
        if r.rule == rule
    ]
    return row


def test_the_sign_of_an_order_shows_the_unanswered_card_of_its_select_again(ward: Make) -> None:
    w = ward()
    (first,) = w.cards("one", "order-select")
    w.wait(minutes=3)
    (again,) = w.cards("one", "order-sign")
    for card in (first, again):
        assert card.pop("links")  # the evidence behind a card is kept anew for each call
    assert again == first
    # The order it would change names the card that changed it.
    changed = again["suggestions"][0]["actions"][0]["resource"]["note"][0]["text"]
    assert changed == f"changed by {again['uuid']}"
    w.answer("one", again, "patient-refuses")
    assert w.cards("one", "order-sign") == []
    assert (report(w, "A-01").shown, report(w, "A-01").overridden) == (1, 1)
    assert report(w, "A-01").suppressed == {"answered": 1}


def test_the_same_finding_about_another_order_is_silent_for_a_day_and_for_other_users_not_at_all(ward: Make) -> None:
    w = ward()
    assert w.cards("one", order="d1")
    w.wait(hours=23)
    assert w.cards("one", order="d2") == []
    assert w.cards("one", order="d2", user="Practitioner/u2")
    assert w.cards("one", order="d2", patient="p2")
    w.wait(hours=2)
    assert w.cards("one", order="d3")
    assert report(w, "A-01").suppressed == {"shown": 1}


def test_a_worse_band_and_another_study_are_other_findings(ward: Make) -> None:
    w = ward()
    assert w.cards("one", order="d1", band="eGFR 30-44")
    w.wait(minutes=10)
    assert w.cards("one", order="d2", band="eGFR 30-44") == []
    assert w.cards("one", order="d3", band="eGFR 15-29")
    assert w.cards("one", order="d4", band="eGFR 30-44", code="36643-5")  # XR chest 2 views


def test_an_info_is_said_once_a_stay_and_once_a_week_of_visits(ward: Make) -> None:
    w = ward()
    assert w.cards("two", "patient-view")
    w.wait(days=12)
    assert w.cards("two", "patient-view") == []
    assert w.cards("two", "patient-view", encounter="e2")
    visits = {"setting": "AMB", "patient": "p9"}
    assert w.cards("two", "patient-view", encounter="v1", **visits)
    w.wait(days=6)
    assert w.cards("two", "patient-view", encounter="v2", **visits) == []
    w.wait(days=2)
    assert w.cards("two", "patient-view", encounter="v3", **visits)


def test_an_accepted_card_returns_only_when_its_order_does(ward: Make) -> None:
    w = ward()
    (card,) = w.cards("one", order="d1")
    w.answer("one", card, accepted=True)
    w.wait(minutes=5)
    assert w.cards("one", order="d1") == []
    assert w.cards("one", order="d7")


@pytest.mark.parametrize("reason", ["cds-not-applicable", "risk-benefit-ratio"])
def test_what_does_not_apply_is_not_said_to_anybody_in_this_stay(ward: Make, reason: str) -> None:
    w = ward()
    (card,) = w.cards("one", order="d1")
    w.answer("one", card, reason)
    w.wait(days=9)
    for user in ("Practitioner/u1", "Practitioner/u2"):
        assert w.cards("one", order="d2", user=user) == []
    assert w.cards("one", order="d2", encounter="e2")


def test_will_decide_later_is_asked_again_after_four_hours(ward: Make) -> None:
    w = ward()
    (card,) = w.cards("one")
    w.answer("one", card, "need-more-info")
    w.wait(hours=3, minutes=59)
    assert w.cards("one") == []
    w.wait(minutes=2)
    (asked,) = w.cards("one")
    assert asked["uuid"] != card["uuid"]


def test_a_critical_card_is_shown_until_it_is_answered_with_a_reason(ward: Make) -> None:
    w = ward()
    uuids = set()
    for order in ("d1", "d2", "d3"):
        w.wait(minutes=1)
        (card,) = w.cards("three", order=order)
        uuids.add(card["uuid"])
    assert len(uuids) == 3
    w.answer("three", card)
    assert w.cards("three", order="d3")
    w.wait(seconds=1)
    (card,) = w.cards("three", order="d3")
    w.answer("three", card, "action-completed")
    w.wait(minutes=1)
    assert w.cards("three", order="d4") == []
    assert w.cards("three", order="d4", encounter="e2")


def test_the_ehrs_own_retry_gets_the_same_card(ward: Make) -> None:
    w = ward()
    (first,) = w.cards("two", "patient-view", instance="11111111-1111-4111-8111-111111111111")
    (again,) = w.cards("two", "patient-view", instance="11111111-1111-4111-8111-111111111111")
    assert again["uuid"] == first["uuid"]
    assert w.cards("two", "patient-view") == []


def test_a_service_says_one_thing_at_a_time_the_loudest_first(ward: Make) -> None:
    w = ward(service("one", A_01="info", A_02="critical", A_03="warning"))
    (card,) = w.cards("one")
    assert card["indicator"] == "critical"
    w.answer("one", card, "action-completed")
    # Once the critical one is answered, the next is due.
    (card,) = w.cards("one")
    assert card["indicator"] == "warning"
    assert report(w, "A-01").capped == {"one per service": 2}


def test_services_asked_at_once_share_two_places_and_the_important_ones_have_them(ward: Make) -> None:
    """Asked on threads as an EHR asks them; the two that may speak are those of CLINICAL.md 2.2."""
    ids = ("imaging-timing", "cxr-insight", "deterioration", "chest-treatment", "pe-imaging", "imaging-safety")
    w = ward(*(service(id_, 0.5, X_01="info") for id_ in ids), service("lung-precision", 0.5, X_02="warning"))
    gate = threading.Barrier(len(ids) + 1)

    def ask(id_: str) -> tuple[str, int]:
        gate.wait()
        return id_, len(w.cards(id_))

    with ThreadPoolExecutor(len(ids) + 1) as pool:
        said = dict(pool.map(ask, (*ids, "lung-precision")))
    assert {id_ for id_, cards in said.items() if cards} == {"lung-precision", "imaging-safety"}
    rows = w.state.feedback_report(w.now.replace(year=2025), w.now.replace(year=2027)).rows
    assert sum(row.capped.get("two per event", 0) for row in rows) == 5
    # The next event has room again.
    w.wait(minutes=1)
    assert w.cards("cxr-insight", "patient-view")


def test_a_critical_card_finds_room_beside_any_number(ward: Make) -> None:
    w = ward(*(service(f"s{n}", X_01="critical") for n in range(4)))
    assert all(w.cards(f"s{n}") for n in range(4))


def test_the_ninth_interruption_of_a_week_comes_as_info(ward: Make) -> None:
    w = ward()
    tiers = []
    for n in range(9):
        w.wait(hours=1)
        (card,) = w.cards("one", "patient-view", patient=f"p{n}")
        tiers.append(card["indicator"])
    assert tiers == ["warning"] * 8 + ["info"]
    assert w.cards("three")[0]["indicator"] == "critical"
    w.wait(days=8)
    assert w.cards("one", patient="p99")[0]["indicator"] == "warning"


def test_a_sixth_order_interrupted_in_a_young_site_comes_as_info_whoever_signs_and_is_reported(ward: Make) -> None:
    w = ward()
    tiers = []
    for n in range(6):
        w.wait(hours=1)
        tiers.append(w.cards("one", patient=f"p{n}", user=f"Practitioner/u{n}")[0]["indicator"])
    assert tiers == ["warning"] * 5 + ["info"]
    assert w.cards("one", "order-sign", patient="p5", user="Practitioner/u5")[0]["indicator"] == "info"
    w.wait(hours=1)
    assert w.cards("one", patient="p5", user="Practitioner/u5", order="d2") == []  # told as info, about another order
    rows = w.state.feedback_report(w.now.replace(year=2025), w.now.replace(year=2027)).rows
    assert [r.capped for r in rows if r.capped] == [{"five per thousand orders": 1}]
    assert w.cards("one", "order-sign", patient="p4", user="Practitioner/u4")[0]["indicator"] == "warning"
    assert w.cards("one", "patient-view", patient="p8")[0]["indicator"] == "warning"
    assert w.cards("three", patient="p7")[0]["indicator"] == "critical"
    w.wait(days=29)
    assert w.cards("one", patient="p9")[0]["indicator"] == "warning"


def test_without_economy_every_card_is_shown_every_time_and_still_recorded(ward: Make) -> None:
    w = ward(economy="off")
    cards = [w.cards("one")[0]["uuid"] for _ in range(3)]
    assert len(set(cards)) == 3
    assert report(w, "A-01").shown == 3


def test_a_card_that_does_not_say_what_it_rests_on_is_shown_every_time(make_app: Callable[..., Any]) -> None:
    from contexts import call

    client = make_app().test_client()
    for _ in range(2):
        assert client.post("/cds-services/probe", json=call("patient-view")).get_json()["cards"]


def test_what_a_card_rests_on_never_leaves_the_house(ward: Make) -> None:
    answer = ward().call("one").get_json()
    allowed = {"uuid", "summary", "indicator", "source", "detail", "suggestions", "selectionBehavior", "links"}
    assert set(answer["cards"][0]) <= allowed | {"overrideReasons", "extension"}
    assert "mild" not in json.dumps(
        {k: v for k, v in answer["cards"][0].items() if k not in ("summary", "suggestions")}
    )


def test_silence_outlives_a_restart(ward: Make) -> None:
    first = ward()
    (card,) = first.cards("one")
    first.answer("one", card, accepted=True)
    first.close()
    assert ward().cards("one") == []


def test_the_report_of_the_command_line_shows_what_was_held_back(ward: Make, tmp_path: Path) -> None:
    w = ward(*(service(f"s{n}", 0.3, X_01="info") for n in range(3)), WARNING)
    for order in ("d1", "d2"):
        w.cards("one", order=order)
        w.wait(minutes=1)
    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(lambda n: len(w.cards(f"s{n}", "patient-view")), range(3))) == 2
    env = {"ORDERSIGHT_STATE_DIR": str(tmp_path / "state"), "COLUMNS": "250"}
    words = ["feedback", "report", "--days", "3650"]
    told = CliRunner().invoke(assemble(words), words, env=env)
    assert told.exit_code == 0, told.output
    assert "shown 1" in told.output
    assert "two per event 1" in told.output
    assert "1 warning and critical cards; 2 calls at signing, 50.0 in 100" in told.output


# The real rules ----------------------------------------------------------------------------------


def test_a_kidney_card_of_select_is_the_card_of_sign_and_a_worse_kidney_is_another(ward: Make) -> None:
    """imaging-safety as it ships: eGFR 26, the repeat at 25 is the same category, 11 is the next (KDIGO G5)."""
    w = ward(shipped("imaging-safety"))

    def ask(mg_dl: float, hook: str = "order-sign", order: str = "d1") -> list[dict[str, Any]]:
        w.wait(minutes=2)
        kidney = (creatinine("o1", mg_dl, "2026-03-02T06:10:00Z"), creatinine("o2", mg_dl, "2026-02-28T06:00:00Z"))
        drafts = (imaging_order(order, "24628-0", "CT chest with IV contrast"),)
        body = json.loads(chart(*kidney, METFORMIN, drafts=drafts, hook=hook).body("imaging-safety"))
        body["hookInstance"] = str(uuid.uuid4())
        cards: list[dict[str, Any]] = (
            w.app.test_client().post("/cds-services/imaging-safety", json=body).get_json()["cards"]
        )
        return cards

    (select,) = ask(2.6, "order-select")
    (sign,) = ask(2.7)
    assert sign["uuid"] == select["uuid"]
    assert "2.7 mg/dL" in sign["detail"]
    assert [s["uuid"] for s in sign["suggestions"]] == [s["uuid"] for s in select["suggestions"]]
    w.answer("imaging-safety", sign, "risk-benefit-ratio")
    assert ask(2.6, order="d2") == []
    (worse,) = ask(5.4, order="d3")
    assert worse["uuid"] != sign["uuid"]
    assert report(w, "IS-01").suppressed == {"overridden": 1}
    assert report(w, "IS-03").shown == 2
