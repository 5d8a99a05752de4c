"""Services and rules in the console: what is in force, who switched it and why, and that it holds everywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from console_house import ConsoleHouse, console_house

sys.path.insert(0, str(Path(__file__).parents[1] / "state"))

from state_cases import until

from cds_service.manifest import load_services
from cds_service.state.store import Store

MANIFESTS = Path(__file__).resolve().parents[3] / "manifests" / "services"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ConsoleHouse]:
    with console_house(tmp_path) as made:
        yield made


def test_every_service_and_rule_is_listed_with_owner_version_and_review(house: ConsoleHouse) -> None:
    vic = house.logged_in("vic")
    overview = vic.words("/admin")
    for service in load_services(MANIFESTS).all:
        assert service.title in overview
        page = vic.words(f"/admin/services/{service.id}")
        assert all(hook in page for hook in service.hooks)
        for name, rule in service.rules.items():
            state = "off" if not rule.on else "shadow" if rule.unproven else "on"
            assert f"{name} {state}" in page
            assert rule.owner in page
            assert str(rule.review_by) in page


def test_a_switch_names_who_and_why_and_another_process_heeds_it(house: ConsoleHouse) -> None:
    with Store.open(f"sqlite:///{house.folder / 'state.sqlite'}", house.folder, outbox_bytes=0) as other:
        ada = house.logged_in("ada")
        ada.see("/admin/services/pe-imaging")
        assert ada.post("/admin/switch", scope="service", name="pe-imaging", state="off", why="recall 7").ok
        # A process looks every second for what was said; how soon its thread is run is the machine's.
        until(lambda: other.switches().state("north", "pe-imaging") == "off")
        assert other.switches().state("north", "imaging-safety") == "on"
    page = ada.words("/admin/services/pe-imaging")
    assert "Set for the service off answers with no cards" in page
    assert "pe-imaging off manifest ada recall 7" in page
    (told,) = [a for a in house.audited() if a["kind"] == "switch"]
    assert (told["who"], told["why"], told["name"], told["state"]) == ("ada", "recall 7", "pe-imaging", "off")


def test_a_rule_in_shadow_and_the_product_off_show_the_strictest(house: ConsoleHouse) -> None:
    ada = house.logged_in("ada")
    ada.see("/admin")
    assert ada.post("/admin/switch", scope="rule", name="DT-01", state="shadow", why="silent mode").ok
    assert "DT-01 shadow warning" in ada.words("/admin/services/deterioration")
    assert ada.post("/admin/switch", scope="product", name="", state="off", why="downtime").ok
    assert "DT-01 off warning" in ada.words("/admin/services/deterioration")
    assert "Now off" in ada.words("/admin")


def test_a_rule_whose_share_of_right_cards_is_not_measured_stays_in_shadow_whatever_is_switched(
    house: ConsoleHouse,
) -> None:
    ada = house.logged_in("ada")
    ada.see("/admin")
    assert ada.post("/admin/switch", scope="rule", name="DT-05", state="on", why="impatience").ok
    page = ada.words("/admin/services/deterioration")
    assert "DT-05 shadow info" in page
    assert (
        "In shadow until the manifest states its ppv, the share of right cards in silent mode, of 0.25 or more" in page
    )


def test_thresholds_are_set_by_target_and_level_and_emptied_back_to_the_manifest(house: ConsoleHouse) -> None:
    ada = house.logged_in("ada")
    ada.see("/admin/services/deterioration")
    deterioration = next(s for s in load_services(MANIFESTS).all if s.id == "deterioration")
    path, fields = "/admin/thresholds/deterioration", {"icu_care.info": "0.75", "deterioration_24h.info": ""}
    assert ada.post(path, why="silent mode said so", **fields).ok
    said = house.state.switches().thresholds("", "deterioration")
    assert said == {"icu_care.info": 0.75}
    assert deterioration.under(said).thresholds == {"icu_care": {"info": 0.75}, "deterioration_24h": {"info": 0.30}}
    assert "icu_care.info 0.75 ada" in ada.words("/admin/services/deterioration")
    assert ada.post(path, why="back", **{"icu_care.info": ""}).ok
    assert house.state.switches().thresholds("", "deterioration") == {}
    assert deterioration.under({}) is deterioration


def test_a_threshold_of_a_target_the_manifest_does_not_name_changes_nothing() -> None:
    (service,) = (s for s in load_services(MANIFESTS).all if s.id == "cxr-insight")
    assert service.under({"finding.cat.high": 0.5}) is service
    changed = service.under({"finding.mass.high": 0.5})
    assert changed.thresholds["finding.mass"] == {"high": 0.5, "low": 0.10}
    assert service.thresholds["finding.mass"] == {"high": 0.80, "low": 0.10}


@pytest.mark.parametrize(
    "fields",
    [
        {"scope": "service", "name": "nothing", "state": "off", "why": "x"},
        {"scope": "rule", "name": "XX-01", "state": "off", "why": "x"},
        {"scope": "tenant", "name": "", "state": "off", "why": "x"},
        {"scope": "product", "name": "", "state": "maybe", "why": "x"},
        {"scope": "product", "name": "", "state": "off", "why": "  "},
        {"scope": "product", "name": "", "state": "off"},
    ],
)
def test_a_switch_that_cannot_be_is_refused_and_changes_nothing(house: ConsoleHouse, fields: dict[str, str]) -> None:
    ada = house.logged_in("ada")
    ada.see("/admin")
    assert ada.post("/admin/switch", **fields).status_code == 400
    assert house.state.switch_history() == ()


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "inf", "a lot"])
def test_a_threshold_that_is_no_probability_is_refused(house: ConsoleHouse, value: str) -> None:
    ada = house.logged_in("ada")
    ada.see("/admin")
    answer = ada.post("/admin/thresholds/deterioration", why="x", **{"icu_care.info": value})
    assert (answer.status_code, "probability from 0 to 1" in answer.text) == (400, True)
    assert house.state.switch_history() == ()


def test_what_an_admin_types_stays_text(house: ConsoleHouse) -> None:
    ada = house.logged_in("ada")
    ada.see("/admin")
    hostile = "<script>alert(1)</script>\"'&"
    assert ada.post("/admin/switch", scope="product", name="", state="shadow", why=hostile).ok
    page = ada.see("/admin")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_role_view_sees_no_form_but_logging_out(house: ConsoleHouse) -> None:
    vic = house.logged_in("vic")
    for path in ("/admin", "/admin/services/deterioration"):
        assert vic.see(path).count("<form") == 1
