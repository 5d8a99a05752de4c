"""Models and the audit in the console."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from pathlib import Path

import pytest
from console_house import ConsoleHouse, Visitor, console_house
from evidence_house import START, words_of

sys.path.insert(0, str(Path(__file__).parents[1] / "state"))

from state_cases import answer

MODELS = Path(__file__).resolve().parents[3] / "manifests" / "models"
DAY = {"since": "2026-03-10T00:00", "until": "2026-03-10T13:59", "why": "complaint 12"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ConsoleHouse]:
    with console_house(tmp_path) as made:
        for hours, service, patient in ((1, "pe-imaging", "p1"), (2, "deterioration", "p2"), (48, "pe-imaging", "p1")):
            record = answer(
                at=START - timedelta(hours=hours),
                service=service,
                hook_instance=f"hook-{hours}",
                patient_key=made.state.key("patient", "north", patient),
                user_key=made.state.key("user", "north", "Practitioner/7"),
            )
            made.state.record_answer(record, timeout=20)
        yield made


def found(visitor: Visitor, **fields: str) -> set[str]:
    """The hook instances a search shows."""
    visitor.see("/admin/audit")
    shown = visitor.post("/admin/audit", **(DAY | fields))
    assert shown.status_code == 200, shown.text
    return {h for h in ("hook-1", "hook-2", "hook-48") if f'"mono soft">{h}</span>' in shown.text}


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({}, {"hook-1", "hook-2"}),
        ({"since": "2026-03-01T00:00"}, {"hook-1", "hook-2", "hook-48"}),
        ({"until": "2026-03-10T12:00"}, {"hook-2"}),
        ({"service": "pe-imaging"}, {"hook-1"}),
        ({"hook_instance": "hook-2"}, {"hook-2"}),
        ({"hook_instance": "hook-2' OR '1'='1"}, set()),
        ({"tenant": "north", "patient": "Patient/p1"}, {"hook-1"}),
        ({"tenant": "south", "patient": "p1"}, set()),
        ({"tenant": "north", "user": "Practitioner/7"}, {"hook-1", "hook-2"}),
        ({"kind": "switch"}, set()),
    ],
)
def test_a_search_finds_what_fits_and_nothing_else(house: ConsoleHouse, fields: dict[str, str], rows: set[str]) -> None:
    assert found(house.logged_in("vic"), **fields) == rows


def test_a_search_is_audited_with_its_reason_and_without_the_patients_id(house: ConsoleHouse) -> None:
    found(house.logged_in("vic"), tenant="north", patient="p1")
    told = house.audited()
    raw = b"".join(house.state.export_audit(""))
    assert b"p1" not in raw
    (said,) = [a for a in told if a.get("did") == "audit searched"]
    assert (said["who"], said["why"]) == ("vic", "complaint 12")
    assert said["patient_key"] == house.state.key("patient", "north", "p1")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"why": " "}, "Say why"),
        ({"since": "yesterday"}, "A time is written"),
        ({"patient": "p1"}, "by the tenant as well"),
    ],
)
def test_a_search_without_reason_time_or_tenant_shows_nothing(
    house: ConsoleHouse, fields: dict[str, str], told: str
) -> None:
    vic = house.logged_in("vic")
    vic.see("/admin/audit")
    refused = vic.post("/admin/audit", **(DAY | fields))
    assert (refused.status_code, told in refused.text, "hook-1" in refused.text) == (400, True, False)
    assert not [a for a in house.audited() if a.get("did") == "audit searched"]


def test_the_page_of_models_shows_each_card_with_its_own_figures(house: ConsoleHouse) -> None:
    page = unescape(words_of(house.logged_in("vic").see("/admin/models")))
    for name in ("chest-open", "chest-generated"):
        card = json.loads((MODELS / name / "model.json").read_text())
        assert card["weights"]["sha256"] in page
        for target, figures in card["targets"].items():
            auroc = figures["figures"]["auroc"]
            wanted = f"{auroc['value']:.2f} ({auroc['low']:.2f}–{auroc['high']:.2f})"
            assert wanted in page[page.index(f" {target} {figures['standing']}") :][:400]
            assert all(limit in page for limit in figures["limits"])
        assert all(source["title"] in page for source in card["sources"])
