"""Sealed evidence behind a card's link."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _text(name: str, length: int = 256) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, server_default="")


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("id", sa.String(64), primary_key=True, nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        _text("card"),
        _text("service"),
        _text("patient_key", 64),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger()),
        _text("visit", 64),
        sa.Column("page", sa.LargeBinary()),
        sa.Column("films", sa.LargeBinary()),
    )
    op.create_index("evidence_expires", "evidence", ["expires"])
    op.create_index("evidence_patient", "evidence", ["patient_key"])
    meta = sa.table("meta", sa.column("name", sa.String()), sa.column("value", sa.Text()))
    # A table more does not disturb the release before: it may be rolled back to.
    op.execute(meta.update().where(meta.c.name == "compatible_with").values(value="0001"))
