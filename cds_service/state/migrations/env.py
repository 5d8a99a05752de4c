"""How Alembic reaches the database: on the connection it is given, inside the caller's transaction."""

from __future__ import annotations

from alembic import context

from cds_service.state.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("run migrations with `cds-service state upgrade`")
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
