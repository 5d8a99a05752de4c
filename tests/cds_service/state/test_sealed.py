"""Sealed evidence on both databases: opened once, wiped in time, forgotten with its patient."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

from state_cases import NOW

from cds_service.state.sealed import SealedEvidence
from cds_service.state.store import Store

ID, OTHER = "a" * 64, "b" * 64


def item(id_: str = ID, **changes: Any) -> SealedEvidence:
    given: dict[str, Any] = {
        "id": id_,
        "tenant": "north",
        "card": "card-1",
        "service": "imaging-safety",
        "patient_key": "1f" * 16,
        "made_at": NOW,
        "expires": NOW + timedelta(minutes=15),
        "page": b"\x00sealed page",
        "films": b"\xffsealed films",
    }
    return SealedEvidence(**(given | changes))


def test_each_part_comes_back_as_it_was_kept(store: Store) -> None:
    store.evidence.keep(item())
    page, films = store.evidence.find(ID), store.evidence.find(ID, "films")
    assert page is not None
    assert films is not None
    assert (page.sealed, films.sealed) == (b"\x00sealed page", b"\xffsealed films")
    assert (page.tenant, page.expires, page.opened_at) == ("north", NOW + timedelta(minutes=15), None)
    assert store.evidence.find(OTHER) is None


def test_of_many_visits_at_once_one_is_the_first(store: Store) -> None:
    store.evidence.keep(item())
    barrier, won = threading.Barrier(8), []

    def visit(number: int) -> None:
        barrier.wait()
        if store.evidence.open(ID, str(number) * 64, NOW + timedelta(seconds=5)):
            won.append(str(number) * 64)

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.evidence.find(ID)
    assert found is not None
    assert won == [found.visit]
    kinds = [line for line in store.export_audit() if b'"kind":"evidence"' in line]
    assert len(kinds) == 1
    assert store.verify_audit().ok


def test_what_is_over_or_unknown_cannot_be_opened(store: Store) -> None:
    store.evidence.keep(item())
    assert not store.evidence.open(ID, "v", NOW + timedelta(minutes=15))
    assert not store.evidence.open(OTHER, "v", NOW)
    assert store.evidence.open(ID, "v", NOW + timedelta(minutes=14))


def test_a_sweep_wipes_what_is_over_and_forgets_it_after_a_day(store: Store) -> None:
    store.evidence.keep(item())
    store.evidence.keep(item(OTHER, expires=NOW + timedelta(minutes=30)))
    assert store.evidence.sweep(NOW + timedelta(minutes=15)) == 1
    assert store.evidence.sweep(NOW + timedelta(minutes=15)) == 0
    wiped, kept = store.evidence.find(ID), store.evidence.find(OTHER)
    assert wiped is not None
    assert kept is not None
    assert (wiped.sealed, wiped.patient_key) == (None, "")
    assert kept.sealed is not None
    store.evidence.sweep(NOW + timedelta(days=1, minutes=15, seconds=1))
    assert store.evidence.find(ID) is None


def test_a_forgotten_patients_evidence_is_removed(store: Store) -> None:
    store.evidence.keep(item())
    store.evidence.keep(item(OTHER, patient_key="2e" * 16))
    assert store.erase("north", "1f" * 16).removed["evidence"] == 1
    assert store.evidence.find(ID) is None
    assert store.evidence.find(OTHER) is not None
