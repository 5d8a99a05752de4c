"""The benchmarks measure what they say: their bodies, their arithmetic, and one small run of each kind of work."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import interruptions  # noqa: E402
import mapping  # noqa: E402
import protocol  # noqa: E402
import rig  # noqa: E402
from load import Plan, Sample  # noqa: E402

from cds_service.manifest import load_services  # noqa: E402

JSON = {"Content-Type": "application/json"}


def test_the_exponent_of_a_square_is_two_and_of_a_line_one() -> None:
    assert rig.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2.0)
    assert rig.exponent([100, 1000], [5, 50]) == pytest.approx(1.0)
    assert rig.exponent([1, 10, 100], [7, 7, 7]) == pytest.approx(0.0)


def test_processor_time_is_that_of_the_process_and_not_the_clock() -> None:
    before = rig.cpu_s(os.getpid())
    time.sleep(0.3)
    asleep = rig.cpu_s(os.getpid())
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    awake = rig.cpu_s(os.getpid())
    assert asleep - before < 0.1
    assert awake - asleep >= 0.25


def test_a_failed_call_is_counted_and_its_time_left_out() -> None:
    samples = [Sample(200, 0.010, True), Sample(200, 0.030, True), Sample(503, 9.0, True), Sample(0, 9.0, False)]
    found = rig.summary(samples, 2.0)
    assert (found["calls"], found["failed"], found["per_s"]) == (4, 2, 1.0)
    assert found["p99_ms"] == 30.0


@pytest.mark.parametrize("concerned", [True, False])
def test_the_body_is_an_80_kilobyte_call_with_every_key_the_service_asks_for(concerned: bool) -> None:
    text = protocol.body(concerned=concerned)
    assert 75_000 <= len(text) <= 85_000
    call = json.loads(text)
    assert call["hook"] == "order-sign"
    service = load_services(ROOT / "manifests/services", "non_device").named(protocol.SERVICE)
    assert set(call["prefetch"]) == {key for entry in [service] for key in entry.evidence}


def test_ratios_are_ours_over_theirs_at_that_many_in_flight() -> None:
    def row(server: str, callers: int, per_s: float, p50: float, p99: float, cpu: float) -> dict[str, Any]:
        return {"server": server, "callers": callers, "per_s": per_s, "p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu}

    rows = [
        row("ours, all rules", 32, 50, 9, 30, 8),
        row("HealthChain", 32, 100, 60, 90, 2),
        row("HealthChain", 1, 7, 7, 7, 7),
    ]
    assert protocol.ratios(rows, 32) == {
        "ours, all rules: throughput / HealthChain": 0.5,
        "ours, all rules: p99 / p50 of HealthChain": 0.5,
        "ours, all rules: processor time / HealthChain": 4.0,
    }


def test_a_chart_of_a_size_has_that_many_resources_and_is_read_whole() -> None:
    patient_id, resources = mapping.chart(150)
    assert len(resources) == 150
    assert len({(r["resourceType"], r["id"]) for r in resources}) == 150
    record = mapping.ours(mapping.as_bundle(resources), patient_id)
    assert len(record.labs) > 50
    row = mapping.measure(50, 1)
    assert row["resources"] == 50
    assert row["ours_ms"] > 0
    assert row["fhir_resources_ms"] > 0


def test_the_protocol_is_measured_on_a_running_service_that_checks_its_callers(tmp_path: Path) -> None:
    text = protocol.body(concerned=True)
    manifests = rig.manifests_of(tmp_path / "manifests", [protocol.SERVICE])
    with rig.ordersight(tmp_path / "house", manifests=manifests) as house:
        path = f"/cds-services/{protocol.SERVICE}"
        unsigned = requests.post(f"{house.base}{path}", data=text, headers=JSON, timeout=60)
        assert unsigned.status_code == 401
        signed = rig.loaded(Plan(house.base, path, [text], 2, 0.5, house.tokens(protocol.SERVICE, 200)), house.pid)
        assert signed["calls"] > 0
        assert signed["failed"] == 0
        assert signed["rss_mb"] > 10
        assert house.call(protocol.SERVICE, text).json()["cards"]
        assert house.call(protocol.SERVICE, protocol.body(concerned=False)).json()["cards"] == []


@pytest.mark.parametrize(
    "script", ["protocol", "order", "mapping", "growth", "evidence", "restarts", "engine", "scale"]
)
def test_each_benchmark_is_one_command(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{script}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script).main()
    assert ended.value.code == 0
    assert f"python benchmarks/{script}.py" in capsys.readouterr().out


def test_results_say_when_where_and_with_what(tmp_path: Path) -> None:
    written = json.loads(rig.save("x", {"results": [1]}, ("ordersight",), tmp_path / "x.json").read_text())
    assert {"date", "commit", "cpu", "cores", "load_after", "python", "versions", "results"} <= set(written)


def test_of_sixty_generated_orders_no_more_are_interrupted_than_a_thousand_would_allow() -> None:
    """CLINICAL.md 2.2: 0.5 % of all orders. The full run of 2,000 is in benchmarks/results."""
    found = interruptions.replay(60, 20260302)
    assert sum(kind["orders"] for kind in found["by_kind"].values()) == 60
    assert 0 < sum(kind["any_card"] for kind in found["by_kind"].values()) < 12
    assert found["interrupted"] <= 5
    assert found["by_kind"]["laboratory"]["any_card"] == 0
    said = interruptions.page({**found, "silent_rules": []})
    assert f"{found['interrupted']} of 60 signed orders brought a warning or critical card" in said
    assert "budget of 0.5%" in said
