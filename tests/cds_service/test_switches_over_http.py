"""A kill-switch is obeyed by the next call but one second: off, shadow and thresholds, by service, rule and tenant."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from contexts import call
from findings import Ward, service
from served import served
from typer.testing import CliRunner

from cds_service.cli.errors import CommandError
from cds_service.cli.main import assemble
from cds_service.manifest import Rule, Service
from cds_service.state.store import Store
from cds_service.state.switches import Switches
from cds_service.switched import in_force

TWO = service("one", A_01="warning", A_02="info")
Make = Callable[..., Ward]
WHO = {"who": "the committee", "why": "a test"}


@pytest.fixture
def ward(plugin: Path, tmp_path: Path) -> Iterator[Make]:
    made: list[Ward] = []

    def make(*services: Any, **settings: Any) -> Ward:
        made.append(Ward(tmp_path, *(services or (TWO,)), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def shown(w: Ward) -> list[str]:
    """Which rules speak now; each time another patient's, so that nothing was said before."""
    w.wait(minutes=1)
    return [card["summary"].split()[0] for card in w.cards("one", patient=f"p{w.now.timestamp():.0f}")]


def last(w: Ward) -> Any:
    *_, row = (r for r in map(orjson.loads, w.state.export_audit()) if r["kind"] == "answer")
    return [(d["rule"], d["outcome"], d["cause"]) for d in json.loads(row["decisions"])]


def report(w: Ward, rule: str) -> Any:
    rows = w.state.feedback_report(w.now.replace(year=2025), w.now.replace(year=2027)).rows
    return next(row for row in rows if row.rule == rule)


@pytest.mark.parametrize("word", [("service", "one"), ("product", "")])
def test_a_service_that_is_off_says_nothing_and_leaves_its_trace(ward: Make, word: Any) -> None:
    w = ward()
    assert shown(w) == ["A-01"]
    w.state.switch(*word, "off", **WHO)
    assert shown(w) == []
    assert last(w) == [("", "silent", "switched off")]
    w.state.switch(*word, "on", **WHO)
    assert shown(w) == ["A-01"]


def test_a_service_in_shadow_works_everything_out_and_says_nothing(ward: Make) -> None:
    w = ward()
    w.state.switch("service", "one", "shadow", **WHO)
    assert shown(w) == []
    assert last(w) == [("A-01", "fired", "shadow"), ("A-02", "fired", "shadow")]
    assert (report(w, "A-01").shown, report(w, "A-01").shadow) == (0, 1)


def test_a_rule_that_is_off_is_as_if_it_were_not_there(ward: Make) -> None:
    w = ward()
    w.state.switch("rule", "A-01", "off", **WHO)
    assert shown(w) == ["A-02"]
    assert last(w) == [("A-02", "fired", "")]


def test_a_rule_in_shadow_is_tried_beside_the_others_and_takes_no_place(ward: Make) -> None:
    w = ward()
    w.state.switch("rule", "A-01", "shadow", **WHO)
    assert shown(w) == ["A-02"]
    assert last(w) == [("A-02", "fired", ""), ("A-01", "fired", "shadow")]
    assert (report(w, "A-01").shadow, report(w, "A-01").shown, report(w, "A-02").shown) == (1, 0, 1)


def test_a_card_in_shadow_silences_nothing_once_its_rule_is_on(ward: Make) -> None:
    w = ward()
    w.state.switch("rule", "A-01", "shadow", **WHO)
    w.cards("one", patient="p1")
    w.state.switch("rule", "A-01", "on", **WHO)
    w.wait(minutes=1)
    assert [card["summary"] for card in w.cards("one", patient="p1")] == ["A-01 at mild"]


def test_a_switch_of_another_tenant_changes_nothing_here(ward: Make) -> None:
    w = ward()
    w.state.switch("service", "one", "off", tenant="elsewhere", **WHO)
    assert shown(w) == ["A-01"]
    w.state.switch("service", "one", "off", tenant="anonymous", **WHO)
    assert shown(w) == []


def test_thresholds_of_an_administrator_replace_the_manifests(ward: Make) -> None:
    rule = Rule("info", "c", "https://example.org", "o", date(2027, 1, 1))
    made = Service(
        *("one", ("patient-view",), "t", "d", "finding", {}, {"A-01": rule}),
        thresholds={"icu_care": {"info": 0.5, "warning": 0.8}},
    )
    w = ward()
    w.state.switch("service", "one", thresholds={"icu_care.info": 0.6, "unknown.info": 0.1}, **WHO)
    changed = in_force(made, w.state.switches(), "anonymous").service
    assert changed.thresholds == {"icu_care": {"info": 0.6, "warning": 0.8}}
    assert in_force(made, Switches(), "anonymous").service is made


# By command -----------------------------------------------------------------------------------


class Shell:
    def __init__(self, folder: Path, manifests: Path) -> None:
        self.env = {"ORDERSIGHT_STATE_DIR": str(folder), "ORDERSIGHT_MANIFESTS": str(manifests), "COLUMNS": "250"}

    def __call__(self, *words: str, wrong: bool = False) -> str:
        done = CliRunner().invoke(assemble(words), list(words), env=self.env)
        if wrong:
            assert isinstance(done.exception, CommandError), (done.output, done.exception)
            return str(done.exception)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output


MANIFEST = """
id: one
hooks: [order-sign]
title: One
description: A service of the tests.
advice: finding
evidence: {}
thresholds: {icu_care: {info: 0.5}}
rules:
  A-01: {tier: warning, citation: c, url: "https://example.org", owner: o, review_by: 2027-01-01}
  PGX: {tier: info, citation: c, url: "https://example.org", owner: o, review_by: 2027-01-01}
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "manifests" / "services").mkdir(parents=True)
    (tmp_path / "manifests" / "services" / "one.yaml").write_text(MANIFEST)
    return Shell(tmp_path / "state", tmp_path / "manifests")


@pytest.mark.in_time
def test_a_switch_by_command_holds_in_the_running_service_within_a_second(ward: Make, shell: Shell) -> None:
    w = ward()
    assert shown(w) == ["A-01"]
    for words, rules in ((("one/A-01", "off"), ["A-02"]), (("all", "off"), []), (("all", "on"), ["A-02"])):
        assert "in force within a second" in shell("switch", *words, "--why", "the analyser was changed")
        time.sleep(1.0)
        assert shown(w) == rules
    told = shell("switches", "--history")
    assert told.count("the analyser was changed") == 3
    assert w.state.verify_audit().ok


@pytest.mark.in_time
def test_a_switch_is_obeyed_by_every_process_within_a_second(plugin: Path, tmp_path: Path) -> None:
    manifest = {"hooks": ["patient-view"], "advice": "other", "evidence": {}}
    shared = {"state_dir": str(tmp_path / "state")}
    with contextlib.ExitStack() as running:
        urls = [
            running.enter_context(served(tmp_path / name, {"one": manifest}, **shared)).url
            for name in ("first", "second")
        ]
        store = running.enter_context(Store.open(f"sqlite:///{tmp_path / 'state' / 'state.sqlite'}", outbox_bytes=0))

        def cards() -> list[int]:
            post = [requests.post(f"{url}/cds-services/one", json=call("patient-view"), timeout=20) for url in urls]
            return [len(response.json()["cards"]) for response in post]

        assert cards() == [1, 1]
        for state, expected in (("off", [0, 0]), ("on", [1, 1]), ("off", [0, 0])):
            store.switch("service", "one", state, **WHO)
            time.sleep(1.0)
            assert cards() == expected
        assert store.verify_audit().ok


def test_a_threshold_by_command_adds_to_those_set_before(ward: Make, shell: Shell) -> None:
    w = ward()
    assert "icu_care.info 0.7" in shell("switch", "one", "--threshold", "icu_care.info=0.7", "--why", "recalibrated")
    assert "icu_care.info 0.7" in shell("switch", "one", "shadow", "--why", "watched")
    until = time.monotonic() + 5
    while w.state.switches().state("", "one") != "shadow" and time.monotonic() < until:
        time.sleep(0.05)
    assert w.state.switches().thresholds("", "one") == {"icu_care.info": 0.7}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("switch", "one", "off"), "say why"),
        (("switch", "one", "--why", "x"), "say on, off or shadow"),
        (("switch", "two", "off", "--why", "x"), "there are one"),
        (("switch", "one/A-07", "off", "--why", "x"), "it has A-01, PGX"),
        (("switch", "one", "--threshold", "icu.info=0.7", "--why", "x"), "icu_care.info"),
        (("switch", "one", "--threshold", "icu_care.info=7", "--why", "x"), "0 to 1"),
    ],
)
def test_a_switch_of_what_is_not_there_is_refused_and_says_what_is(
    shell: Shell, words: tuple[str, ...], said: str
) -> None:
    assert said in shell(*words, wrong=True)


def test_a_row_of_a_table_of_rules_can_be_switched_by_itself(shell: Shell) -> None:
    assert "PGX-010 is off" in shell("switch", "one/PGX-010", "off", "--why", "superseded")
