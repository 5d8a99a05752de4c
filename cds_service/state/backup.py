"""Backup while the service runs, and restore into nothing. A backup is a folder: the data, the secret, a manifest.

The data comes from one moment: SQLite's online backup, or pg_dump on an exported snapshot. Never a copy of the file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy import Connection, func, inspect, select, text
from sqlalchemy.engine import URL

from cds_service.state import audit, keys, schema
from cds_service.state.engines import maintenance_engine, open_engines, sqlite_file, told_plainly
from cds_service.state.errors import BackupError
from cds_service.state.tables import metadata
from cds_service.state.tenancy import EVERYONE

MANIFEST = "manifest.json"
SQLITE_FILE = "state.sqlite"
DUMP_FILE = "state.dump"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a backup: digest of its data file, rows per table, where each audit chain ended."""

    made_at: datetime
    file: str
    sha256: str
    schema: str
    rows: dict[str, int]
    heads: dict[str, tuple[int, str]]


def backup(url: URL, folder: Path, target: Path, now: datetime) -> Manifest:
    """Write a backup into `target`, which must not exist; it appears under that name only when it is whole."""
    if target.exists():
        raise BackupError(f"{target} exists: name a new folder")
    beside = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True, mode=0o700)
    try:
        path = sqlite_file(url)
        name = SQLITE_FILE if path is not None else DUMP_FILE
        with told_plainly():
            rows, heads = _copy_sqlite(path, beside / name) if path else _dump_postgresql(url, beside / name)
        shutil.copyfile(folder / keys.FILE, beside / keys.FILE)
        manifest = Manifest(now, name, _sha256(beside / name), schema.head(), rows, heads)
        (beside / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        for file in beside.iterdir():
            file.chmod(0o600)
            _sync(file)
        keys.sync_folder(beside)
        os.rename(beside, target)
        keys.sync_folder(target.absolute().parent)
    except OSError as error:
        raise BackupError(f"{target} could not be written ({error.strerror})") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def restore(source: Path, url: URL, folder: Path) -> Manifest:
    """Fill an empty database and state folder from a backup, and check every row count and the audit chain.

    Raises BackupError when the backup is damaged, or when there is something it would overwrite.
    """
    manifest = read_manifest(source)
    path = sqlite_file(url)
    if (path is not None) != (manifest.file == SQLITE_FILE):
        raise BackupError("the backup is of the other kind of database; the state URL must be of the same kind")
    # Anchors and the outbox belong to the database they were written beside.
    if any((folder / name).exists() for name in (keys.FILE, audit.ANCHORS)) or list(folder.glob("outbox-*.log")):
        raise BackupError(f"{folder} holds state already: move it away first")
    folder.mkdir(parents=True, exist_ok=True)
    with told_plainly():
        if path is not None:
            _place_sqlite(source / manifest.file, path)
        else:
            _load_postgresql(url, source / manifest.file)
    shutil.copyfile(source / keys.FILE, folder / keys.FILE)
    (folder / keys.FILE).chmod(0o600)
    audit.write_anchors(folder / audit.ANCHORS, manifest.heads, manifest.made_at)
    keys.sync_folder(folder)
    _require_same(url, manifest, folder)
    return manifest


def read_manifest(source: Path) -> Manifest:
    """Raises BackupError unless the data file is there, whole, byte for byte."""
    try:
        manifest = msgspec.json.decode((source / MANIFEST).read_bytes(), type=Manifest)
        found = _sha256(source / manifest.file) if manifest.file in (SQLITE_FILE, DUMP_FILE) else ""
    except OSError as error:
        raise BackupError(f"{source} is no whole backup ({error.strerror})") from None
    except msgspec.MsgspecError:
        raise BackupError(f"{source / MANIFEST} is no manifest of a backup") from None
    if found != manifest.sha256:
        raise BackupError(f"{source / manifest.file} is not the file the manifest was written for")
    return manifest


def _require_same(url: URL, manifest: Manifest, folder: Path) -> None:
    engines = open_engines(url)
    try:
        with told_plainly(), engines.overseers.connect() as conn:
            rows = _rows(conn)
        if rows != manifest.rows:
            different = sorted(name for name in rows if rows[name] != manifest.rows.get(name))
            raise BackupError(f"the restored tables have other row counts: {', '.join(different)}")
        verdict = audit.verify(engines.overseers, folder / audit.ANCHORS)
        if verdict.broken is not None:
            raise BackupError(f"the restored audit chain is broken: {verdict.broken.why}")
    finally:
        engines.dispose()


def _rows(conn: Connection) -> dict[str, int]:
    return {t.name: conn.execute(select(func.count()).select_from(t)).scalar_one() for t in metadata.sorted_tables}


def _copy_sqlite(path: Path, target: Path) -> tuple[dict[str, int], dict[str, tuple[int, str]]]:
    try:
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)  # all pages in one step: one moment, and writers go on beside it
            copy.execute("PRAGMA journal_mode=DELETE")
            if copy.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                raise BackupError("the copied database fails its integrity check")
    except sqlite3.Error as error:
        raise BackupError(f"the database could not be copied ({type(error).__name__})") from None
    engine = maintenance_engine(URL.create("sqlite", database=str(target)))
    try:
        with engine.connect() as conn:
            return _rows(conn), audit.heads(conn)
    finally:
        engine.dispose()
        with closing(sqlite3.connect(target)) as copy:
            copy.execute("PRAGMA journal_mode=DELETE")  # leaves one file, nothing beside it


def _place_sqlite(source: Path, path: Path) -> None:
    if path.exists() and path.stat().st_size:
        raise BackupError(f"{path} exists: move it away first")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.restoring")
    shutil.copyfile(source, beside)
    beside.chmod(0o600)
    _sync(beside)
    os.rename(beside, path)
    keys.sync_folder(path.absolute().parent)


def _dump_postgresql(url: URL, target: Path) -> tuple[dict[str, int], dict[str, tuple[int, str]]]:
    engine = maintenance_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn:
            snapshot = conn.execute(text("SELECT pg_export_snapshot()")).scalar_one()
            found = _rows(conn), audit.heads(conn)
            _run(
                url,
                "pg_dump",
                "--format=custom",
                "--no-owner",
                "--no-privileges",
                "--enable-row-security",  # the connection says that it sees all tenants, see _run
                f"--snapshot={snapshot}",
                f"--file={target}",
            )
    finally:
        engine.dispose()
    return found


def _load_postgresql(url: URL, source: Path) -> None:
    engine = maintenance_engine(url)
    try:
        with engine.connect() as conn:
            if inspect(conn).get_table_names():
                raise BackupError("the database has tables already: restore into an empty one")
    finally:
        engine.dispose()
    _run(
        url,
        "pg_restore",
        "--no-owner",
        "--no-privileges",
        "--exit-on-error",
        "--single-transaction",
        f"--dbname={url.database}",
        str(source),
    )


def _run(url: URL, program: str, *arguments: str) -> None:
    """Run a PostgreSQL tool; the password goes by environment, since arguments are everybody's to read."""
    found = tool(program)
    where = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password}
    where["PGDATABASE"] = url.database
    env = os.environ | {name: str(value) for name, value in where.items() if value}
    env["PGOPTIONS"] = " ".join(f"-c {name}={value}" for name, value in EVERYONE.items())
    env |= {f"PG{name.upper()}": str(v) for name, v in url.query.items() if name.startswith("ssl")}
    done = subprocess.run([found, *arguments], env=env, capture_output=True, check=False)  # noqa: S603 - fixed program
    if done.returncode:
        # Its messages can quote rows.
        raise BackupError(f"{program} failed with exit code {done.returncode}; run it by hand to see why")


def tool(program: str) -> str:
    """The program on the PATH, else Debian's newest. Raises BackupError naming the package."""
    found = shutil.which(program)
    if found is not None:
        return found
    installed = {
        int(folder.name): folder / "bin" / program
        for folder in Path("/usr/lib/postgresql").glob("*")
        if folder.name.isdigit() and (folder / "bin" / program).exists()
    }
    if not installed:
        raise BackupError(f"{program} is not installed; Debian has it in postgresql-client")
    return str(installed[max(installed)])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
