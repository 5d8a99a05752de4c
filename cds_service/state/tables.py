"""The tables of durable state. Every row begins with its tenant; times are microseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Executable,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


class Instant(TypeDecorator[datetime]):
    """A moment as whole microseconds: the same on both databases, and exact, as the audit's hash needs it."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


def dump(value: Any) -> str:
    """Canonical JSON for a text column, so that what was hashed can be hashed again."""
    # SQLAlchemy's names are a kind of str, which orjson takes as keys only when told.
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()


def _text(name: str, length: int = 256) -> Column[str]:
    return Column(name, String(length), nullable=False, server_default="")


metadata = MetaData()
ROW_ID = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column declared INTEGER."""

meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False, unique=True),
    Column("at", Instant, nullable=False),
    _text("kind", 32),
    _text("hook", 64),
    _text("hook_instance"),
    _text("service"),
    _text("service_version"),
    _text("config_digest", 128),
    _text("model"),
    _text("model_digest", 128),
    _text("patient_key", 64),
    _text("user_key", 64),
    _text("encounter_key", 64),
    Column("status", Integer, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("decisions", Text, nullable=False),
    Column("cards", Text, nullable=False),
    Column("ms", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("audit_at", "at"),
    Index("audit_patient", "patient_key"),
    Index("audit_hook_instance", "hook_instance"),
)

audit_chain = Table(
    "audit_chain",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("head_seq", BigInteger, nullable=False),
    Column("head_hash", String(64), nullable=False),
    Column("start_seq", BigInteger, nullable=False),
    Column("start_hash", String(64), nullable=False),
)
"""Where each tenant's chain ends, and after which row it begins since retention took the rows before."""

audit_sent = Table(
    "audit_sent",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("at", Instant, nullable=False),
)
"""Up to which row each tenant's audit has reached the audit repository."""

audit_refused = Table(
    "audit_refused",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("status", Integer, nullable=False),
    Column("at", Instant, nullable=False),
)
"""Rows the repository would not take, however often they came, and the HTTP status it said so with."""

predictions = Table(
    "predictions",
    metadata,
    Column("audit_id", String(64), primary_key=True),
    Column("target", String(128), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("at", Instant, nullable=False),
    _text("service"),
    _text("model"),
    _text("model_digest", 128),
    _text("input_digest", 128),
    _text("patient_key", 64),
    Column("probability", Float),
    Column("low", Float),
    Column("high", Float),
    Index("predictions_at", "at"),
    Index("predictions_patient", "patient_key"),
)

cards_shown = Table(
    "cards_shown",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("card", String(512), primary_key=True),
    Column("audit_id", String(64), nullable=False),
    _text("service"),
    _text("service_version"),
    _text("indicator", 16),
    Column("rules", Text, nullable=False),
    Column("suggestions", Text, nullable=False),
    _text("model_digest", 128),
    _text("patient_key", 64),
    _text("user_key", 64),
    _text("encounter_key", 64),
    _text("fingerprint", 64),
    Column("shadow", Boolean, nullable=False),
    Column("shown_at", Instant, nullable=False),
    Column("orders", Text, nullable=False, server_default="[]"),
    _text("setting", 16),
    _text("hook_instance"),
    _text("event_key", 64),
    Column("latest_at", Instant),
    Index("cards_shown_fingerprint", "tenant", "fingerprint", "user_key"),
    Index("cards_shown_at", "shown_at"),
    Index("cards_shown_patient", "patient_key"),
    Index("cards_shown_user", "tenant", "user_key", "latest_at"),
)
"""`hook_instance`, `event_key` and `latest_at` are those of the last call the card was shown in."""

feedback = Table(
    "feedback",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("tenant", String(128), nullable=False),
    Column("card", String(512), nullable=False),
    _text("suggestion", 512),
    _text("outcome", 16),
    Column("outcome_at", Instant, nullable=False),
    _text("service"),
    Column("reasons", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("matched", Boolean, nullable=False),
    Column("received_at", Instant, nullable=False),
    UniqueConstraint("tenant", "card", "suggestion", "outcome", "outcome_at", name="feedback_natural_key"),
    Index("feedback_received", "received_at"),
)

suppression = Table(
    "suppression",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("fingerprint", String(64), primary_key=True),
    Column("user_key", String(64), primary_key=True),
    Column("until", Instant),
    _text("cause", 64),
    _text("patient_key", 64),
    Column("set_at", Instant, nullable=False),
    Index("suppression_patient", "patient_key"),
)

jti = Table(
    "jti",
    metadata,
    Column("token", String(64), primary_key=True),
    Column("exp", Instant, nullable=False),
    Index("jti_exp", "exp"),
)
"""`token` is the hash of issuer and jti: both are the caller's text, of any length."""

switches = Table(
    "switches",
    metadata,
    Column("seq", ROW_ID, primary_key=True, autoincrement=True),
    Column("tenant", String(128), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("name", String(256), nullable=False),
    Column("state", String(16), nullable=False),
    Column("thresholds", Text, nullable=False),
    Column("who", String(256), nullable=False),
    Column("why", Text, nullable=False),
    Column("at", Instant, nullable=False),
)
"""Append-only: the newest row of a scope and name is in force, those before it are its history."""

models_active = Table(
    "models_active",
    metadata,
    Column("seq", ROW_ID, primary_key=True, autoincrement=True),
    Column("name", String(256), nullable=False),
    Column("digest", String(128), nullable=False),
    Column("who", String(256), nullable=False),
    Column("why", Text, nullable=False),
    Column("at", Instant, nullable=False),
)

evidence = Table(
    "evidence",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    _text("card"),
    _text("service"),
    _text("patient_key", 64),
    Column("made_at", Instant, nullable=False),
    Column("expires", Instant, nullable=False),
    Column("opened_at", Instant),
    _text("visit", 64),
    Column("page", LargeBinary),
    Column("films", LargeBinary),
    Index("evidence_expires", "expires"),
    Index("evidence_patient", "patient_key"),
)
"""Ciphertext whose key is only in a card's link; `id` and `visit` are hashes of what the browser holds."""

film_cache = Table(
    "film_cache",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("film_key", String(64), primary_key=True),
    Column("pixels", String(64), primary_key=True),
    Column("encoder", String(64), primary_key=True),
    Column("study_key", String(64), nullable=False),
    Column("patient_key", String(64), nullable=False),
    Column("made_at", Instant, nullable=False),
    Column("expires", Instant, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("film_cache_study", "tenant", "study_key", "encoder"),
    Index("film_cache_patient", "patient_key"),
    Index("film_cache_expires", "expires"),
)
"""Films encoded ahead, sealed with a key of the installation; `pixels` is the digest of what was encoded."""

film_jobs = Table(
    "film_jobs",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("patient_key", String(64), nullable=False),
    Column("made_at", Instant, nullable=False),
    Column("due", Instant, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("dead", Boolean, nullable=False),
    _text("reason", 32),
    Column("sealed", LargeBinary, nullable=False),
    Index("film_jobs_due", "dead", "due"),
    Index("film_jobs_patient", "patient_key"),
)
"""Patients whose films are still to be encoded. Whoever takes a job moves `due` to the end of his lease."""


def insert_new(conn: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert unless a row with the same key is there; True if it was inserted."""
    return conn.execute(_insert_new(table, conn.dialect.name), values).first() is not None


@cache
def _insert_new(table: Table, dialect: str) -> Executable:
    """Built once: a statement with its values inside costs as much to build as to run."""
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    # A returned row says whether it was inserted on both; a row count does not come back from PostgreSQL here.
    return insert(table).on_conflict_do_nothing().returning(*table.primary_key)


def upsert(conn: Connection, table: Table, values: dict[str, Any]) -> None:
    """Insert, or replace the other columns of the row with the same primary key."""
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    keys = [column.name for column in table.primary_key]
    changed = {name: value for name, value in values.items() if name not in keys}
    conn.execute(insert(table).values(values).on_conflict_do_update(index_elements=keys, set_=changed))


def as_dict(row: RowMapping) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}
