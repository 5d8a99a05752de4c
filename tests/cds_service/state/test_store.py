"""What the store promises a call, on both databases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import orjson
import pytest
from state_cases import LATER, NOW, answer, card, item

from cds_service.state.errors import StateUnavailable
from cds_service.state.records import FeedbackResult, Reason
from cds_service.state.store import Store

DAY = timedelta(days=1)


def test_of_eight_callers_with_one_token_exactly_one_gets_in(store: Store) -> None:
    for attempt in range(20):
        start = Barrier(8)

        def use(_: int, token: str = f"jti-{attempt}", start: Barrier = start) -> bool:
            start.wait()
            return store.use_jti("https://ehr.example.org", token, LATER, NOW)

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(use, range(8))) == [False] * 7 + [True]


def test_a_used_token_stays_used_after_a_restart_and_belongs_to_its_issuer(url: str, folder: Path) -> None:
    with Store.open(url, folder, outbox_bytes=0) as first:
        assert first.use_jti("https://a.example.org", "one", LATER, NOW)
    with Store.open(url, folder, outbox_bytes=0) as second:
        assert not second.use_jti("https://a.example.org", "one", LATER, NOW)
        assert second.use_jti("https://b.example.org", "one", LATER, NOW)
        # Lengths are hashed too: these two share their concatenation.
        assert second.use_jti("https://b.example.org/x", "y", LATER, NOW)
        assert second.use_jti("https://b.example.org/", "xy", LATER, NOW)


def test_an_answer_leaves_its_audit_row_predictions_and_cards(store: Store) -> None:
    shown = card("c1", fingerprint="f1")
    store.record_answer(answer(shown, patient_key="p1"))
    (row,) = (orjson.loads(line) for line in store.export_audit())
    assert (row["tenant"], row["seq"], row["hook"], row["status"]) == ("north", 1, "order-sign", 200)
    assert orjson.loads(row["cards"]) == ["c1"]
    assert orjson.loads(row["decisions"])[1] == {
        "rule": "IS-02",
        "outcome": "silent",
        "cause": "eGFR is 88",
        "version": "",
        "tier": "",
    }
    assert orjson.loads(row["ms"]) == {"evidence": 120, "model": 35}
    counted = store.retention(NOW + 10_000 * DAY, dry_run=True)
    assert (counted["predictions"], counted["cards_shown"]) == (2, 1)


def test_the_same_answer_stored_twice_is_one_answer(store: Store) -> None:
    record = answer(card("c1"))
    store.record_answer(record)
    store.record_answer(record)
    assert store.verify_audit().rows == 1


def test_five_repeats_of_a_batch_are_one_and_it_counts_once(store: Store) -> None:
    store.record_answer(answer(card("c1", suggestions=("s1", "s2"))))
    batch = [item("c1", suggestions=("s1", "s2"))]
    results = [store.record_feedback("north", batch) for _ in range(5)]
    assert results == [FeedbackResult(2, 0, 0)] + [FeedbackResult(0, 2, 0)] * 4
    assert len(list(store.export_feedback())) == 2
    (row,) = store.feedback_report(NOW - DAY, NOW + DAY).rows
    assert (row.shown, row.accepted, row.overridden, row.unanswered) == (1, 1, 0, 0)


def test_the_newest_outcome_of_a_card_counts_in_whatever_order_it_arrives(store: Store) -> None:
    store.record_answer(answer(card("c1"), card("c2"), card("c3")))
    store.record_feedback("north", [item("c1", "accepted", minutes=5)])
    store.record_feedback("north", [item("c1", "overridden", minutes=2, reasons=(Reason("patient-refuses"),))])
    store.record_feedback(
        "north",
        [item("c2", "overridden", minutes=3, reasons=(Reason("risk-benefit-ratio"), Reason("site-7", "urn:ehr")))],
    )
    (row,) = store.feedback_report(NOW - DAY, NOW + DAY).rows
    assert (row.shown, row.accepted, row.overridden, row.unanswered) == (3, 1, 1, 1)
    assert row.reasons == {"risk-benefit-ratio": 1, "site-7": 1}
    assert row.answer_s == 240  # the median of 5 and 3 minutes


def test_feedback_on_a_card_nobody_sent_is_parked_and_counts_nowhere(store: Store) -> None:
    store.record_answer(answer(card("c1"), card("hidden", shadow=True)))
    strange = [item("never-sent"), item("hidden"), item("c1")]
    assert store.record_feedback("north", strange) == FeedbackResult(3, 0, 2)
    report = store.feedback_report(NOW - DAY, NOW + 10_000 * DAY)
    assert [(r.shown, r.accepted) for r in report.rows] == [(1, 1)]
    assert report.unmatched == 2


def test_another_tenants_card_is_as_unknown_as_one_that_never_was(store: Store) -> None:
    store.record_answer(answer(card("c1")), timeout=30.0)  # into the database, however slow, and not the outbox
    before = store.feedback_report(NOW - DAY, NOW + DAY, tenant="north")
    theirs = store.record_feedback("south", [item("c1", "overridden")])
    assert theirs == store.record_feedback("south", [item("nobodys", "overridden")]) == FeedbackResult(1, 0, 1)
    assert store.feedback_report(NOW - DAY, NOW + DAY, tenant="north") == before
    assert store.feedback_report(NOW - DAY, NOW + DAY, tenant="south").rows == ()
    assert [row["tenant"] for row in store.export_feedback("north")] == []


def test_tenants_do_not_see_each_others_cards_silences_or_audit(store: Store) -> None:
    store.record_answer(answer(card("c1", fingerprint="f"), user_key="u"))
    store.suppress("north", "f", None, "does not apply")
    assert store.seen("south", ["f"], "u", NOW)["f"].shown is None
    assert store.seen("south", ["f"], "u", NOW)["f"].silence is None
    assert list(store.export_audit("south")) == []
    assert store.key("patient", "north", "1") != store.key("patient", "south", "1")


def test_feedback_to_another_service_than_the_cards_own_is_not_counted(store: Store) -> None:
    store.record_answer(answer(card("c1"), service="imaging-safety"))
    assert store.record_feedback("north", [item("c1")], service="deterioration").unmatched == 1
    assert store.feedback_report(NOW - DAY, NOW + DAY).rows[0].accepted == 0


def test_an_outcome_the_standard_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="accepted or overridden"):
        item("c1", "ignored")


def test_text_no_database_can_hold_is_made_storable(store: Store) -> None:
    store.record_answer(answer(card("c1"), hook_instance="a\0b" + "c" * 1000))
    said = item("c1", "overridden", comment="nul \0 and \ud800 surrogate " + "x" * 9000, reasons=(Reason("\0"),))
    assert store.record_feedback("north", [said]) == FeedbackResult(1, 0, 0)
    assert store.record_feedback("north", [said]) == FeedbackResult(0, 1, 0)
    (row,) = store.export_feedback(comments=True)
    assert row["comment"].startswith("nul \ufffd and ? surrogate")
    assert len(row["comment"]) == 4000
    assert store.verify_audit().ok


def test_a_batch_longer_than_a_statement_may_have_parameters_is_stored(store: Store) -> None:
    store.record_answer(answer(card("c1")))
    batch = [item(f"c{n}") for n in range(1_500)]
    assert store.record_feedback("north", batch, timeout=30) == FeedbackResult(1_500, 0, 1_499)


def test_comments_are_exported_only_when_asked_for(store: Store) -> None:
    store.record_answer(answer(card("c1")))
    store.record_feedback("north", [item("c1", "overridden", comment="free text")])
    assert "free text" not in str(list(store.export_feedback()))
    assert "free text" in str(list(store.export_feedback(comments=True)))


def test_a_finding_is_remembered_with_what_its_user_answered(store: Store) -> None:
    store.record_answer(answer(card("old", fingerprint="f"), user_key="u", encounter_key="e1"))
    store.record_answer(answer(card("new", fingerprint="f"), user_key="u", encounter_key="e2", at=NOW + DAY))
    store.record_answer(answer(card("other", fingerprint="f"), user_key="v", at=NOW + 2 * DAY))
    store.record_feedback("north", [item("new", "overridden", reasons=(Reason("need-more-info"),))])
    shown = store.seen("north", ["f", "g"], "u", NOW)["f"].shown
    assert shown is not None
    assert (shown.card, shown.encounter_key, shown.outcome, shown.reasons) == (
        "new",
        "e2",
        "overridden",
        ("need-more-info",),
    )
    assert store.seen("north", ["f", "g"], "u", NOW)["g"].shown is None


def test_a_silence_holds_until_its_time_for_its_user_or_for_everybody(store: Store) -> None:
    store.suppress("north", "mine", NOW + DAY, "later", user_key="u")
    store.suppress("north", "all", None, "does not apply")

    def silent(fingerprint: str, user: str, at_day: int) -> bool:
        return store.seen("north", [fingerprint], user, NOW + at_day * DAY)[fingerprint].silence is not None

    assert silent("mine", "u", 0)
    assert not silent("mine", "v", 0)
    assert not silent("mine", "u", 1)
    assert silent("all", "u", 5000)
    store.suppress("north", "mine", NOW + 3 * DAY, "later", user_key="u")
    assert silent("mine", "u", 2)


def test_an_answer_with_the_same_facts_has_the_same_fingerprint_and_another_band_another(store: Store) -> None:
    same = [store.fingerprint("north", "p1", "IS-01", "24627-2", "eGFR 30-44") for _ in range(2)]
    assert same[0] == same[1] != store.fingerprint("north", "p1", "IS-01", "24627-2", "eGFR 15-29")
    assert "p1" not in same[0]


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        answer(at=NOW.replace(tzinfo=None))


def test_group_commit_throughput_is_printed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.record_answer(answer(card("c1")))
    count, workers = 600, 16
    waits: list[float] = []

    def send(n: int) -> None:
        started = time.perf_counter()
        store.record_feedback("north", [item("c1", minutes=n)], timeout=30)
        waits.append(time.perf_counter() - started)

    commits, started = store._writer.commits, time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(send, range(count)))
    seconds = time.perf_counter() - started
    commits = store._writer.commits - commits
    with capsys.disabled():
        waits.sort()
        print(
            f"\n{store._engines.url.get_backend_name()}: {count / seconds:.0f} acknowledged/s from {workers} threads, "
            f"{commits} commits, p50 {waits[count // 2] * 1e3:.1f} ms, p99 {waits[count * 99 // 100] * 1e3:.1f} ms"
        )
    assert len(list(store.export_feedback())) == count
    assert commits < count  # several callers shared a commit


def test_too_many_waiting_writes_are_refused_at_once(store: Store) -> None:
    hold = store._writer.submit(lambda conn: time.sleep(1))
    while store._writer._jobs.qsize():
        time.sleep(0.01)
    store._writer._jobs.maxsize = 3
    futures = [store._writer.submit(lambda conn: None) for _ in range(3)]
    with pytest.raises(StateUnavailable, match="too many"):
        store.record_feedback("north", [item("c1")])
    hold.result(10)
    assert all(f.result(10) is None for f in futures)
