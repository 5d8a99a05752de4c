"""Whoever changes the record of what we said is found out."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from postgres_cluster import as_superuser
from state_cases import NOW, answer, card, item

from cds_service.state import audit
from cds_service.state.errors import StateError
from cds_service.state.store import Store

Tamper = Callable[[str], None]
"""Runs SQL on the database as somebody with full rights to it would."""


@pytest.fixture
def tamper(url: str) -> Tamper:
    def run(sql: str) -> None:
        if url.startswith("sqlite"):
            with sqlite3.connect(url.removeprefix("sqlite:///")) as conn:
                conn.execute("DROP TRIGGER IF EXISTS audit_append_only")
                conn.execute(sql)
            conn.close()
        else:
            with psycopg.connect(as_superuser(url), autocommit=True) as conn:
                conn.execute("DROP TRIGGER IF EXISTS audit_append_only ON audit")
                conn.execute(sql)  # type: ignore[arg-type]

    return run


@pytest.fixture
def filled(store: Store) -> Store:
    for n in range(10):
        store.record_answer(answer(card(f"c{n}"), at=NOW + timedelta(minutes=n)))
    store.record_answer(answer(card("s1"), tenant="south"))
    store.record_feedback("north", [item("c1")])
    return store


def test_every_answer_and_feedback_has_its_row_and_the_chains_hold(filled: Store) -> None:
    verdict = filled.verify_audit()
    assert verdict.ok
    assert verdict.rows == 12
    assert {tenant: seq for tenant, (seq, _) in verdict.heads.items()} == {"north": 11, "south": 1}


@pytest.mark.parametrize(
    ("sql", "seq", "why"),
    [
        ("UPDATE audit SET status = 412 WHERE tenant = 'north' AND seq = 4", 4, "altered"),
        ("UPDATE audit SET decisions = '[]' WHERE tenant = 'north' AND seq = 1", 1, "altered"),
        ("UPDATE audit SET at = at + 1 WHERE tenant = 'north' AND seq = 11", 11, "altered"),
        ("UPDATE audit SET hash = previous WHERE tenant = 'north' AND seq = 6", 6, "altered"),
        ("DELETE FROM audit WHERE tenant = 'north' AND seq = 5", 5, "missing"),
        ("DELETE FROM audit WHERE tenant = 'north' AND seq >= 9", 9, "end are missing"),
        ("DELETE FROM audit WHERE tenant = 'north' AND seq = 1", 1, "missing"),
        ("DELETE FROM audit_chain WHERE tenant = 'north'", 0, "head is gone"),
    ],
)
def test_tampering_is_found_and_the_first_broken_row_named(
    filled: Store, tamper: Tamper, sql: str, seq: int, why: str
) -> None:
    tamper(sql)
    broken = filled.verify_audit().broken
    assert broken is not None
    assert (broken.tenant, broken.seq) == ("north", seq)
    assert why in broken.why


def test_a_chain_rewritten_from_one_row_on_disagrees_with_its_anchor(filled: Store, tamper: Tamper) -> None:
    assert filled.verify_audit().ok  # leaves an anchor at row 11
    forged, previous = [], ""
    for line in filled.export_audit("north"):
        row = orjson.loads(line)
        if row["seq"] >= 7:
            row |= {"status": 412, "previous": previous or row["previous"]}
            row["hash"] = previous = audit.row_hash(row)
            forged.append(row)
    for row in forged:
        tamper(
            f"UPDATE audit SET status = 412, previous = '{row['previous']}', hash = '{row['hash']}' "
            f"WHERE tenant = 'north' AND seq = {row['seq']}"
        )
    tamper(f"UPDATE audit_chain SET head_hash = '{previous}' WHERE tenant = 'north'")
    broken = filled.verify_audit().broken
    assert broken is not None
    assert (broken.seq, broken.why) == (11, "the chain was rewritten: an anchor differs")


def test_a_chain_cut_short_together_with_its_head_disagrees_with_its_anchor(filled: Store, tamper: Tamper) -> None:
    assert filled.verify_audit().ok
    rows = [orjson.loads(line) for line in filled.export_audit("north")]
    tamper("DELETE FROM audit WHERE tenant = 'north' AND seq > 8")
    tamper(f"UPDATE audit_chain SET head_seq = 8, head_hash = '{rows[7]['hash']}' WHERE tenant = 'north'")
    broken = filled.verify_audit().broken
    assert broken is not None
    assert broken.seq == 9
    tamper("DELETE FROM audit WHERE tenant = 'south'")
    tamper("DELETE FROM audit_chain WHERE tenant = 'south'")
    tamper("DELETE FROM audit WHERE tenant = 'north'")
    tamper("DELETE FROM audit_chain WHERE tenant = 'north'")
    assert not filled.verify_audit().ok


def test_a_beginning_removed_without_a_retention_run_is_found(filled: Store, tamper: Tamper) -> None:
    rows = [orjson.loads(line) for line in filled.export_audit("north")]
    tamper("DELETE FROM audit WHERE tenant = 'north' AND seq <= 3")
    tamper(f"UPDATE audit_chain SET start_seq = 3, start_hash = '{rows[2]['hash']}' WHERE tenant = 'north'")
    broken = filled.verify_audit().broken
    assert broken is not None
    assert "no retention run" in broken.why


def test_an_audit_row_cannot_be_changed_by_accident(filled: Store, url: str) -> None:
    if url.startswith("sqlite"):
        conn: Any = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    else:
        conn = psycopg.connect(as_superuser(url))
    with contextlib.closing(conn), pytest.raises((sqlite3.IntegrityError, psycopg.Error), match="never changed"):
        conn.execute("UPDATE audit SET status = 500")
    assert filled.verify_audit().ok


def test_one_byte_edited_in_the_sqlite_file_is_found(sqlite_url: str, folder: Path) -> None:
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        store.record_answer(answer(card("c1"), service_version="version-seven"))
        store.record_answer(answer(card("c2")))
    path = folder / "state.sqlite"
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    raw = path.read_bytes()
    at = raw.index(b"version-seven")
    path.write_bytes(raw[:at] + b"w" + raw[at + 1 :])
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        broken = store.verify_audit().broken
    assert broken is not None
    assert (broken.tenant, broken.seq, broken.why) == ("north", 1, "the row was altered")


def test_an_export_can_be_followed_without_the_database(filled: Store) -> None:
    lines = list(filled.export_audit())
    assert audit.verify_export(lines).rows == 12
    assert audit.verify_export(lines).heads == filled.verify_audit().heads
    forged = [line.replace(b'"status":200', b'"status":412') if b'"seq":3' in line else line for line in lines]
    broken = audit.verify_export(forged).broken
    assert broken is not None
    assert (broken.tenant, broken.seq) == ("north", 3)
    with pytest.raises(StateError, match="line 1 "):
        audit.verify_export([b'{"tenant":"north"}\n'])


def test_the_hash_is_sha256_over_the_row_as_the_handbook_says(filled: Store) -> None:
    """Recomputed here from the exported line alone: a JSON list of the columns in their order, hash left out."""
    import hashlib
    import json

    (line,) = filled.export_audit("south")
    row = json.loads(line)
    stated = row.pop("hash")
    listed = json.dumps(list(row.values()), separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(listed.encode()).hexdigest() == stated


def test_every_row_is_a_valid_fhir_audit_event_that_names_nobody(store: Store) -> None:
    patient, user = store.key("patient", "north", "pat-7"), store.key("user", "north", "Practitioner/dr-a")
    store.record_answer(answer(card("c1"), patient_key=patient, user_key=user))
    store.record_answer(answer(status=412))
    store.record_answer(answer(status=503))
    store.record_feedback("north", [item("c1")])
    store.switch("product", state="off", who="admin", why="drill")
    lines = list(store.export_audit(fhir=True))
    events = [AuditEvent.model_validate_json(line) for line in lines]
    assert [event.outcome for event in events] == ["0", "0", "4", "8", "0"]
    first = orjson.loads(next(line for line in lines if b"order-sign" in line))
    assert first["entity"][1]["what"]["identifier"]["value"] == patient
    assert first["agent"][0] == {
        "who": {"identifier": {"system": "urn:ordersight:keyed-hash", "value": user}},
        "requestor": True,
    }
    assert not any(name in b"".join(lines) for name in (b"pat-7", b"dr-a"))
