"""By what a card is known again: the rules, the order and the deciding facts in bands, and never their noise."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from contrast import CT, METFORMIN, STEADY, card_of, chart, creatinine
from hypothesis import given
from hypothesis import strategies as st
from vignettes import imaging_order

from cds_service.advice.writing import band
from cds_service.cards import Basis, Card, Source
from cds_service.fingerprints import again, concept, deciding, named, order_names
from fhir_mappers.read import read_orders

ADVICE = Path(__file__).parents[3] / "cds_service" / "advice"
NOW = "2026-03-10T06:10:00Z"


def calls() -> list[tuple[str, ast.Call]]:
    found = []
    for path in sorted(ADVICE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "card":
                found.append((path.stem, node))
    return found


def test_every_card_of_ours_says_which_facts_decide_it() -> None:
    assert len(calls()) > 25
    silent = [f"{name}:{node.lineno}" for name, node in calls() if "deciding" not in {k.arg for k in node.keywords}]
    assert not silent


def known_by(card: Card) -> tuple[tuple[str, ...], str]:
    assert card.basis is not None
    return card.basis.rules, deciding(card)


@pytest.mark.parametrize(
    ("value", "unit", "same"),
    [(2.7, "mg/dL", True), (230.0, "umol/L", True), (5.4, "mg/dL", False)],
)
def test_a_creatinine_is_news_when_its_kidney_category_is(value: float, unit: str, same: bool) -> None:
    """CKD-EPI 2021, man of the chart: 2.6 and 2.7 mg/dL (230 umol/L is 2.60) are G4, 5.4 mg/dL is below 15, G5."""
    steady = creatinine("o2", value, "2026-03-08T06:00:00Z", unit)
    first = card_of(chart(creatinine("o1", 2.6, NOW), STEADY))
    later = card_of(chart(creatinine("o1", value, NOW, unit), steady))
    assert (known_by(first) == known_by(later)) is same


def test_another_rule_on_the_card_makes_it_another_card() -> None:
    kidney = (creatinine("o1", 2.6, NOW), STEADY)
    assert known_by(card_of(chart(*kidney))) != known_by(card_of(chart(*kidney, METFORMIN)))


def test_an_order_is_the_same_by_its_id_and_orders_the_same_by_its_code() -> None:
    as_of = "2026-03-10T08:00:00+00:00"
    from datetime import datetime

    first, other, plain = (
        read_orders([imaging_order(id_, code, "CT")], datetime.fromisoformat(as_of))
        for id_, code in (("d1", "24628-0"), ("d2", "24628-0"), ("d3", "36643-5"))
    )
    assert order_names(first) != order_names(other)
    assert concept(first) == concept(other) != concept(plain)
    assert CT["id"] in order_names(first)[0]


def table(row: str, basis: Basis | None = None) -> Card:
    detail = f"Why.\n\n| Fact | Value | When | Source |\n| --- | --- | --- | --- |\n{row}\n\nRule X v1"
    return Card("s", "info", Source("l"), detail=detail, basis=basis)


def test_without_bands_of_its_own_the_first_row_decides_numbers_by_doublings_and_dates_whole() -> None:
    row = "| Creatinine | {} mg/dL, {} h old | {} | Laboratory |"
    first = deciding(table(row.format(2.1, 18, "2026-03-10")))
    assert deciding(table(row.format(3.9, 40, "2026-03-12"))) == first
    assert deciding(table(row.format(4.2, 18, "2026-03-10"))) != first
    study = "| CT chest of {} | final | 2026-03-10 | Radiology |"
    assert deciding(table(study.format("2026-02-01"))) != deciding(table(study.format("2026-02-02")))
    assert deciding(table(study.format("2026-02-01"), Basis(("X",), deciding=("mine",)))) == "mine"


@given(st.text(max_size=60))
def test_no_text_of_a_record_breaks_the_bands(text: str) -> None:
    assert isinstance(deciding(table(f"| {text} | {'9' * 400} |  |  |")), str)


@pytest.mark.parametrize(
    ("value", "said"), [(14.9, "under 15"), (15.0, "15 to 30"), (29.9, "15 to 30"), (60.0, "from 60")]
)
def test_a_band_has_its_lower_limit_in_it(value: float, said: str) -> None:
    assert band(value, 15, 30, 45, 60) == said


def test_a_card_said_again_has_the_same_ids_throughout() -> None:
    first = named(card_of(chart(creatinine("o1", 2.6, NOW), STEADY)))
    other = named(card_of(chart(creatinine("o1", 2.6, NOW), STEADY)))
    assert other.uuid != first.uuid
    assert again(other, first.uuid) == first
