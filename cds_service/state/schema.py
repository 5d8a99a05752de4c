"""Which schema a database has, and the explicit step to this release's. A web worker never migrates."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select
from sqlalchemy.engine import URL

from cds_service.state.engines import maintenance_engine, sqlite_file, take_write_lock, told_plainly
from cds_service.state.errors import SchemaMismatch, StateError
from cds_service.state.keys import Keys, sync_folder
from cds_service.state.tables import insert_new, meta

COMPATIBLE = "compatible_with"
"""`meta` row: older revisions whose code still runs on this schema, space-separated. Migrations keep it; it is
what lets a release be rolled back after the database has moved on."""
KEY_CHECK = "key_check"


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
            command.upgrade(config(conn), "head")
    finally:
        engine.dispose()
    return head()


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
