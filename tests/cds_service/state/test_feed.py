"""The audit reaches the hospital's repository: each row at least once, in order, and no answer waits for it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from audit_repository import Repository, hang, well
from sqlalchemy import select
from state_cases import answer, item, until

from cds_service.settings import Settings, SettingsError
from cds_service.state import feed
from cds_service.state.feed import Repository as Address
from cds_service.state.store import Store
from cds_service.state.tables import audit_refused
from cds_service.trust.origins import read_base


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository() as running:
        yield running


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps in less time: 20 ms for a second, half a second for five."""
    for name, value in (("POLL_S", 0.02), ("FIRST_WAIT_S", 0.02), ("LONGEST_WAIT_S", 0.1), ("SEND_S", 0.5)):
        monkeypatch.setattr(feed, name, value)


@contextmanager
def feeding(url: str, folder: Path, repository: Repository, **more: Any) -> Iterator[Store]:
    address = Address(read_base(repository.base), **more)
    with Store.open(url, folder, outbox_bytes=1 << 16, repository=address) as store:
        yield store


def test_every_row_arrives_once_and_in_the_order_of_its_chain(url: str, folder: Path, repository: Repository) -> None:
    with feeding(url, folder, repository) as store:
        records = [answer(tenant="north" if n % 3 else "south") for n in range(90)]
        for record in records:
            store.record_answer(record)
        store.record_feedback("north", [item("c1")])
        until(lambda: len(repository.got) == 91)
        until(lambda: store.health().unsent_s == 0)
        assert store.feed is not None
        assert store.feed.counts == {"delivered": 91}
    assert repository.sequence("north") == list(range(1, 62))
    assert repository.sequence("south") == list(range(1, 31))
    assert {e["id"] for e in repository.got} >= {r.id for r in records}
    path, headers = repository.asked[0]
    # IHE ITI TF-2 3.20.4.2: POST of an AuditEvent to [base]/AuditEvent
    assert path == "/fhir/AuditEvent"
    assert headers["Content-Type"] == "application/fhir+json"
    assert headers["If-None-Exist"] == f"_tag=urn:ordersight:audit-row|{repository.got[0]['id']}"
    assert repository.got[0]["meta"]["tag"][0]["code"] == repository.got[0]["id"]
    assert "Authorization" not in headers


def test_a_row_that_was_there_before_the_repository_was_named_is_sent_as_well(
    url: str, folder: Path, repository: Repository
) -> None:
    with Store.open(url, folder, outbox_bytes=0) as store:
        store.record_answer(answer())
    with feeding(url, folder, repository) as store:
        store.record_answer(answer())
        until(lambda: repository.sequence("north") == [1, 2])


def test_no_answer_waits_for_a_repository_that_hangs(url: str, folder: Path, repository: Repository) -> None:
    repository.mood = hang(3)
    with feeding(url, folder, repository) as store:
        store.record_answer(answer())
        until(lambda: bool(repository.asked))
        took = []
        for _ in range(20):
            began = time.monotonic()
            store.record_answer(answer())
            took.append(time.monotonic() - began)
        assert sorted(took)[10] < 0.25
        assert store.health().outbox == 0
        until(lambda: store.health().unsent_s > 0.5)
        repository.mood = well
        until(lambda: repository.sequence("north") == list(range(1, 22)))
        until(lambda: store.health().unsent_s == 0)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503, 307])
def test_a_repository_that_fails_is_asked_until_it_is_well_and_nothing_is_set_aside(
    sqlite_url: str, folder: Path, repository: Repository, status: int
) -> None:
    repository.mood = lambda event: status
    with feeding(sqlite_url, folder, repository) as store:
        store.record_answer(answer())
        until(lambda: len(repository.asked) > 2 * feed.MOST_REFUSALS)
        assert not repository.got
        repository.mood = well
        until(lambda: repository.sequence("north") == [1])
        assert store.feed is not None
        assert store.feed.counts["refused"] == 0
        assert store.feed.counts["retried"] >= 2 * feed.MOST_REFUSALS


def test_attempts_are_spread_further_and_further_apart(
    sqlite_url: str, folder: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20, 40, 80 ... ms and 320 ms at most, as without jitter; by hand 20 + 40 + 80 + 160 + 320 + 320 = 940 ms."""
    monkeypatch.setattr(feed, "LONGEST_WAIT_S", 0.32)
    at: list[float] = []
    repository.mood = lambda event: at.append(time.monotonic()) or 503
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        store.record_answer(answer())
        address = Address(read_base(repository.base))
        feeder = feed.AuditFeed(store._engines, store._care, folder, address, jitter=lambda: 1.0)
        feeder.start()
        until(lambda: len(at) == 7)
        feeder.stop()
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert all(gap >= wait for gap, wait in zip(gaps, (0.02, 0.04, 0.08, 0.16, 0.32, 0.32), strict=False))


def test_a_row_the_repository_will_not_have_is_set_aside_and_those_behind_it_get_through(
    url: str, folder: Path, repository: Repository
) -> None:
    records = [answer() for _ in range(5)]
    repository.mood = lambda event: 422 if event["id"] == records[2].id else 201
    with feeding(url, folder, repository) as store:
        for record in records:
            store.record_answer(record)
        until(lambda: repository.sequence("north") == [1, 2, 4, 5])
        with store._engines.overseers.connect() as conn:
            until(lambda: bool(conn.execute(select(audit_refused)).all()))
            (row,) = conn.execute(select(audit_refused)).all()
        assert (row.tenant, row.seq, row.status) == ("north", 3, 422)
        assert len([e for e in repository.asked if records[2].id in e[1]["If-None-Exist"]]) == feed.MOST_REFUSALS
        assert store.feed is not None
        assert store.feed.counts["refused"] == 1
        until(lambda: store.health().unsent_s == 0)


def test_a_tenant_whose_row_is_refused_does_not_hold_up_another(
    url: str, folder: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "FIRST_WAIT_S", 60.0)
    bad = answer(tenant="north")
    repository.mood = lambda event: 400 if event["id"] == bad.id else 201
    with feeding(url, folder, repository) as store:
        store.record_answer(bad)
        until(lambda: bool(repository.asked))
        store.record_answer(answer(tenant="south"))
        until(lambda: repository.sequence("south") == [1])
        assert repository.sequence("north") == []


def test_a_repository_that_is_restarted_gets_what_came_meanwhile(
    url: str, folder: Path, repository: Repository
) -> None:
    with feeding(url, folder, repository) as store:
        store.record_answer(answer())
        until(lambda: repository.sequence("north") == [1])
        repository.stop()
        for _ in range(5):
            store.record_answer(answer())
        assert store.feed is not None
        counts = store.feed.counts
        until(lambda: counts["retried"] > 2)
        repository.start()
        until(lambda: repository.sequence("north") == list(range(1, 7)))


def test_two_processes_send_one_after_the_other(url: str, folder: Path, repository: Repository) -> None:
    with feeding(url, folder, repository) as one, feeding(url, folder, repository) as other:
        for n in range(60):
            (one if n % 2 else other).record_answer(answer())
        until(lambda: len(repository.kept) == 60)
    numbers = [int(d["valueString"]) for e in repository.got for d in e["entity"][0]["detail"] if d["type"] == "seq"]
    assert numbers == list(range(1, 61))


def test_what_was_durable_is_delivered_over_ten_kill_9(
    url: str, folder: Path, repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    durable: list[str] = []
    child = Path(__file__).parent / "feed_child.py"
    for n in range(10):
        # Every third time the repository itself is down while the process dies.
        if n % 3 == 2:
            repository.stop()
        process = subprocess.Popen(
            [sys.executable, child, url, folder, repository.base], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(120)]
        process.kill()
        durable += [line.strip() for line in (*lines, *process.stdout) if line.endswith("\n")]
        process.wait()
        if n % 3 == 2:
            repository.start()
    with feeding(url, folder, repository) as store:
        until(lambda: bool(repository.got) and store.feed is not None and store.health().unsent_s == 0, 30)
        rows = store.verify_audit().rows
        until(lambda: len(repository.kept) >= rows, 30)
    assert set(durable) <= {e["id"] for e in repository.kept.values()}
    assert repository.sequence("north") == list(range(1, rows + 1))
    twice = len(repository.got) - len(repository.kept)
    with capsys.disabled():
        print(f"\n  {len(durable)} answers over 10 kill -9: all delivered, {twice} of them twice")


def test_the_token_is_read_anew_and_goes_to_the_repository_alone(
    sqlite_url: str, folder: Path, repository: Repository, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with feeding(sqlite_url, folder, repository, token_file=token) as store:
        store.record_answer(answer())
        until(lambda: len(repository.got) == 1)
        token.write_text("second")
        store.record_answer(answer())
        until(lambda: len(repository.got) == 2)
    assert [headers["Authorization"] for _, headers in repository.asked] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    "address",
    [
        "http://audit.example.org/fhir",
        "https://user:secret@audit.example.org/fhir",
        "https://audit.example.org/fhir?x=1",
        "https://audit.example.org/../fhir",
        "ftp://audit.example.org",
        "https://2130706433/fhir",
    ],
)
def test_an_address_that_is_not_one_plain_https_base_is_refused_at_start(address: str) -> None:
    with pytest.raises(SettingsError, match="ORDERSIGHT_AUDIT_REPOSITORY"):
        Settings.from_env({"ORDERSIGHT_AUDIT_REPOSITORY": address})


def test_an_event_names_a_patient_by_keyed_hash_alone(sqlite_url: str, folder: Path, repository: Repository) -> None:
    with feeding(sqlite_url, folder, repository) as store:
        key = store.key("patient", "north", "pat-7")
        store.record_answer(answer(patient_key=key))
        until(lambda: len(repository.got) == 1)
    (event,) = repository.got
    assert "pat-7" not in str(event)
    assert key in str(event)


def test_the_feed_keeps_up_with_a_caller_that_never_pauses(
    url: str, folder: Path, repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    with feeding(url, folder, repository) as store:
        began = time.monotonic()
        for _ in range(300):
            store.record_answer(answer(), timeout=5)
        stored_s = time.monotonic() - began
        until(lambda: len(repository.kept) == 300, 30)
        all_s = time.monotonic() - began
    with capsys.disabled():
        print(f"\n  {300 / stored_s:.0f} answers/s stored by one caller, {300 / all_s:.0f}/s delivered")
    assert all_s < 30
