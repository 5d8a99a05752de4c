"""The queue of quality and what a model said before, on either database, each tenant's apart."""

from __future__ import annotations

from datetime import timedelta

from state_cases import NOW, answer, card, item

from cds_service.state.desk import Desk
from cds_service.state.quality import CLOSED, queue
from cds_service.state.recall import earlier
from cds_service.state.records import Decision, Earlier, Prediction, Reason
from cds_service.state.store import Store

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
DENIED = (Decision("CX-04", "silent", "model and final report disagree: effusion", tier="info"),)


def test_overrides_and_disagreements_are_items_until_somebody_says_what_was_found(store: Store) -> None:
    wrong, fine = card("c1"), card("c2")
    store.record_answer(answer(wrong, fine, hook_instance="call-1"))
    store.record_answer(answer(decisions=DENIED, patient_key="p", at=NOW, hook_instance="call-2"))
    store.record_answer(answer(decisions=DENIED, patient_key="p", at=NOW + MINUTE, hook_instance="call-3"))
    said = (Reason("finding-wrong"), Reason("cds-not-applicable"))
    store.record_feedback("north", [item("c1", "overridden", reasons=said, comment="bed 4"), item("c2")])
    items = queue(store, NOW - DAY, NOW + DAY)
    assert sorted((i.kind, i.about, i.hook_instance, i.calls) for i in items) == [
        ("cds-not-applicable", "IS-01", "call-1", 1),
        ("disagrees", "effusion", "call-3", 2),
        ("finding-wrong", "IS-01", "call-1", 1),
    ]
    assert "bed 4" not in repr(items)
    (first, *_) = items
    Desk(store).note("ada", CLOSED, NOW + MINUTE, item=first.id, why="a skin fold")
    after = queue(store, NOW - DAY, NOW + DAY)
    assert [i.closed is not None for i in after] == [False, False, True]
    assert after[-1].closed is not None
    assert (after[-1].id, after[-1].closed.who, after[-1].closed.why) == (first.id, "ada", "a skin fold")


def test_an_item_outside_the_time_asked_for_is_not_in_the_queue(store: Store) -> None:
    store.record_answer(answer(card("c1")))
    store.record_feedback("north", [item("c1", "overridden", reasons=(Reason("finding-wrong"),))])
    assert len(queue(store, NOW - DAY, NOW + DAY)) == 1
    assert queue(store, NOW + MINUTE, NOW + DAY) == ()
    assert queue(store, NOW - DAY, NOW) == ()


def test_earlier_answers_are_those_of_the_same_patient_service_model_and_tenant_oldest_first(store: Store) -> None:
    def said(minutes: float, p: float | None, **changes: object) -> None:
        fields = {"patient_key": "p", "service": "deterioration", "model_digest": "d", **changes}
        made = (Prediction("worse", p, 0.1, 0.6),)
        store.record_answer(answer(at=NOW - minutes * MINUTE, predictions=made, **fields))

    said(90, 0.2)
    said(31, 0.4)
    said(31, 0.9, patient_key="q")
    said(31, 0.9, service="chest-treatment")
    said(31, 0.9, model_digest="another")
    said(31, 0.9, tenant="south")
    said(200, 0.9)  # before `since`
    said(0, 0.9)  # this call's own moment
    found = earlier(store, "north", "p", "deterioration", "d", NOW - timedelta(hours=2), NOW, timeout=30)
    assert found == (
        Earlier("worse", NOW - 90 * MINUTE, 0.2, 0.1, 0.6),
        Earlier("worse", NOW - 31 * MINUTE, 0.4, 0.1, 0.6),
    )
