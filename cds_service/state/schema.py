"""Which schema a database has, and the explicit step to this release's. A web worker never migrates."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, update
from sqlalchemy.engine import URL

from cds_service.state.engines import Engines, maintenance_engine, sqlite_file, take_write_lock, told_plainly
from cds_service.state.errors import SchemaMismatch, StateError
from cds_service.state.keys import Keys, sync_folder
from cds_service.state.tables import insert_new, meta
from cds_service.state.tenancy import is_forced, is_owner, isolate, isolation, let_in

log = logging.getLogger("cds_service.state")
COMPATIBLE = "compatible_with"
"""`meta` row: older revisions whose code still runs on this schema, space-separated. Migrations keep it; it is
what lets a release be rolled back after the database has moved on."""
KEY_CHECK = "key_check"
NAMED_NO_TENANT = frozenset({"0001", "0002", "0003"})
"""Releases to which an isolated database looks empty."""


def config(conn: Connection | None = None) -> Config:
    made = Config()
    made.set_main_option("script_location", "cds_service.state:migrations")
    made.attributes["connection"] = conn
    return made


def head() -> str:
    """The revision this release is written for."""
    found = ScriptDirectory.from_config(config()).get_current_head()
    if found is None:
        raise StateError("this installation has no migrations: install it again")
    return found


Fit = Literal["current", "empty", "behind", "compatible", "unknown"]


def fit(conn: Connection) -> Fit:
    """How the database's schema relates to this release's; `compatible` is newer, but made to bear us."""
    wanted, found = head(), MigrationContext.configure(conn).get_current_revision()
    if found == wanted:
        return "current"
    if found is None:
        return "empty"
    if found in {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}:
        return "behind"
    compatible = conn.execute(select(meta.c.value).where(meta.c.name == COMPATIBLE)).scalar() or ""
    return "compatible" if wanted in compatible.split() else "unknown"


def require_schema(conn: Connection) -> None:
    """Raises SchemaMismatch unless this release runs on the database's schema."""
    found = fit(conn)
    if found in ("empty", "behind"):
        raise SchemaMismatch("the state database has no or an older schema: run `cds-service state upgrade`")
    if found == "unknown":
        raise SchemaMismatch("the state database has a schema this release does not know: run the newer release")


def upgrade(url: URL) -> str:
    """Bring the schema to this release's, in one transaction; returns the revision. Does nothing where it is there.

    Raises SchemaMismatch for a database a newer release has made.
    """
    path = sqlite_file(url)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            sync_folder(path.parent)
    engine = maintenance_engine(url)
    try:
        with told_plainly(), engine.begin() as conn:
            take_write_lock(conn)
            found = fit(conn)
            if found == "unknown":
                require_schema(conn)
            if found == "empty" and inspect(conn).get_table_names():
                raise SchemaMismatch("the database holds other tables: give the state a database of its own")
            if found in ("current", "compatible"):
                return MigrationContext.configure(conn).get_current_revision() or ""
            # On an empty one no release can be running that names no tenant; on an isolated one new tables follow.
            isolated = conn.dialect.name == "postgresql" and (found == "empty" or is_forced(conn, ["audit"]))
            command.upgrade(config(conn), "head")
            if isolated:
                _isolate(conn)
    finally:
        engine.dispose()
    return head()


def enforce_isolation(url: URL) -> None:
    """Let PostgreSQL keep tenants apart from now on: once no release before 0004 runs any more."""
    engine = maintenance_engine(url)
    try:
        with told_plainly(), engine.begin() as conn:
            require_schema(conn)
            if conn.dialect.name == "postgresql":
                _isolate(conn)
    finally:
        engine.dispose()


def _isolate(conn: Connection) -> None:
    isolate(conn)
    compatible = conn.execute(select(meta.c.value).where(meta.c.name == COMPATIBLE)).scalar() or ""
    left = " ".join(revision for revision in compatible.split() if revision not in NAMED_NO_TENANT)
    conn.execute(update(meta).where(meta.c.name == COMPATIBLE).values(value=left))


def require_care(engines: Engines) -> None:
    """Raises StateError where nobody could look after all tenants; warns where the database does not part them."""
    if engines.sqlite_file is not None:
        return
    with told_plainly(), engines.overseers.connect() as conn:
        if not is_owner(conn):
            raise StateError("ORDERSIGHT_STATE_OWNER_URL must name the role that owns the tables")
    with told_plainly(), engines.readers.connect() as conn:
        found = isolation(conn)
    if found != "on":
        log.warning("tenants are kept apart by the queries alone", extra={"fields": {"row_level_security": found}})


def grant(url: URL, role: str) -> None:
    """Give the role that the service connects as its rights, as the tables' owner."""
    engine = maintenance_engine(url)
    try:
        with told_plainly(), engine.begin() as conn:
            let_in(conn, role)
    finally:
        engine.dispose()


def create_if_new(url: URL) -> None:
    """Give a file that is not there yet, or is empty, its schema. Nothing else is ever migrated unasked."""
    path = sqlite_file(url)
    if path is None:
        return
    with _alone(path.parent):
        if not path.exists() or path.stat().st_size == 0:
            upgrade(url)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two processes that start at once create one database."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "state.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_same_secret(url: URL, keys: Keys) -> None:
    """Raises StateError when the database was filled under another secret: its patients could not be found again."""
    engine = maintenance_engine(url)
    try:
        with told_plainly(), engine.begin() as conn:
            require_schema(conn)
            insert_new(conn, meta, {"name": KEY_CHECK, "value": keys.check})
            known = conn.execute(select(meta.c.value).where(meta.c.name == KEY_CHECK)).scalar_one()
    finally:
        engine.dispose()
    if known != keys.check:
        raise StateError("state.key is not the secret this database was filled with: copy it from another replica")
