"""A kill-switch holds in every process within a second, over a restart, and says who threw it and why."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from state_cases import until

from cds_service.state.errors import StateError
from cds_service.state.store import Store

WATCHER = """
import sys, time
from pathlib import Path
from cds_service.state.store import Store
with Store.open(sys.argv[1], Path(sys.argv[2]), outbox_bytes=0) as store:
    print("watching", flush=True)
    last = "on"
    while last != "off":
        state = store.switches().state("north", "imaging-safety")
        if state != last:
            print(state, time.time(), flush=True)
            last = state
        time.sleep(0.005)
"""


def test_another_process_obeys_within_a_second(url: str, folder: Path) -> None:
    with Store.open(url, folder, outbox_bytes=0) as store:
        watcher = subprocess.Popen(
            [sys.executable, "-c", WATCHER, url, folder], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        delays = []
        for state in ("shadow", "on", "shadow", "off"):
            said = time.time()
            store.switch("service", "imaging-safety", state, who="dr.a", why="drill")
            assert store.switches().state("north", "imaging-safety") == state  # here at once
            seen, at = watcher.stdout.readline().split()
            assert seen == state
            delays.append(float(at) - said)
        assert watcher.wait(10) == 0
        assert max(delays) <= 1.0, delays


def test_a_switch_holds_over_a_restart_and_its_history_stays(url: str, folder: Path) -> None:
    with Store.open(url, folder, outbox_bytes=0) as store:
        store.switch("product", state="off", who="dr.a", why="recall 7")
        store.switch("product", state="on", who="dr.b", why="recall closed")
        store.switch("rule", "IS-01", "off", who="dr.b", why="wrong threshold")
    with Store.open(url, folder, outbox_bytes=0) as store:
        assert store.switches().state("north", "imaging-safety") == "on"
        assert store.switches().state("north", "imaging-safety", "IS-01") == "off"
        assert [(s.scope, s.name, s.state, s.who, s.why) for s in store.switch_history()] == [
            ("product", "", "off", "dr.a", "recall 7"),
            ("product", "", "on", "dr.b", "recall closed"),
            ("rule", "IS-01", "off", "dr.b", "wrong threshold"),
        ]
        audited = [orjson.loads(line) for line in store.export_audit("")]
        assert [row["kind"] for row in audited] == ["switch"] * 3
        assert orjson.loads(audited[0]["details"])["why"] == "recall 7"
        assert store.verify_audit().ok


def test_the_strictest_word_counts_whoever_said_it(store: Store) -> None:
    def state(tenant: str, rule: str = "") -> str:
        return store.switches().state(tenant, "imaging-safety", rule)

    store.switch("rule", "IS-01", "shadow", who="w", why="y")
    assert (state("north"), state("north", "IS-01"), state("north", "IS-02")) == ("on", "shadow", "on")
    store.switch("service", "imaging-safety", "off", who="w", why="y", tenant="south")
    assert (state("north", "IS-01"), state("south", "IS-01"), state("south")) == ("shadow", "off", "off")
    store.switch("product", state="off", who="w", why="y")
    store.switch("rule", "IS-01", "on", who="w", why="y")
    assert state("north", "IS-01") == "off"


def test_thresholds_change_without_touching_the_switch_and_a_tenants_own_come_first(store: Store) -> None:
    store.switch("service", "cxr", "shadow", who="w", why="y")
    store.switch("service", "cxr", who="w", why="y", thresholds={"pneumonia": 0.4, "effusion": 0.3})
    store.switch("service", "cxr", who="w", why="y", thresholds={"pneumonia": 0.6}, tenant="south")
    switches = store.switches()
    assert switches.state("north", "cxr") == "shadow"
    assert switches.thresholds("north", "cxr") == {"pneumonia": 0.4, "effusion": 0.3}
    assert switches.thresholds("south", "cxr") == {"pneumonia": 0.6, "effusion": 0.3}
    assert switches.thresholds("south", "other") == {}


@pytest.mark.parametrize(
    "word",
    [
        {"scope": "service", "name": "x", "state": "half"},
        {"scope": "service", "name": "", "state": "off"},
        {"scope": "product", "name": "x", "state": "off"},
        {"scope": "ward", "name": "x", "state": "off"},
        {"scope": "service", "name": "x", "state": "off", "why": " "},
        {"scope": "service", "name": "x", "thresholds": {"t": 1.5}},
        {"scope": "service", "name": "x", "thresholds": {"t": float("nan")}},
        {"scope": "rule", "name": "x", "thresholds": {"t": 0.5}},
    ],
)
def test_a_word_that_cannot_be_is_refused_and_changes_nothing(
    sqlite_url: str, folder: Path, word: dict[str, object]
) -> None:
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        with pytest.raises(StateError):
            store.switch(**({"who": "w", "why": "y"} | word))  # type: ignore[arg-type]
        assert store.switch_history() == ()
        assert list(store.switches()) == []


def test_going_back_to_a_model_is_one_word_and_audited(store: Store) -> None:
    for digest in ("aa", "bb", "aa"):
        store.activate_model("chest", digest, who="w", why="roll-out")
    store.activate_model("head", "cc", who="w", why="new")
    assert store.active_models() == {"chest": "aa", "head": "cc"}
    digests = [orjson.loads(line)["model_digest"] for line in store.export_audit("")]
    assert digests == ["aa", "bb", "aa", "cc"]


def test_a_write_that_hangs_does_not_keep_a_process_from_obeying(url: str, folder: Path) -> None:
    with (
        Store.open(url, folder, outbox_bytes=0) as one,
        Store.open(url, folder, outbox_bytes=0) as other,
    ):
        one.switch("product", state="off", who="w", why="y")
        asleep = other._writer.submit(lambda conn: time.sleep(2))
        assert until(lambda: other.switches().state("north", "x") == "off", 2) <= 1.0
        assert not asleep.done()
