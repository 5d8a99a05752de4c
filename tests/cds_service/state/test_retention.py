"""Nothing is kept past its term, and one patient can be forgotten: proved on the bytes."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from postgres_cluster import as_superuser
from state_cases import NOW, answer, card, item

from cds_service.state.backup import tool
from cds_service.state.errors import StateUnavailable
from cds_service.state.outbox import Outbox
from cds_service.state.retention import Terms
from cds_service.state.store import Store, now_utc

YEAR = timedelta(days=365)
TERMS = Terms()


def dump(url: str, folder: Path) -> bytes:
    """Everything the database keeps: SQLite's files byte for byte, PostgreSQL's dump."""
    if url.startswith("sqlite"):
        return b"".join(path.read_bytes() for path in sorted(folder.glob("state.sqlite*")))
    command = [tool("pg_dump"), as_superuser(url)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_a_run_leaves_nothing_past_its_term_and_everything_within(store: Store) -> None:
    now = now_utc()
    for years in (7, 5, 3, 1):
        at = now - years * YEAR
        store.record_answer(answer(card(f"c{years}", fingerprint=f"f{years}"), at=at, hook_instance=str(years)))
    store.record_feedback("north", [item("c1"), item("nobodys")])
    store.suppress("north", "over", now - YEAR, "later")
    store.suppress("north", "lasting", None, "does not apply")
    store.use_jti("iss", "old", now - timedelta(hours=2), now - timedelta(hours=2))
    store.use_jti("iss", "fresh", now + timedelta(hours=1), now)

    counted = store.retention(now, dry_run=True)
    removed = store.retention(now, dry_run=False)
    assert counted == removed
    # Two years for predictions (two per answer): the 7, 5 and 3 year old go. Six years for the rest: the oldest goes.
    films = {"film_cache": 0, "film_jobs": 0}
    others = {"predictions": 6, "feedback": 0, "cards_shown": 1, "suppression": 1, "jti": 1, "audit": 1}
    assert removed == others | films
    assert all(rows == 0 for rows in store.retention(now, dry_run=True).values())
    assert store.verify_audit().ok

    instances = [orjson.loads(line)["hook_instance"] for line in store.export_audit("north")]
    assert instances == ["5", "3", "1", "", ""]  # then the feedback, then the run's own word on the chain's new start
    assert store.seen("north", ["lasting"], "u", now)["lasting"].silence is not None
    assert not store.use_jti("iss", "fresh", now, now)

    later = now + timedelta(days=TERMS.unmatched + 1)
    assert store.retention(later, dry_run=False)["feedback"] == 1  # the parked one; the matched stays
    assert [row["card"] for row in store.export_feedback()] == ["c1"]


def test_a_long_chain_is_cut_in_batches_and_holds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cds_service.state.retention.BATCH", 7)
    now = now_utc()
    for n in range(30):
        store.record_answer(answer(card(f"old{n}"), at=now - 8 * YEAR))
    for n in range(3):
        store.record_answer(answer(card(f"new{n}"), at=now))
    store.record_answer(answer(tenant="south", at=now - 8 * YEAR))
    assert store.retention(now, dry_run=False)["audit"] == 31
    verdict = store.verify_audit()
    assert verdict.ok
    assert {tenant: seq for tenant, (seq, _) in verdict.heads.items()} == {"": 1, "north": 34, "south": 2}
    # A second cut starts where the first ended.
    assert store.retention(now + 7 * YEAR, dry_run=False)["audit"] > 3
    assert store.verify_audit().ok


def test_an_erased_patient_is_in_no_byte_but_the_audits(url: str, folder: Path) -> None:
    with Store.open(url, folder, outbox_bytes=1 << 16) as store:
        patient = store.key("patient", "north", "pat-7")
        other = store.key("patient", "north", "pat-8")
        print_ = store.fingerprint("north", "pat-7", "IS-01", "24627-2", "eGFR 30-44")
        canary = card("card-of-seven", fingerprint=print_, suggestions=("suggestion-of-seven",))
        store.record_answer(answer(canary, patient_key=patient, user_key="u"))
        store.record_answer(answer(card("card-of-eight", fingerprint="f8"), patient_key=other, user_key="u"))
        said = item("card-of-seven", "overridden", comment="CANARY free text about seven")
        store.record_feedback("north", [said, item("card-of-eight", comment="about eight")])
        store.suppress("north", print_, None, "does not apply")
        assert b"CANARY free text" in dump(url, folder)

        erased = store.erase("north", patient)
        films = {"film_cache": 0, "film_jobs": 0}
        others = {"feedback": 1, "cards_shown": 1, "predictions": 2, "suppression": 1, "evidence": 0}
        assert erased.removed == others | films
        assert erased.audit_rows == 2  # the answer, and the row that says it was erased
        left = dump(url, folder)
        for trace in (b"CANARY", print_.encode(), b"suggestion-of-seven"):
            assert trace not in left
        assert b"about eight" in left
        assert store.verify_audit().ok
        assert store.seen("north", [print_], "u", NOW)[print_].silence is None
        again = store.erase("north", patient)
        assert set(again.removed.values()) == {0}
        # The patient's own id was never written at all.
        assert b"pat-7" not in dump(url, folder)


def test_nobody_is_erased_at_another_tenant(store: Store) -> None:
    key = store.key("patient", "north", "pat-7")
    store.record_answer(answer(card("c1"), patient_key=key))
    assert store.erase("south", key).removed["cards_shown"] == 0
    assert store.feedback_report(NOW - YEAR, NOW + YEAR).rows[0].shown == 1


def test_erasing_waits_while_an_outbox_could_bring_the_patient_back(store: Store, folder: Path) -> None:
    beside = Outbox.open(folder, 1 << 16)  # another process's
    beside.append(b"{}")
    with pytest.raises(StateUnavailable, match="outbox"):
        store.erase("north", "k")
    beside.close()
    assert store.erase("north", "k").audit_rows == 1
    assert (folder / "outbox-refused.jsonl").read_bytes() == b"{}\n"
