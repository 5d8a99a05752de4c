"""The audit chain: one per tenant, each row hashed over its content and the row before it.

An altered row no longer has its hash; a missing one leaves a hole; a shortened or wholly rewritten chain disagrees
with the heads noted outside the database (`anchors.jsonl`, kept in the state folder).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from cds_service.state.audit_event import audit_event
from cds_service.state.engines import patiently, told_plainly
from cds_service.state.errors import StateError, StateUnavailable
from cds_service.state.records import AnswerRecord, AuditVerdict, Broken, storable
from cds_service.state.tables import as_dict, audit, audit_chain, dump, micros

GENESIS = "0" * 64
ANCHORS = "anchors.jsonl"
CHUNK = 1000
"""Rows per query: a chain of millions is read under the same statement limit as everything else."""
HASHED = tuple(column.name for column in audit.columns if column.name != "hash")
_LIMITS = {column.name: getattr(column.type, "length", None) for column in audit.columns}

# Built once: building a statement costs as much as running it, and every write adds a row here.
_KNOWN = select(audit.c.seq).where(audit.c.id == bindparam("known"))
_HEAD = select(audit_chain).where(audit_chain.c.tenant == bindparam("owner"))
_ADD = insert(audit)
_MOVE_HEAD = update(audit_chain).where(audit_chain.c.tenant == bindparam("owner"))


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 over the row's columns in their order, as a JSON list, times in microseconds, `previous` among them."""
    values = [micros(v) if isinstance(v := row[name], datetime) else v for name in HASHED]
    return hashlib.sha256(orjson.dumps(values)).hexdigest()


def append(conn: Connection, tenant: str, id_: str, at: datetime, kind: str, **columns: Any) -> bool:
    """Add a row to the tenant's chain; False when a row with this id is there already. Needs the write lock."""
    if conn.execute(_KNOWN, {"known": id_}).first() is not None:
        return False
    head = conn.execute(_HEAD, {"owner": tenant}).mappings().one_or_none()
    if head is None:
        conn.execute(
            insert(audit_chain).values(tenant=tenant, head_seq=0, head_hash=GENESIS, start_seq=0, start_hash=GENESIS)
        )
    row: dict[str, Any] = {name: "" for name, limit in _LIMITS.items() if limit is not None}
    row |= {"inputs": "[]", "decisions": "[]", "cards": "[]", "ms": "{}", "details": "{}", "status": 0}
    row |= columns | {"tenant": tenant, "id": id_, "at": at, "kind": kind}
    row |= {name: storable(row[name], limit) for name, limit in _LIMITS.items() if limit is not None}
    row["seq"] = (head["head_seq"] if head else 0) + 1
    row["previous"] = head["head_hash"] if head else GENESIS
    row["hash"] = row_hash(row)
    conn.execute(_ADD, row)
    conn.execute(_MOVE_HEAD, {"owner": tenant, "head_seq": row["seq"], "head_hash": row["hash"]})
    return True


def append_answer(conn: Connection, record: AnswerRecord) -> bool:
    return append(
        conn,
        record.tenant,
        record.id,
        record.at,
        "answer",
        hook=record.hook,
        hook_instance=record.hook_instance,
        service=record.service,
        service_version=record.service_version,
        config_digest=record.config_digest,
        model=record.model,
        model_digest=record.model_digest,
        patient_key=record.patient_key,
        user_key=record.user_key,
        encounter_key=record.encounter_key,
        status=record.status,
        inputs=dump(record.inputs),
        decisions=dump([{name: getattr(d, name) for name in d.__struct_fields__} for d in record.decisions]),
        cards=dump([c.card for c in record.cards]),
        ms=dump(dict(record.ms)),
        details=dump(dict(record.details)),
    )


def rows(readers: Engine, tenant: str, after: int = 0, upto: int | None = None) -> Iterator[Mapping[str, Any]]:
    """The tenant's rows in order, read in chunks."""
    while True:
        query = select(audit).where(audit.c.tenant == tenant, audit.c.seq > after).order_by(audit.c.seq).limit(CHUNK)
        if upto is not None:
            query = query.where(audit.c.seq <= upto)
        with told_plainly(), readers.connect() as conn:
            chunk = [as_dict(row) for row in conn.execute(query).mappings()]
        yield from chunk
        if len(chunk) < CHUNK:
            return
        after = chunk[-1]["seq"]


def verify(readers: Engine, anchors: Path | None = None) -> AuditVerdict:
    """Check every chain from its start to the head it had when we began; stop at the first row that does not hold."""
    with told_plainly(), readers.connect() as conn:
        chains = conn.execute(select(audit_chain).order_by(audit_chain.c.tenant)).mappings().all()
        owners = set(patiently(conn).execute(select(audit.c.tenant).distinct()).scalars())
    count, noted = 0, read_anchors(anchors) if anchors else {}
    heads: dict[str, tuple[int, str]] = {}
    for tenant in sorted((owners | noted.keys()) - {chain["tenant"] for chain in chains}):
        return AuditVerdict(0, {}, Broken(tenant, 0, "", "the chain's head is gone"))
    for chain in chains:
        tenant, start, head = chain["tenant"], chain["start_seq"], chain["head_seq"]
        known = {seq: hash_ for seq, hash_ in noted.get(tenant, {}).items() if seq > start}
        read = rows(readers, tenant, start, head)
        counted, broken = verify_rows(
            read, tenant, start, chain["start_hash"], head=head, head_hash=chain["head_hash"], noted=known
        )
        count += counted
        if broken is not None:
            return AuditVerdict(count, heads, broken)
        heads[tenant] = (head, chain["head_hash"])
    return AuditVerdict(count, heads, None)


def verify_rows(
    read: Iterable[Mapping[str, Any]],
    tenant: str,
    start: int,
    start_hash: str,
    *,
    head: int | None = None,
    head_hash: str | None = None,
    noted: Mapping[int, str] | None = None,
) -> tuple[int, Broken | None]:
    """Follow one chain; how many rows held, and the first that did not. An exported chain has no head of its own."""
    seq, previous, pruned = start, start_hash, start == 0
    for row in read:
        seq += 1
        if row["seq"] != seq:
            return seq - start - 1, Broken(tenant, seq, "", "the row is missing")
        if row["previous"] != previous:
            return seq - start - 1, Broken(tenant, seq, row["id"], "the row before it was replaced")
        if row_hash(row) != row["hash"]:
            return seq - start - 1, Broken(tenant, seq, row["id"], "the row was altered")
        if noted and noted.get(seq, row["hash"]) != row["hash"]:
            return seq - start - 1, Broken(tenant, seq, row["id"], "the chain was rewritten: an anchor differs")
        previous = row["hash"]
        if row["kind"] == "retention" and not pruned:
            details = orjson.loads(row["details"])
            pruned = details.get("start_seq") == start and details.get("start_hash") == start_hash
    if head is not None and (seq, previous) != (head, head_hash):
        return seq - start, Broken(tenant, seq + 1, "", "rows at the end are missing")
    if noted and max(noted) > seq:
        return seq - start, Broken(tenant, seq + 1, "", "rows at the end are missing: an anchor is further on")
    if head is not None and not pruned:
        return seq - start, Broken(tenant, start, "", "the beginning is missing, and no retention run says so")
    return seq - start, None


def export(readers: Engine, tenant: str | None = None, *, fhir: bool = False) -> Iterator[bytes]:
    """Every row as a line of JSON: with its hash, so that anyone can follow the chain (`verify_export`), or as FHIR."""
    with told_plainly(), readers.connect() as conn:
        chains = conn.execute(select(audit_chain).order_by(audit_chain.c.tenant)).mappings().all()
    for owner in chains:
        if tenant is None or owner["tenant"] == tenant:
            for row in rows(readers, owner["tenant"], owner["start_seq"], owner["head_seq"]):
                yield orjson.dumps(audit_event(row) if fhir else dict(row) | {"at": micros(row["at"])}) + b"\n"


def verify_export(lines: Iterable[bytes]) -> AuditVerdict:
    """Follow the chains of an exported file, knowing nothing else. Raises StateError for a line that is no row."""
    chains: dict[str, list[Mapping[str, Any]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = orjson.loads(line)
            chains.setdefault(row["tenant"], []).append({name: row[name] for name in (*HASHED, "hash")})
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise StateError(f"line {number} is no audit row") from None
    count = 0
    heads: dict[str, tuple[int, str]] = {}
    for tenant, chain in sorted(chains.items()):
        counted, broken = verify_rows(chain, tenant, chain[0]["seq"] - 1, chain[0]["previous"])
        count += counted
        if broken is not None:
            return AuditVerdict(count, heads, broken)
        heads[tenant] = (chain[-1]["seq"], chain[-1]["hash"])
    return AuditVerdict(count, heads, None)


def heads(conn: Connection) -> dict[str, tuple[int, str]]:
    found = conn.execute(select(audit_chain.c.tenant, audit_chain.c.head_seq, audit_chain.c.head_hash))
    return {tenant: (seq, hash_) for tenant, seq, hash_ in found}


def write_anchors(path: Path, noted: Mapping[str, tuple[int, str]], at: datetime) -> None:
    """Note where each chain ends, durably and outside the database. Raises StateUnavailable when the disk will not."""
    lines = b"".join(
        orjson.dumps({"at": at.isoformat(), "tenant": tenant, "seq": seq, "hash": hash_}) + b"\n"
        for tenant, (seq, hash_) in sorted(noted.items())
        if seq
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, lines)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StateUnavailable(f"{ANCHORS} could not be written ({error.strerror})") from None


def read_anchors(path: Path) -> dict[str, dict[int, str]]:
    """Per tenant the hashes noted by sequence number; a last line cut short by a crash is passed over."""
    noted: dict[str, dict[int, str]] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                entry = orjson.loads(line)
                noted.setdefault(entry["tenant"], {})[entry["seq"]] = entry["hash"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
    return noted
