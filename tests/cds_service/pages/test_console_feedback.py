"""The feedback report in the console, counted by hand beside each case, and its CSV."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from console_house import HOUR, ConsoleHouse, console_house, reply, shown
from evidence_house import START

sys.path.insert(0, str(Path(__file__).parents[1] / "state"))

from state_cases import answer

from cds_service.state.records import Decision, FeedbackItem

MODELS = Path(__file__).resolve().parents[3] / "manifests" / "models"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ConsoleHouse]:
    with console_house(tmp_path) as made:
        yield made


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_four_cards_of_which_one_accepted_two_overridden_and_one_unanswered(house: ConsoleHouse) -> None:
    shown(house, 4)
    reply(house, "u-0", "accepted")
    reply(house, "u-1", "overridden", "benefit-outweighs-risk")
    reply(house, "u-2", "overridden", "benefit-outweighs-risk")
    vic = house.logged_in("vic")
    (row,) = table(vic.see("/admin/feedback/report.csv"))
    assert {k: row[k] for k in ("service", "rule", "tier", "shown", "accepted", "overridden", "unanswered")} == {
        "service": "imaging-safety",
        "rule": "IS-01",
        "tier": "warning",
        "shown": "4",
        "accepted": "1",
        "overridden": "2",
        "unanswered": "1",
    }
    assert row["reasons"] == "benefit-outweighs-risk 2"
    assert "IS-01 imaging-safety warning 4 1 2 1 benefit-outweighs-risk 2" in vic.words("/admin/feedback")


def test_what_was_held_back_is_counted_by_cause(house: ConsoleHouse) -> None:
    said = (
        Decision("IS-02", "silent", "shown to this user", tier="warning"),
        Decision("IS-02", "capped", "two cards", tier="warning"),
    )
    house.state.record_answer(answer(at=START - HOUR, decisions=said), timeout=20)
    (row,) = table(house.logged_in("vic").see("/admin/feedback/report.csv"))
    assert (row["rule"], row["shown"], row["suppressed"], row["capped"]) == (
        "IS-02",
        "0",
        "shown to this user 1",
        "two cards 1",
    )


def test_two_versions_of_a_model_stand_apart(house: ConsoleHouse) -> None:
    shown(house, 3, "a", digest="aa" * 32)
    shown(house, 2, "b", digest="bb" * 32)
    reply(house, "b-0", "accepted")
    page = house.logged_in("vic").words("/admin/feedback")
    assert f"imaging-safety 3 {'aa' * 8} 3 0 0 3" in page
    assert f"imaging-safety 3 {'bb' * 8} 2 1 0 1" in page


def test_a_model_that_is_installed_is_called_by_its_name(house: ConsoleHouse) -> None:
    digest = json.loads((MODELS / "chest-open" / "model.json").read_text())["weights"]["sha256"]
    shown(house, 1, digest=digest)
    assert f"imaging-safety 3 chest-open@1 {digest[:16]} 1 0 0 1" in house.logged_in("vic").words("/admin/feedback")


def test_the_burden_is_held_against_half_a_percent_of_orders_and_eight_a_week(house: ConsoleHouse) -> None:
    for _ in range(991):
        house.state.record_answer(answer(at=START - HOUR, decisions=()), timeout=20)
    shown(house, 9, "busy")
    page = house.logged_in("vic").words("/admin/feedback")
    # 9 interruptions at 991 + 9 = 1000 signings; 9 of one user are one more than 8.
    assert "Orders signed 1000" in page
    assert "0.90 % of orders over the budget of 0.5 %" in page
    assert "9 1 user over the budget of 8" in page


def test_a_card_of_another_time_or_service_is_not_in_the_report(house: ConsoleHouse) -> None:
    shown(house, 1)
    house.clock.forward(days=8)
    vic = house.logged_in("vic")
    assert table(vic.see("/admin/feedback/report.csv?days=7")) == []
    assert len(table(vic.see("/admin/feedback/report.csv?days=28"))) == 1
    assert "No card was shown, held back" in vic.words("/admin/feedback?service=pe-imaging")


def test_the_rows_leave_comments_out_and_run_in_no_spreadsheet(house: ConsoleHouse) -> None:
    shown(house, 1)
    said = FeedbackItem(card="=HYPERLINK(1)", outcome="overridden", outcome_at=START, comment="Mrs Miller's family")
    house.state.record_feedback("north", [said])
    text = house.logged_in("vic").see("/admin/feedback/rows.csv")
    (row,) = table(text)
    assert row["card"] == "'=HYPERLINK(1)"
    assert "Miller" not in text


def test_each_export_is_audited(house: ConsoleHouse) -> None:
    vic = house.logged_in("vic")
    vic.see("/admin/feedback/report.csv?days=91")
    vic.see("/admin/feedback/rows.csv")
    told = [(a["did"], a.get("days")) for a in house.audited() if a["kind"] == "admin"][1:]
    assert told == [("feedback report exported", 91), ("feedback rows exported", None)]


def test_before_a_thousand_orders_the_budget_is_that_of_a_thousand_as_it_is_where_warnings_are_held_back(
    house: ConsoleHouse,
) -> None:
    # 0.5 % of 1,000 are 5: the fifth interruption is within it and the sixth beyond, whatever the few orders were.
    shown(house, 5, "a")
    vic = house.logged_in("vic")
    words = vic.words("/admin/feedback")
    assert "Interruptions at orders 5 budget 5 until 1,000 orders are signed, then 0.5 % of them" in words
    assert "too few orders" in words
    shown(house, 1, "b")
    assert "Interruptions at orders 6 over the budget of 5" in vic.words("/admin/feedback")
