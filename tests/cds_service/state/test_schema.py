"""Migrations: explicit, whole, and forgiving in one direction only."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres_cluster import Cluster
from sqlalchemy import text
from state_cases import answer

from cds_service.state import schema
from cds_service.state.engines import maintenance_engine, read_url
from cds_service.state.errors import SchemaMismatch, StateError
from cds_service.state.store import Store
from cds_service.state.tables import metadata


def run(url: str, sql: str) -> None:
    with maintenance_engine(read_url(url)).begin() as conn:
        conn.execute(text(sql))


def test_the_migrations_make_exactly_the_tables_the_code_uses(url: str, store: Store) -> None:
    with maintenance_engine(read_url(url)).connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn, opts={"compare_type": True}), metadata) == []


def test_a_new_sqlite_file_is_made_once_by_however_many_start_at_once(sqlite_url: str, folder: Path) -> None:
    def start(_: int) -> str:
        with Store.open(sqlite_url, folder, outbox_bytes=4096) as store:
            store.record_answer(answer())
            return store.key("patient", "north", "p")

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(start, range(6)))) == 1
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        store.replay_outbox()
        assert store.verify_audit().rows == 6


def test_an_empty_postgresql_is_never_migrated_unasked(postgres: Cluster, folder: Path) -> None:
    url = postgres.new_database()
    with pytest.raises(SchemaMismatch, match="state upgrade"):
        Store.open(url, folder)
    assert schema.upgrade(read_url(url)) == schema.head()
    assert schema.upgrade(read_url(url)) == schema.head()
    Store.open(url, folder, outbox_bytes=0).close()


def test_a_database_of_the_first_release_is_brought_up_with_all_its_rows(
    postgres: Cluster, sqlite_url: str, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir()
    (folder / "state.sqlite").touch()
    for number, url in enumerate((sqlite_url, postgres.new_database())):
        with maintenance_engine(read_url(url)).begin() as conn:
            command.upgrade(schema.config(conn), "0001")
            conn.execute(
                text(
                    "INSERT INTO switches (tenant, scope, name, state, thresholds, who, why, at) "
                    "VALUES ('', 'product', '', 'off', '{}', 'dr.a', 'recall', 0)"
                )
            )
        keys = folder if number == 0 else tmp_path / "postgres"
        with pytest.raises(SchemaMismatch, match="state upgrade"):
            Store.open(url, keys, outbox_bytes=0)
        started = time.monotonic()
        assert schema.upgrade(read_url(url)) == schema.head()
        assert time.monotonic() - started < 5
        with Store.open(url, keys, outbox_bytes=0) as store:
            assert store.switches().state("north", "x") == "off"
            store.record_answer(answer())
            assert store.verify_audit().ok


def test_a_schema_of_an_unknown_newer_release_is_refused_and_left_alone(url: str, folder: Path) -> None:
    Store.open(url, folder, outbox_bytes=0).close()
    run(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="does not know"):
        Store.open(url, folder)
    with pytest.raises(SchemaMismatch, match="does not know"):
        schema.upgrade(read_url(url))


def test_this_release_still_runs_on_a_newer_schema_that_names_it(url: str, folder: Path) -> None:
    Store.open(url, folder, outbox_bytes=0).close()
    # What the next migration will do: add, not take away, and say whom it bears.
    run(url, "ALTER TABLE audit ADD COLUMN region VARCHAR(64)")
    run(url, f"UPDATE meta SET value = '0000 {schema.head()}' WHERE name = 'compatible_with'")
    run(url, "UPDATE alembic_version SET version_num = '9999'")
    with Store.open(url, folder, outbox_bytes=0) as store:
        store.record_answer(answer())
        assert store.verify_audit().ok


def test_a_database_with_other_tables_is_not_taken_over(postgres: Cluster) -> None:
    url = postgres.new_database()
    run(url, "CREATE TABLE somebody_elses (x int)")
    with pytest.raises(SchemaMismatch, match="database of its own"):
        schema.upgrade(read_url(url))


def test_another_secret_than_the_databases_own_is_refused(url: str, folder: Path) -> None:
    Store.open(url, folder, outbox_bytes=0).close()
    (folder / "state.key").write_bytes(b"x" * 32)
    with pytest.raises(StateError, match="not the secret"):
        Store.open(url, folder, outbox_bytes=0)


def test_a_file_that_is_no_database_is_refused_plainly(sqlite_url: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "state.sqlite").write_bytes(b"not a database, by any means" * 100)
    with pytest.raises(StateError, match="database did not answer"):
        Store.open(sqlite_url, folder)


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "not a url hunter2", "postgresql+psycopg://hunter2@h"],
)
def test_a_url_of_no_known_database_is_refused_without_repeating_it(url: str, tmp_path: Path) -> None:
    with pytest.raises(StateError) as refused:
        Store.open(url, tmp_path)
    assert "hunter2" not in str(refused.value)


def test_sqlite_runs_as_the_promises_need_it(sqlite_url: str, folder: Path) -> None:
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        with store._engines.writer.connect() as conn:
            pragmas = {
                name: conn.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout", "secure_delete", "trusted_schema")
            }
        # synchronous 2 is FULL (sqlite.org/pragma.html#pragma_synchronous)
        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": 2,
            "busy_timeout": 2000,
            "secure_delete": 1,
            "trusted_schema": 0,
        }
        with store._engines.readers.connect() as conn, pytest.raises(Exception, match="readonly"):
            conn.execute(text("DELETE FROM meta"))
    assert (folder / "state.key").stat().st_mode & 0o777 == 0o600
    assert (folder / "state.sqlite").stat().st_mode & 0o777 == 0o600
    assert sqlite3.sqlite_version_info >= (3, 35)  # RETURNING


def test_postgresql_runs_as_the_promises_need_it(postgres_url: str, folder: Path) -> None:
    with Store.open(postgres_url, folder, outbox_bytes=0) as store:
        with store._engines.writer.connect() as conn:
            for name, value in (("synchronous_commit", "on"), ("statement_timeout", "2s"), ("lock_timeout", "500ms")):
                assert conn.execute(text(f"SHOW {name}")).scalar() == value
        with store._engines.readers.connect() as conn, pytest.raises(Exception, match="read-only"):
            conn.execute(text("DELETE FROM meta"))
