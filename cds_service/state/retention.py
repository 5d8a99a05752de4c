"""How long things are kept, and how one patient is forgotten. Both leave a row in the audit chain."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, or_, select, update

from cds_service.state import audit as chain
from cds_service.state.tables import (
    audit,
    audit_chain,
    cards_shown,
    dump,
    evidence,
    feedback,
    film_cache,
    film_jobs,
    jti,
    predictions,
    suppression,
)
from cds_service.state.writer import Writer

BATCH = 2000
"""Rows per transaction: calls under way wait for one batch, never for the whole job."""
WAIT_S = 30.0


class Terms(msgspec.Struct, frozen=True):
    """Days. Audit and feedback: six years, the documentation period of 45 CFR 164.316(b)(2)(i)."""

    audit: int = 6 * 365 + 2
    feedback: int = 6 * 365 + 2
    predictions: int = 2 * 365
    unmatched: int = 30


class Erasure(msgspec.Struct, frozen=True):
    """What was removed per table, and how many audit rows keep the patient's key because they must be kept."""

    removed: Mapping[str, int]
    audit_rows: int


def past_term(now: datetime, terms: Terms) -> dict[Table, ColumnElement[bool]]:
    """What may go, per table; audit is apart, since a chain is shortened only from its beginning."""
    kept = now - timedelta(days=terms.feedback)
    return {
        predictions: predictions.c.at < now - timedelta(days=terms.predictions),
        feedback: or_(
            feedback.c.received_at < kept,
            and_(feedback.c.matched.is_(False), feedback.c.received_at < now - timedelta(days=terms.unmatched)),
        ),
        cards_shown: cards_shown.c.shown_at < kept,
        suppression: or_(suppression.c.until < now, suppression.c.set_at < kept),
        # An hour more than needed: a clock that ran ahead for minutes must not let a used token in again.
        jti: jti.c.exp < now - timedelta(hours=1),
        film_cache: film_cache.c.expires < now,
        film_jobs: and_(film_jobs.c.dead.is_(True), film_jobs.c.made_at < now - timedelta(days=terms.unmatched)),
    }


def count(conn: Connection, now: datetime, terms: Terms) -> dict[str, int]:
    """What a run would remove."""
    found = {table.name: _count(conn, table, where) for table, where in past_term(now, terms).items()}
    found["audit"] = sum(upto - start for _, start, upto, _ in _prefixes(conn, now, terms))
    return found


def run(writer: Writer, now: datetime, terms: Terms) -> dict[str, int]:
    """Remove what is past its term, batch by batch, and say so in the chain."""
    removed = {table.name: _in_batches(writer, table, where) for table, where in past_term(now, terms).items()}
    for tenant, _, upto, hash_ in writer.run(lambda conn: _prefixes(conn, now, terms), WAIT_S):
        writer.run(partial(_move_start, tenant=tenant, upto=upto, hash_=hash_, now=now), WAIT_S)
    # Before a chain's start nothing looks, so these rows may go in batches; a run cut short is finished by the next.
    started = and_(audit_chain.c.tenant == audit.c.tenant, audit.c.seq <= audit_chain.c.start_seq)
    removed["audit"] = _in_batches(writer, audit, exists().where(started))
    details = dump({"removed": removed})
    writer.run(lambda conn: chain.append(conn, "", str(uuid.uuid4()), now, "retention", details=details), WAIT_S)
    return removed


def forget_tokens(writer: Writer, now: datetime) -> int:
    """Drop the used tokens that are past their time: unlike the rest they come by the thousand, every day."""
    return _in_batches(writer, jti, past_term(now, Terms())[jti])


def erase(writer: Writer, patient_key: str, tenant: str, now: datetime) -> Erasure:
    """Remove everything about one patient but the audit rows. One transaction: all or nothing."""

    def work(conn: Connection) -> Erasure:
        cards = select(cards_shown.c.card).where(
            cards_shown.c.tenant == tenant, cards_shown.c.patient_key == patient_key
        )
        silenced = select(cards_shown.c.fingerprint).where(
            cards_shown.c.tenant == tenant, cards_shown.c.patient_key == patient_key, cards_shown.c.fingerprint != ""
        )
        conn.execute(
            update(suppression)
            .where(suppression.c.tenant == tenant, suppression.c.fingerprint.in_(silenced))
            .values(patient_key=patient_key)
        )
        removed = {
            "feedback": conn.execute(
                delete(feedback).where(feedback.c.tenant == tenant, feedback.c.card.in_(cards))
            ).rowcount
        }
        for table in (cards_shown, predictions, suppression, evidence, film_cache, film_jobs):
            removed[table.name] = conn.execute(
                delete(table).where(table.c.tenant == tenant, table.c.patient_key == patient_key)
            ).rowcount
        kept = _count(conn, audit, and_(audit.c.tenant == tenant, audit.c.patient_key == patient_key))
        details = dump({"removed": removed})
        chain.append(conn, tenant, str(uuid.uuid4()), now, "erase", patient_key=patient_key, details=details)
        return Erasure(removed, kept + 1)

    return writer.run(work, WAIT_S)


def _count(conn: Connection, table: Table, where: ColumnElement[bool]) -> int:
    return conn.execute(select(func.count()).select_from(table).where(where)).scalar_one()


def _in_batches(writer: Writer, table: Table, where: ColumnElement[bool]) -> int:
    key = list(table.primary_key)

    def work(conn: Connection) -> int:
        rows = conn.execute(select(*key).where(where).limit(BATCH)).all()
        for row in rows:
            conn.execute(delete(table).where(*(column == value for column, value in zip(key, row, strict=True))))
        return len(rows)

    total = 0
    while True:
        gone = writer.run(work, WAIT_S)
        total += gone
        if gone < BATCH:
            return total


def _prefixes(conn: Connection, now: datetime, terms: Terms) -> list[tuple[str, int, int, str]]:
    """Per tenant: where its chain starts, up to which row it may be cut, and that row's hash."""
    cutoff = now - timedelta(days=terms.audit)
    found = []
    for tenant, start, head in conn.execute(
        select(audit_chain.c.tenant, audit_chain.c.start_seq, audit_chain.c.head_seq)
    ).all():
        ours = and_(audit.c.tenant == tenant, audit.c.seq > start)
        first_kept = conn.execute(select(func.min(audit.c.seq)).where(ours, audit.c.at >= cutoff)).scalar()
        upto = first_kept - 1 if first_kept is not None else head
        if upto > start:
            hash_ = conn.execute(select(audit.c.hash).where(audit.c.tenant == tenant, audit.c.seq == upto)).scalar_one()
            found.append((tenant, start, upto, hash_))
    return found


def _move_start(conn: Connection, tenant: str, upto: int, hash_: str, now: datetime) -> None:
    details = dump({"start_seq": upto, "start_hash": hash_})
    chain.append(conn, tenant, str(uuid.uuid4()), now, "retention", details=details)
    conn.execute(update(audit_chain).where(audit_chain.c.tenant == tenant).values(start_seq=upto, start_hash=hash_))
