"""`cds-service replay`: what a change of manifests does to kept calls, each difference by hand."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from contrast import LOW, METFORMIN, STEADY, chart
from site_house import of_the_lab, written
from vignettes import SERVICES

from cds_service.cli.errors import CommandError
from cds_service.cli.replay import read_calls, replay

AT = chart(LOW).now


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with calls/, the manifests in force and changed/: imaging-safety alone, the same on both sides."""
    for folder in ("calls", "manifests/services", "changed"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("manifests/services", "changed"):
        shutil.copy(SERVICES / "imaging-safety.yaml", tmp_path / folder)
    for name, resources in {"kidney": (LOW, STEADY), "metformin": (LOW, STEADY, METFORMIN)}.items():
        (tmp_path / "calls" / f"{name}.json").write_bytes(chart(*resources).body("imaging-safety"))
    monkeypatch.setenv("ORDERSIGHT_MANIFESTS", str(tmp_path / "manifests"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def change(site: Path, old: str, new: str) -> None:
    manifest = site / "changed" / "imaging-safety.yaml"
    text = manifest.read_text(encoding="utf-8")
    assert old in text
    manifest.write_text(text.replace(old, new, 1), encoding="utf-8")


def rows(site: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """Rule -> before, after, gained, lost, other tier, other words, calls."""
    replay(site / "calls", against=site / "changed", at=AT)
    said = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if line[:1] == "│"]
    return {line[1]: line[2:] for line in lines} | {"": [said.splitlines()[-1]]}


def test_manifests_that_do_not_differ_change_no_card(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(site, capsys)
    assert sum(int(cells[0]) for rule, cells in found.items() if rule) == 2
    assert all(cells[2:6] == ["0"] * 4 for rule, cells in found.items() if rule)


def test_a_changed_code_map_gains_the_card_of_a_result_under_a_local_code(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = [of_the_lab(LOW), of_the_lab(STEADY)]
    (site / "calls" / "local.json").write_bytes(chart(*local).body("imaging-safety"))
    written(site / "manifests" / "sites", "{}", tenant="general")
    written(site / "sites", tenant="general")
    replay(site / "calls", against=site / "changed", at=AT, site="general")
    said = capsys.readouterr().out
    (row,) = [line for line in said.splitlines() if "IS-01 " in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][1:5] == ["IS-01", "1", "2", "1"]
    with pytest.raises(CommandError, match=r"has no elsewhere\.yaml"):
        replay(site / "calls", against=site / "changed", at=AT, site="elsewhere")


def test_a_rule_switched_off_loses_its_cards_and_the_calls_are_named(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(site, "  IS-01:\n", "  IS-01:\n    on: false\n")
    change(site, "  IS-03:\n", "  IS-03:\n    on: false\n")
    found = rows(site, capsys)
    assert all(cells[1] == "0" for rule, cells in found.items() if rule.startswith("IS-01"))
    assert "kidney.json" in " ".join(cells[-1] for cells in found.values())
    assert found[""] == ["2 calls; with a warning or critical card: 2 before, 0 after"]


def test_a_tier_that_was_lowered_is_another_tier_and_no_lost_card(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(site, "tier: warning", "tier: info")
    found = rows(site, capsys)
    assert found["IS-01"][2:5] == ["0", "0", "1"]


def test_a_kept_call_is_never_fetched_for_and_what_is_none_is_told_by_file(site: Path) -> None:
    text = (site / "calls" / "kidney.json").read_text()
    (site / "calls" / "kidney.json").write_text('{"fhirServer": "https://ehr.example.org/fhir", ' + text[1:])
    calls = dict(read_calls(site / "calls", datetime(2026, 3, 10, tzinfo=UTC)))
    assert {call.fhir_server for call in calls.values()} == {None}
    (site / "calls" / "letter.json").write_text("Dear colleague")
    with pytest.raises(CommandError, match=r"letter\.json"):
        replay(site / "calls", against=site / "changed", at=AT)
    with pytest.raises(CommandError, match="zone"):
        replay(site / "calls", against=site / "changed", at="2026-03-10")
