"""`Store`: durable state as the service uses it. SQLite in one folder, or PostgreSQL; the same promises on both.

What a method has returned without error is on disk, and survives kill -9. `record_answer` alone may put its record
into the outbox instead, which is on disk as well.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy import Connection

from cds_service.state import history, outbox, schema, shown
from cds_service.state import switches as switching
from cds_service.state.care import Care
from cds_service.state.engines import Engines, open_engines, place, read_url, sqlite_file, told_plainly
from cds_service.state.errors import StateError, StateUnavailable
from cds_service.state.feed import AuditFeed, Repository
from cds_service.state.films import FilmRows
from cds_service.state.keeper import Keeper, now_utc
from cds_service.state.keys import Keys
from cds_service.state.reader import Reader
from cds_service.state.records import (
    AnswerRecord,
    FeedbackItem,
    FeedbackResult,
    Health,
    History,
    Settle,
)
from cds_service.state.sealed import EvidenceStore, SealedRows
from cds_service.state.switches import Scope, Switch, Switches, SwitchState
from cds_service.state.tables import insert_new, jti
from cds_service.state.tenancy import as_tenant
from cds_service.state.writer import Writer

log = logging.getLogger("cds_service.state")
OUTBOX_BYTES = 64 * 1024 * 1024
WAIT_S = 2.0
SAFE_SQLITE = (3, 51, 3)
"""Before it a checkpoint racing a write could corrupt a WAL database; our one writer thread keeps them apart."""


class Store(Care):
    """Open it once per process; every method may be called from any thread."""

    def __init__(self, engines: Engines, folder: Path, keys: Keys, box: outbox.Outbox | None) -> None:
        self._engines = engines
        self._folder = folder
        self._keys = keys
        self._box = box
        self._writer = Writer(engines.writer, engines.sqlite_file)
        """Sees one tenant at a time; `_care` all of them."""
        one = engines.care_writer is engines.writer
        self._care = self._writer if one else Writer(engines.care_writer, None)
        self._reader = Reader(engines)
        self.feed: AuditFeed | None = None
        self._closed = False
        self._switches = Switches()
        self._switches_at = time.monotonic()
        self._keeper = Keeper(engines, self._writer, folder, box, self._reload_switches)

    @classmethod
    def open(
        cls,
        url: str,
        folder: Path | None = None,
        *,
        outbox_bytes: int = OUTBOX_BYTES,
        owner_url: str | None = None,
        repository: Repository | None = None,
    ) -> Store:
        """Open the state at `url`; `folder` holds the secret, the outbox and the anchors, beside SQLite's file if None.

        A new SQLite file is made; everything else must have this release's schema. Raises SchemaMismatch,
        StateError for a wrong URL or secret, StateUnavailable when the database or the disk is not there.
        `outbox_bytes` 0 is for commands that answer no calls. `owner_url` is PostgreSQL's as the role that owns the
        tables: for what looks after all tenants at once. The audit goes to `repository` as well, in the background.
        """
        parsed, folder = place(url, folder)
        engines = open_engines(parsed, read_url(owner_url) if owner_url else None)
        if sqlite_file(parsed) is not None:
            schema.create_if_new(parsed)
            if sqlite3.sqlite_version_info < SAFE_SQLITE:
                log.info("old sqlite", extra={"fields": {"version": sqlite3.sqlite_version}})
        keys = Keys.load(folder)
        schema.require_same_secret(parsed, keys)
        box = outbox.Outbox.open(folder, outbox_bytes) if outbox_bytes else None
        store = cls(engines, folder, keys, box)
        try:
            schema.require_care(engines)
            store._reload_switches()
        except StateError:
            store.close()
            raise
        store._keeper.start()
        if repository is not None:
            store.feed = AuditFeed(engines, store._care, folder, repository)
            store.feed.start()
        return store

    def close(self) -> None:
        """Finish what is queued; what the outbox holds stays for the next start. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self.feed is not None:
            self.feed.stop()
        self._keeper.stop()
        self._keeper.join()
        self._writer.close()
        if self._care is not self._writer:
            self._care.close()
        self._engines.dispose()
        if self._box is not None:
            self._box.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Keys -----------------------------------------------------------------------------------------------------------

    def key(self, kind: str, tenant: str, identifier: str) -> str:
        """The keyed hash under which `identifier` (a patient, user, encounter, resource) is known here."""
        return self._keys.of(kind, tenant, identifier) if identifier else ""

    def fingerprint(self, tenant: str, patient: str, rule: str, concept: str, deciding: str) -> str:
        """One finding about one patient and order; `deciding` is the banded values, so noise does not re-fire it."""
        return self._keys.of("fingerprint", tenant, patient, rule, concept, deciding)

    # Calls ----------------------------------------------------------------------------------------------------------

    def use_jti(self, iss: str, jti_: str, exp: datetime, now: datetime, *, timeout: float = WAIT_S) -> bool:
        """Use a token up; False for a replay. Raises StateUnavailable when that cannot be known: then 503, never 200.

        `exp` may lie before `now` by the leeway granted; it only says how long the token must be remembered.
        """
        row = {"token": self._keys.of("jti", iss, jti_), "exp": max(exp, now)}
        return self._writer.run(lambda conn: insert_new(conn, jti, row), timeout)

    def record_answer(
        self, record: AnswerRecord, *, timeout: float = 0.25, settle: Settle | None = None
    ) -> AnswerRecord:
        """Make an answer's audit row, predictions and cards durable, together; release the answer after this returns.

        What `settle` leaves of it is stored and returned. After `timeout` seconds, or at once while the database
        fails, the record goes to the outbox as it is, and from there to the database later. Raises StateUnavailable
        when neither takes it: no advice without a trace.
        """
        if not self._writer.stuck(timeout):
            try:
                return self._writer.run(lambda conn: shown.settle_answer(conn, record, settle), timeout, record.tenant)
            except StateUnavailable:
                if self._box is None:
                    raise
        if self._box is None:
            raise StateUnavailable("the database takes no writes")
        self._box.append(msgspec.json.encode(record))
        return record

    def record_feedback(
        self, tenant: str, items: Sequence[FeedbackItem], *, service: str = "", timeout: float = WAIT_S
    ) -> FeedbackResult:
        """Store a batch, all or nothing; the same batch again adds nothing. Acknowledge after this returns.

        With `service`, cards of another service of the tenant are unknown too. Raises StateUnavailable.
        """
        received = now_utc()
        return self._writer.run(
            lambda conn: shown.store_feedback(conn, tenant, service, items, received), timeout, tenant
        )

    def seen(
        self, tenant: str, fingerprints: Sequence[str], user_key: str, now: datetime, *, timeout: float = 0.1
    ) -> dict[str, History]:
        """What this user was shown and answered for each fingerprint. Raises StateUnavailable after `timeout`."""

        def query(conn: Connection) -> dict[str, History]:
            as_tenant(conn, tenant)
            return history.seen(conn, tenant, fingerprints, user_key, now)

        return self._reader.within(query, timeout)

    def suppress(
        self,
        tenant: str,
        fingerprint: str,
        until: datetime | None,
        cause: str,
        *,
        user_key: str = "",
        patient_key: str = "",
        timeout: float = WAIT_S,
    ) -> None:
        """Keep a fingerprint unsaid until then (None: for good) for one user, or for everybody."""
        at = now_utc()
        self._writer.run(
            lambda conn: history.suppress(
                conn, tenant, fingerprint, until, cause, set_at=at, user_key=user_key, patient_key=patient_key
            ),
            timeout,
            tenant,
        )

    @property
    def evidence(self) -> EvidenceStore:
        """What cards' evidence links lead to."""
        return SealedRows(self._writer, self._care, self._reader, self.key)

    @property
    def films(self) -> FilmRows:
        """Films encoded ahead, and those still to be."""
        return FilmRows(self._writer, self._care, self._reader, self._keys)

    # Switches -------------------------------------------------------------------------------------------------------

    def switches(self) -> Switches:
        """What is in force, at most a second old; never waits. `health` says when it was last read."""
        return self._switches

    def switch(
        self,
        scope: Scope,
        name: str = "",
        state: SwitchState | None = None,
        *,
        who: str,
        why: str,
        tenant: str = "",
        thresholds: Mapping[str, float] | None = None,
    ) -> Switch:
        """Say a new word, audited with it; in force here at once, in every process within a second."""
        at = now_utc()
        said = self._writer.run(
            lambda conn: switching.turn(conn, scope, name, state, thresholds, tenant=tenant, who=who, why=why, at=at),
            WAIT_S,
            tenant,
        )
        self._reload_switches()
        return said

    def switch_history(self) -> tuple[Switch, ...]:
        return self._reader.study(switching.history)

    def activate_model(self, name: str, digest: str, *, who: str, why: str) -> None:
        at = now_utc()
        self._writer.run(lambda conn: switching.activate_model(conn, name, digest, who=who, why=why, at=at), WAIT_S, "")

    def active_models(self) -> dict[str, str]:
        return self._reader.study(switching.active_models)

    def model_history(self) -> tuple[switching.ModelWord, ...]:
        return self._reader.study(switching.model_history)

    # Its own state --------------------------------------------------------------------------------------------------

    def tell_commits(self, took: Callable[[float], None]) -> None:
        """From now on `took` is told the seconds of every transaction."""
        self._writer.took = took

    def health(self) -> Health:
        now = time.monotonic()
        box = self._box
        return Health(
            wrote_s=now - self._writer.committed_at,
            outbox=box.depth if box else 0,
            outbox_oldest_s=box.oldest_s if box else 0.0,
            outbox_free=box.free if box else 0.0,
            switches_s=now - self._switches_at,
            unsent_s=self.feed.oldest_s if self.feed else 0.0,
        )

    # Inside ---------------------------------------------------------------------------------------------------------

    def _reload_switches(self) -> None:
        with told_plainly(), self._engines.overseers.connect() as conn:
            if self._switches.version != switching.version(conn):
                self._switches = switching.load(conn)
        self._switches_at = time.monotonic()
