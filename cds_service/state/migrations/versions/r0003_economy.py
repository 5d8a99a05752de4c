"""What tells a card that was shown before: the order, the setting and the moment of the call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("orders", sa.Text(), nullable=False, server_default="[]"),
        sa.Column("setting", sa.String(16), nullable=False, server_default=""),
        sa.Column("hook_instance", sa.String(256), nullable=False, server_default=""),
        sa.Column("event_key", sa.String(64), nullable=False, server_default=""),
        sa.Column("latest_at", sa.BigInteger()),
    ):
        op.add_column("cards_shown", column)
    op.create_index("cards_shown_user", "cards_shown", ["tenant", "user_key", "latest_at"])
    meta = sa.table("meta", sa.column("name", sa.String()), sa.column("value", sa.Text()))
    # Columns with defaults do not disturb the releases before: they may be rolled back to.
    op.execute(meta.update().where(meta.c.name == "compatible_with").values(value="0001 0002"))
