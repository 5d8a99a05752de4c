"""Connections to the two databases: settings that make an acknowledgement durable and a wait bounded."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, QueuePool

from cds_service.state.errors import StateError, StateUnavailable
from cds_service.state.tenancy import EVERYONE

BUSY_MS = 2000
STATEMENT_MS = 2000
LOCK_MS = 500
STALLED_MS = 5000
"""A writer stopped in mid-transaction (SIGSTOP, lost network) is cut off, so that the others get the lock."""
READERS = 8
OVERSEERS = 4
WRITE_LOCK = 0x6F726472
"""PostgreSQL advisory lock: one write transaction at a time, as SQLite has it. Group commit pays for it, and the
audit chain, which needs an order, cannot deadlock with the other tables."""
POSTGRESQL_DRIVER = "postgresql+psycopg"


@dataclass(frozen=True, slots=True)
class Engines:
    """`writer` has one connection, used by one thread; `readers` cannot write. Both see the tenant they name alone.

    care_writer, overseers  the same for all tenants at once, as the role that owns the tables; in SQLite no others
    """

    url: URL
    owner_url: URL
    writer: Engine
    readers: Engine
    care_writer: Engine
    overseers: Engine

    @property
    def sqlite_file(self) -> Path | None:
        return sqlite_file(self.url)

    def dispose(self) -> None:
        for engine in {self.readers, self.writer, self.overseers, self.care_writer}:
            engine.dispose()


def read_url(url: str) -> URL:
    """Raises StateError for anything but the two databases we are tested with. The message never holds the URL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is not None and parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database:
        if parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise StateError("state in memory is lost at the end: write sqlite:////var/lib/ordersight/state.sqlite")
        return parsed
    if parsed is not None and parsed.drivername in ("postgresql", POSTGRESQL_DRIVER) and parsed.database:
        return parsed.set(drivername=POSTGRESQL_DRIVER)
    raise StateError("the state URL is sqlite:////path/state.sqlite or postgresql+psycopg://user@host/database")


def place(url: str, folder: Path | None) -> tuple[URL, Path]:
    """The database, and the local folder of its secret and outbox. Raises StateError."""
    parsed = read_url(url)
    path = sqlite_file(parsed)
    folder = folder or (path.absolute().parent if path else None)
    if folder is None:
        raise StateError("a PostgreSQL state needs a local folder as well, for its secret and outbox")
    return parsed, folder


def sqlite_file(url: URL) -> Path | None:
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def open_engines(url: URL, owner_url: URL | None = None) -> Engines:
    """Engines for serving. An SQLite file must exist already: a file that vanished is never made anew in silence."""
    owner_url = owner_url or url
    path = sqlite_file(url)
    if path is not None:
        writer = create_engine("sqlite://", creator=lambda: _connect(path), pool_size=1, max_overflow=0, **_POOL)
        readers = create_engine(
            "sqlite://", creator=lambda: _connect(path, query_only=True), pool_size=READERS, max_overflow=0, **_POOL
        )
        _begin(writer, "BEGIN IMMEDIATE")
        _begin(readers, "BEGIN")
        return Engines(url, url, writer, readers, writer, readers)
    limits = {"statement_timeout": STATEMENT_MS, "lock_timeout": LOCK_MS, "synchronous_commit": "on"}
    writing = limits | {"idle_in_transaction_session_timeout": STALLED_MS}
    reading = limits | {"default_transaction_read_only": "on"}
    return Engines(
        url,
        owner_url,
        _postgresql(url, writing, pool_size=1, max_overflow=0, **_POOL),
        _postgresql(url, reading, pool_size=READERS, max_overflow=0, **_POOL),
        _postgresql(owner_url, writing | EVERYONE, pool_size=1, max_overflow=0, **_POOL),
        _postgresql(owner_url, reading | EVERYONE, pool_size=OVERSEERS, max_overflow=0, **_POOL),
    )


def maintenance_engine(url: URL) -> Engine:
    """For migrations, backup and restore: one connection at a time, all tenants, no limit on a statement's time."""
    path = sqlite_file(url)
    if path is not None:
        engine = create_engine("sqlite://", creator=lambda: _connect(path), poolclass=NullPool, hide_parameters=True)
        _begin(engine, "BEGIN IMMEDIATE")
        return engine
    return _postgresql(url, EVERYONE, poolclass=NullPool)


# A statement's parameters hold comments and keys: they stay out of every error's text.
_POOL: dict[str, Any] = {"pool_timeout": 2, "hide_parameters": True, "pool_pre_ping": True, "poolclass": QueuePool}


def _postgresql(url: URL, options: Mapping[str, object], **engine: Any) -> Engine:
    settings = " ".join(f"-c {name}={value}" for name, value in options.items())
    arguments = {
        "connect_timeout": 2,
        "tcp_user_timeout": STALLED_MS,
        "application_name": "ordersight",
        "options": settings,
    }
    try:
        return create_engine(url, connect_args=arguments, **({"hide_parameters": True} | engine))
    except ModuleNotFoundError:
        raise StateError("PostgreSQL needs its driver: pip install 'ordersight[postgres]'") from None


def _connect(path: Path, *, query_only: bool = False) -> sqlite3.Connection:
    conn = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw",
        uri=True,
        timeout=BUSY_MS / 1000,
        isolation_level=None,  # transactions begin by the event below, not by the driver's guess
        check_same_thread=False,
    )
    try:
        conn.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        if conn.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            conn.execute("PRAGMA journal_mode=WAL")
        # FULL syncs the log at every commit; NORMAL acknowledges first and syncs at the next checkpoint.
        conn.execute("PRAGMA synchronous=FULL")
        conn.execute("PRAGMA foreign_keys=ON")
        conn.execute("PRAGMA trusted_schema=OFF")
        conn.execute("PRAGMA mmap_size=0")
        # Erased rows are overwritten, not only unlinked.
        conn.execute("PRAGMA secure_delete=ON")
        if query_only:
            conn.execute("PRAGMA query_only=ON")
    except sqlite3.Error:
        conn.close()
        raise
    return conn


def _begin(engine: Engine, statement: str) -> None:
    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        conn.exec_driver_sql(statement)


def take_write_lock(conn: Connection) -> None:
    """One write transaction at a time: SQLite's BEGIN IMMEDIATE did it already."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": WRITE_LOCK})


def patiently(conn: Connection) -> Connection:
    """Let this transaction's statements take a minute: a report is nobody's half second."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SET LOCAL statement_timeout = '60s'"))
    return conn


@contextmanager
def alone(file: Path | None) -> Iterator[None]:
    """Write to an SQLite file while no other process of ours does, the checkpoint at the end of a commit included.

    BEGIN IMMEDIATE ends before that checkpoint, and until 3.51.3 one that met another process's write could corrupt
    the file. None: PostgreSQL needs no such thing.
    """
    if file is None:
        yield
        return
    handle = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def scrub(url: URL) -> None:
    """Take deleted rows out of the file as well: SQLite's log is folded in and emptied, PostgreSQL vacuums."""
    engine = maintenance_engine(url)
    try:
        with told_plainly(), alone(sqlite_file(url)):
            driver = engine.raw_connection()
            try:
                if url.get_backend_name() == "sqlite":
                    driver.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
                else:
                    driver.rollback()
                    driver.driver_connection.autocommit = True  # type: ignore[union-attr]
                    driver.cursor().execute("VACUUM feedback, cards_shown, predictions, suppression, evidence")
            finally:
                driver.invalidate()
    finally:
        engine.dispose()


def file_identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turn the database's errors into ours, without its message: that may quote a row.

    What a row itself broke (a key, a type) is StateError, a bug; anything else is StateUnavailable.
    """
    try:
        yield
    except (IntegrityError, DataError) as error:
        raise StateError(f"the database refused a row ({type(error.orig).__name__})") from None
    except DBAPIError as error:
        raise StateUnavailable(f"the database did not answer ({type(error.orig).__name__})") from None
    except PoolTimeout:
        raise StateUnavailable("no connection to the database came free in time") from None
    except OSError as error:
        raise StateUnavailable(f"the database is not reachable ({error.strerror or type(error).__name__})") from None
