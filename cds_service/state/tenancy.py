"""Which rows a transaction sees: PostgreSQL's row-level security, bound to settings of the transaction.

A transaction that names no tenant sees and changes nothing of any. Only the role that owns the tables may ask for all
tenants at once, and only on a connection that says so. SQLite has no such thing: there the queries alone tell tenants
apart, as they do here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection, text

TABLES = (
    *("audit", "audit_chain", "audit_sent", "audit_refused"),
    *("predictions", "cards_shown", "feedback", "suppression", "switches", "evidence"),
    *("film_cache", "film_jobs"),
)
"""All that begin with a tenant. The rest hold the installation's own: tokens by hash, models, the schema."""
EVERYONE = {"ordersight.everyone": "on"}
"""Settings of a connection that sees all tenants, if its role owns the tables."""
_TENANT = text("SELECT set_config('ordersight.tenant', :bound, true)")
_LINK = text("SELECT set_config('ordersight.link', :id, true)")
_FORCED = text(
    "SELECT bool_and(relrowsecurity AND relforcerowsecurity) FROM pg_class "
    "WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(:tables)"
)
_UNBOUND = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
_OWNER = text("SELECT pg_has_role(current_user, relowner, 'MEMBER') FROM pg_class WHERE oid = 'audit'::regclass")
_GRANTS = (
    'GRANT USAGE ON SCHEMA {schema} TO "{role}"',
    'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO "{role}"',
    # The record is added to; only retention, which is the owner's, takes anything away.
    'REVOKE UPDATE, DELETE ON audit FROM "{role}"',
    'REVOKE DELETE ON audit_chain FROM "{role}"',
    'REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM "{role}"',
    'GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO "{role}"',
)

Isolation = Literal["on", "prepared", "bypassed"]


def as_tenant(conn: Connection, tenant: str | None) -> None:
    """To the end of the transaction, see and write rows of this tenant alone; None: of no tenant."""
    if conn.dialect.name == "postgresql":
        # A setting that was never set reads as "", and "" is the installation's own tenant: hence the sign before it.
        conn.execute(_TENANT, {"bound": "" if tenant is None else f"={tenant}"})


def by_link(conn: Connection, id_: str) -> None:
    """See the one row of evidence with this id, whosever it is: who follows a link names no tenant."""
    if conn.dialect.name == "postgresql":
        conn.execute(_LINK, {"id": id_})


def isolate(conn: Connection) -> None:
    """Put the policies in force, for the tables' owner as well. A release before 0004 sees nothing from then on."""
    for table in TABLES:
        conn.execute(text(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
        conn.execute(text(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"))


def isolation(conn: Connection) -> Isolation:
    """Whether the policies bind this connection: not before `isolate`, and never a superuser's."""
    if conn.execute(_UNBOUND).scalar_one():
        return "bypassed"
    return "on" if is_forced(conn, TABLES) else "prepared"


def is_forced(conn: Connection, tables: Sequence[str]) -> bool:
    return bool(conn.execute(_FORCED, {"tables": list(tables)}).scalar())


def is_owner(conn: Connection) -> bool:
    return bool(conn.execute(_OWNER).scalar())


def let_in(conn: Connection, role: str) -> None:
    """Give the role the service connects as what it needs: rows, but no table and no change to the record."""
    schema = conn.execute(text("SELECT quote_ident(current_schema())")).scalar_one()
    for grant in _GRANTS:
        conn.execute(text(grant.format(schema=schema, role=role.replace('"', '""'))))
