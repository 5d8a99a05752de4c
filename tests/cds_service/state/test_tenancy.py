"""What PostgreSQL itself keeps from a query that forgets its tenant, or names another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import typer
from alembic import command
from alembic.migration import MigrationContext
from postgres_cluster import Cluster, as_superuser
from sqlalchemy import Connection, text
from state_cases import NOW, answer, card, item
from typer.testing import CliRunner

from cds_service.cli import state as commands
from cds_service.state import schema
from cds_service.state.engines import maintenance_engine, read_url
from cds_service.state.errors import StateError
from cds_service.state.sealed import SealedEvidence
from cds_service.state.store import Store
from cds_service.state.tables import metadata
from cds_service.state.tenancy import TABLES, as_tenant, by_link

SERVICE = "ordersight_service"
"""The role the service connects as: it owns nothing."""


def as_service(url: str) -> str:
    return url.replace("//ordersight@", f"//{SERVICE}@")


@pytest.fixture
def parted(postgres: Cluster, postgres_url: str, folder: Path) -> Iterator[Store]:
    """Two tenants' answers, feedback, silences, switches and evidence, written by a role that owns nothing."""
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as conn:
        if not conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [SERVICE]).fetchone():
            conn.execute(f"CREATE ROLE {SERVICE} LOGIN")
    schema.grant(read_url(postgres_url), SERVICE)
    with Store.open(as_service(postgres_url), folder, outbox_bytes=1 << 16, owner_url=postgres_url) as store:
        for tenant in ("north", "south"):
            store.record_answer(answer(card(f"{tenant}-1", fingerprint="f1"), tenant=tenant, patient_key="p"))
            store.record_feedback(tenant, [item(f"{tenant}-1")])
            store.suppress(tenant, "f1", None, "answered")
            store.switch("service", "imaging-safety", "shadow", who="dr.a", why="trial", tenant=tenant)
            store.evidence.keep(sealed(tenant))
        yield store


def sealed(tenant: str) -> SealedEvidence:
    return SealedEvidence(
        id=tenant.ljust(64, "0"),
        tenant=tenant,
        card=f"{tenant}-1",
        service="imaging-safety",
        patient_key="p",
        made_at=NOW,
        expires=NOW + timedelta(minutes=15),
        page=b"sealed",
    )


@pytest.fixture
def conn(parted: Store) -> Iterator[Connection]:
    """A connection of the service, able to write, before it has named a tenant."""
    with parted._engines.writer.connect() as opened, opened.begin() as transaction:
        yield opened
        transaction.rollback()


def rows(conn: Connection, table: str) -> list[str]:
    return list(conn.execute(text(f"SELECT tenant FROM {table}")).scalars())


WRITTEN = ("audit", "audit_chain", "predictions", "cards_shown", "feedback", "suppression", "switches", "evidence")


def test_the_policies_lie_on_every_table_that_has_a_tenant() -> None:
    assert {t.name for t in metadata.sorted_tables if "tenant" in t.columns} == set(TABLES)


@pytest.mark.parametrize("table", WRITTEN)
def test_a_query_sees_no_row_without_a_tenant_and_only_its_own_with_one(conn: Connection, table: str) -> None:
    assert rows(conn, table) == []
    as_tenant(conn, "north")
    assert set(rows(conn, table)) == {"north"}
    as_tenant(conn, "east")
    assert rows(conn, table) == []
    as_tenant(conn, "")  # the installation's own rows; nothing of a hospital is among them
    assert set(rows(conn, table)) <= {""}
    as_tenant(conn, None)
    assert rows(conn, table) == []


@pytest.mark.parametrize("table", ["predictions", "cards_shown", "feedback", "suppression", "evidence", "switches"])
@pytest.mark.parametrize("tenant", [None, "east", "north' OR '1'='1"])
def test_a_change_without_its_tenant_changes_nothing(conn: Connection, table: str, tenant: str | None) -> None:
    as_tenant(conn, tenant)
    assert conn.execute(text(f"DELETE FROM {table}")).rowcount == 0
    assert conn.execute(text(f"UPDATE {table} SET tenant = 'east'")).rowcount == 0


@pytest.mark.parametrize("tenant", [None, "south"])
def test_a_row_cannot_be_put_under_another_tenant(conn: Connection, tenant: str | None) -> None:
    as_tenant(conn, tenant)
    sql = "INSERT INTO suppression (tenant, fingerprint, user_key, set_at) VALUES ('north', 'f9', '', 0)"
    with pytest.raises(Exception, match="row-level security"):
        conn.execute(text(sql))


def test_a_row_cannot_be_moved_to_another_tenant(conn: Connection) -> None:
    as_tenant(conn, "north")
    with pytest.raises(Exception, match="row-level security"):
        conn.execute(text("UPDATE suppression SET tenant = 'south'"))


def test_what_a_transaction_named_is_forgotten_with_it(parted: Store) -> None:
    with parted._engines.writer.connect() as conn:
        with conn.begin():
            as_tenant(conn, "north")
            assert rows(conn, "audit")
        with conn.begin():  # the same session, as the pool hands it on
            assert rows(conn, "audit") == []


def test_the_service_cannot_ask_for_all_tenants_whatever_it_says(conn: Connection) -> None:
    conn.execute(text("SELECT set_config('ordersight.everyone', 'on', true)"))
    assert rows(conn, "cards_shown") == []
    with pytest.raises(Exception, match="permission denied"):
        conn.execute(text("SET LOCAL ROLE ordersight"))


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET status = 500",
        "DELETE FROM audit",
        "DELETE FROM audit_chain",
        "UPDATE alembic_version SET version_num = '0001'",
        "DROP TABLE audit",
        "ALTER TABLE audit DISABLE ROW LEVEL SECURITY",
        "DROP POLICY of_tenant ON audit",
        "CREATE TABLE other (x int)",
    ],
)
def test_the_service_can_neither_rewrite_the_record_nor_change_the_tables(conn: Connection, sql: str) -> None:
    as_tenant(conn, "north")
    with pytest.raises(Exception, match=r"permission denied|must be owner"):
        conn.execute(text(sql))


def test_a_link_opens_one_row_of_evidence_and_changes_none(conn: Connection) -> None:
    by_link(conn, sealed("south").id)
    assert rows(conn, "evidence") == ["south"]
    assert conn.execute(text("UPDATE evidence SET visit = 'x'")).rowcount == 0
    assert rows(conn, "cards_shown") == []


def test_the_owner_sees_all_tenants_only_where_it_says_so(parted: Store, postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as conn:
        assert conn.execute("SELECT count(*) FROM cards_shown").fetchone() == (0,)
        conn.execute("SELECT set_config('ordersight.everyone', 'on', true)")
        assert conn.execute("SELECT count(*) FROM cards_shown").fetchone() == (2,)


def test_what_looks_after_all_tenants_works_as_the_owner(parted: Store, tmp_path: Path) -> None:
    assert parted.verify_audit().rows == 6
    assert len(list(parted.export_audit())) == 6
    assert len(list(parted.export_feedback())) == 2
    assert {s.tenant for s in parted.switches()} == {"north", "south"}
    assert parted.backup(tmp_path / "backup").rows["cards_shown"] == 2
    assert parted.evidence.find(sealed("north").id) is not None
    assert parted.evidence.open(sealed("north").id, "visit", NOW)
    assert parted.evidence.sweep(NOW + timedelta(hours=1)) == 2
    assert parted.erase("north", "p").removed["cards_shown"] == 1
    removed = parted.retention(NOW + timedelta(days=3000), dry_run=False)
    assert (removed["audit"], removed["cards_shown"]) == (8, 1)
    assert parted.verify_audit().ok


def test_a_service_role_without_its_owner_does_not_start(parted: Store, postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="ORDERSIGHT_STATE_OWNER_URL"):
        Store.open(as_service(postgres_url), tmp_path / "state", outbox_bytes=0)


def test_an_older_database_is_forced_only_when_told_and_until_then_bears_the_release_before(
    postgres: Cluster, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    with maintenance_engine(read_url(url)).begin() as conn:
        command.upgrade(schema.config(conn), "0003")
    schema.upgrade(read_url(url))
    # What the release before does: it names no tenant.
    with psycopg.connect(url.replace("+psycopg", "")) as old:
        old.execute("INSERT INTO suppression (tenant, fingerprint, user_key, set_at) VALUES ('north', 'f', '', 0)")
        assert old.execute("SELECT count(*) FROM suppression").fetchone() == (1,)
    with Store.open(url, folder, outbox_bytes=0):
        pass
    assert any(getattr(r, "fields", {}).get("row_level_security") == "prepared" for r in caplog.records)
    monkeypatch.setenv("ORDERSIGHT_STATE_URL", url)
    monkeypatch.setenv("ORDERSIGHT_STATE_DIR", str(folder))
    program = typer.Typer()
    commands.mount(program)
    assert CliRunner().invoke(program, ["state", "isolate"]).exit_code == 0
    caplog.clear()
    with Store.open(url, folder, outbox_bytes=0), psycopg.connect(url.replace("+psycopg", "")) as old:
        assert old.execute("SELECT count(*) FROM suppression").fetchone() == (0,)
    assert not caplog.records
    with maintenance_engine(read_url(url)).connect() as conn:
        assert MigrationContext.configure(conn).get_current_revision() == schema.head()
        compatible = conn.execute(text("SELECT value FROM meta WHERE name = 'compatible_with'")).scalar()
        assert not {"0001", "0002", "0003"} & set(str(compatible).split())


def test_a_superuser_is_told_that_no_policy_binds_it(
    postgres_url: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    superuser = as_superuser(postgres_url).replace("postgresql:", "postgresql+psycopg:")
    Store.open(superuser, folder, outbox_bytes=0).close()
    assert any(getattr(r, "fields", {}).get("row_level_security") == "bypassed" for r in caplog.records)


def test_an_answer_costs_little_more_where_the_database_keeps_tenants_apart(
    postgres: Cluster, parted: Store, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same store beside it without force; in turns, so that what else this machine does falls on both."""
    url = postgres.new_database()
    schema.upgrade(read_url(url))
    with psycopg.connect(as_superuser(url), autocommit=True) as conn:
        for table in TABLES:
            conn.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    ms: dict[str, list[float]] = {"on": [], "off": []}
    with Store.open(url, tmp_path / "other", outbox_bytes=0) as free:
        for n in range(300):
            for name, store in (("on", parted), ("off", free)):
                began = time.perf_counter()
                store.record_answer(answer(card(f"cost-{n}"), tenant="north"), timeout=5)
                ms[name].append(1000 * (time.perf_counter() - began))
    on, off = (statistics.median(ms[name]) for name in ("on", "off"))
    with capsys.disabled():
        print(f"\n  an answer with row-level security {on:.2f} ms, without {off:.2f} ms")
    assert on < 1.5 * off
