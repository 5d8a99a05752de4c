"""Films encoded ahead of any order, and the queue of those still to be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

OF_OWNER = """
CREATE POLICY of_owner ON {table} USING (
    current_setting('ordersight.everyone', true) = 'on'
    AND (SELECT pg_has_role(current_user, relowner, 'MEMBER') FROM pg_catalog.pg_class WHERE oid = '{table}'::regclass)
)"""


def upgrade() -> None:
    op.create_table(
        "film_cache",
        sa.Column("tenant", sa.String(128), primary_key=True, nullable=False),
        sa.Column("film_key", sa.String(64), primary_key=True, nullable=False),
        sa.Column("pixels", sa.String(64), primary_key=True, nullable=False),
        sa.Column("encoder", sa.String(64), primary_key=True, nullable=False),
        sa.Column("study_key", sa.String(64), nullable=False),
        sa.Column("patient_key", sa.String(64), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
    )
    op.create_index("film_cache_study", "film_cache", ["tenant", "study_key", "encoder"])
    op.create_index("film_cache_patient", "film_cache", ["patient_key"])
    op.create_index("film_cache_expires", "film_cache", ["expires"])
    op.create_table(
        "film_jobs",
        sa.Column("tenant", sa.String(128), primary_key=True, nullable=False),
        sa.Column("name", sa.String(64), primary_key=True, nullable=False),
        sa.Column("patient_key", sa.String(64), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("dead", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False, server_default=""),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
    )
    op.create_index("film_jobs_due", "film_jobs", ["dead", "due"])
    op.create_index("film_jobs_patient", "film_jobs", ["patient_key"])
    if op.get_bind().dialect.name == "postgresql":
        for table in ("film_cache", "film_jobs"):
            op.execute(
                f"CREATE POLICY of_tenant ON {table} USING ('=' || tenant = current_setting('ordersight.tenant', true))"
            )
            op.execute(OF_OWNER.format(table=table))
    meta = sa.table("meta", sa.column("name", sa.String()), sa.column("value", sa.Text()))
    # Tables more do not disturb the releases before: they may be rolled back to.
    op.execute(meta.update().where(meta.c.name == "compatible_with").values(value="0001 0002 0003 0004"))
