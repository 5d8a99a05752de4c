"""The page of how the service runs: what it shows is what calls, cards and admins left in the audit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from console_house import HOUR, ConsoleHouse, console_house, reply, shown
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from evidence_house import START
from state_cases import answer, card

from cds_service.state.watching import population_stability


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ConsoleHouse]:
    with console_house(tmp_path) as made:
        yield made


def order(house: ConsoleHouse, change: dict[str, object] | None = None) -> None:
    """A contrast CT for a patient with a low eGFR, everything sent as prefetch."""
    body = json.loads(contrast_chart(LOW, STEADY, METFORMIN).body(CONTRAST)) | (change or {})
    headers = {"Content-Type": "application/json"}
    got = requests.post(f"{house.base}/cds-services/{CONTRAST}", json.dumps(body), headers=headers, timeout=20)
    assert got.status_code == 200, got.text


def test_evidence_that_was_sent_counts_as_a_hit_and_what_nobody_could_read_by_its_reason(house: ConsoleHouse) -> None:
    body = json.loads(contrast_chart(LOW, STEADY, METFORMIN).body(CONTRAST))
    order(house)
    order(house, {"hookInstance": "b2", "prefetch": {k: v for k, v in body["prefetch"].items() if k != "allergies"}})
    words = house.logged_in("vic").words("/admin/running")
    assert "anonymous allergies 50 % 1 0 no-access 1" in words
    assert "whole call from the first byte to the answer 2" in words


def test_a_local_code_that_nothing_reads_waits_in_the_queue_and_free_text_does_not(house: ConsoleHouse) -> None:
    body = json.loads(contrast_chart(LOW, STEADY, METFORMIN).body(CONTRAST))
    key = next(k for k, v in body["prefetch"].items() if '"Observation"' in json.dumps(v))
    local = {
        "resourceType": "Observation",
        "status": "final",
        "subject": {"reference": f"Patient/{body['context']['patientId']}"},
        "effectiveDateTime": "2026-03-09T08:00:00Z",
        "valueQuantity": {"value": 1.0, "unit": "mg/dL"},
    }
    for name, coding in (("l1", "KREA-7"), ("l2", "smith john")):
        made = local | {"id": name, "code": {"coding": [{"system": "https://lab.example/codes", "code": coding}]}}
        body["prefetch"][key]["entry"].append({"resource": made})
    order(house, {"prefetch": body["prefetch"]})
    visitor = house.logged_in("vic")
    rows = list(csv.DictReader(io.StringIO(visitor.see("/admin/running/unmapped.csv"))))
    assert "unknown-code Observation https://lab.example/codes|KREA-7" in [row["what"] for row in rows]
    page = visitor.see("/admin/running")
    assert "smith" not in page
    link = "/admin/running/code-map.csv?days=7&amp;ehr=anonymous"
    assert link in page
    to_map = visitor.see(link.replace("&amp;", "&"))
    assert to_map.splitlines()[0] == "system,code,target,unit,written"
    assert "https://lab.example/codes,KREA-7,,," in to_map.splitlines()
    assert not any("smith" in row["what"] for row in rows)


def test_acceptance_stands_by_the_type_of_user_the_ehr_names(house: ConsoleHouse) -> None:
    for number, role in enumerate(("Practitioner", "Practitioner", "PractitionerRole")):
        made = answer(card(f"c-{number}"), at=START - HOUR, details={"role": role}, decisions=())
        house.state.record_answer(made, timeout=20)
    reply(house, "c-0", "accepted")
    reply(house, "c-2", "overridden")
    rows = list(csv.DictReader(io.StringIO(house.logged_in("vic").see("/admin/running/roles.csv"))))
    assert [tuple(row.values()) for row in rows] == [
        ("Practitioner", "2", "1", "0"),
        ("PractitionerRole", "1", "0", "1"),
    ]


def test_only_who_may_change_writes_down_an_incident_and_a_switch_set_off_is_one(house: ConsoleHouse) -> None:
    vic = house.logged_in("vic")
    vic.see("/admin/running")
    assert vic.post("/admin/running/incident", what="nothing").status_code == 403
    ada = house.logged_in("ada")
    ada.see("/admin/running")
    assert ada.post("/admin/running/incident", what="<b>wrong unit</b> of D-dimer").status_code == 200
    page = vic.see("/admin/running")
    assert "&lt;b&gt;wrong unit&lt;/b&gt; of D-dimer" in page
    assert "<b>wrong" not in page


def test_a_page_without_any_call_says_so(house: ConsoleHouse) -> None:
    words = house.logged_in("vic").words("/admin/running")
    for said in ("No call was answered", "No card was shown", "Nothing in shadow mode", "No model made an estimate"):
        assert said in words


def test_a_shifted_distribution_has_the_index_worked_out_by_hand() -> None:
    # Two values only, so two bins: 100 of 200 each before; 50 and 150 now.
    # (0.25 - 0.5) ln(0.25 / 0.5) + (0.75 - 0.5) ln(0.75 / 0.5) = 0.17329 + 0.10137 = 0.27465
    before, now = [0.2] * 100 + [0.8] * 100, [0.2] * 50 + [0.8] * 150
    found = population_stability(before, now)
    assert found == pytest.approx(0.27465, abs=1e-4)
    assert population_stability(before, before) == 0
    assert population_stability(before[:99], now) is None


def test_cards_in_shadow_are_told_apart_by_whether_the_service_spoke(house: ConsoleHouse) -> None:
    both = answer(card("live"), card("s1", shadow=True), at=START - HOUR, decisions=())
    house.state.record_answer(both, timeout=20)
    house.state.record_answer(answer(card("s2", shadow=True), at=START - HOUR, decisions=()), timeout=20)
    shown(house, 1)
    assert "IS-01 imaging-safety 2 1 1 50 %" in house.logged_in("vic").words("/admin/running")
