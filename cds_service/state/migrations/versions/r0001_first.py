"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None


def _text(name: str, length: int = 256) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, server_default="")


def _row_id(name: str) -> sa.Column[int]:
    return sa.Column(
        name, sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True, nullable=False
    )


def _must(name: str, kind: sa.types.TypeEngine[Any], *, key: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=key, nullable=False, autoincrement=False)


def upgrade() -> None:
    op.create_table("meta", _must("name", sa.String(64), key=True), _must("value", sa.Text()))
    op.create_table(
        "audit",
        _must("tenant", sa.String(128), key=True),
        _must("seq", sa.BigInteger(), key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        _must("at", sa.BigInteger()),
        _text("kind", 32),
        _text("hook", 64),
        _text("hook_instance"),
        _text("service"),
        _text("service_version"),
        _text("config_digest", 128),
        _text("model"),
        _text("model_digest", 128),
        _text("patient_key", 64),
        _text("user_key", 64),
        _text("encounter_key", 64),
        _must("status", sa.Integer()),
        *(_must(name, sa.Text()) for name in ("inputs", "decisions", "cards", "ms", "details")),
        _must("previous", sa.String(64)),
        _must("hash", sa.String(64)),
    )
    op.create_index("audit_at", "audit", ["at"])
    op.create_index("audit_patient", "audit", ["patient_key"])
    op.create_index("audit_hook_instance", "audit", ["hook_instance"])
    op.create_table(
        "audit_chain",
        _must("tenant", sa.String(128), key=True),
        _must("head_seq", sa.BigInteger()),
        _must("head_hash", sa.String(64)),
        _must("start_seq", sa.BigInteger()),
        _must("start_hash", sa.String(64)),
    )
    op.create_table(
        "predictions",
        _must("audit_id", sa.String(64), key=True),
        _must("target", sa.String(128), key=True),
        _must("tenant", sa.String(128)),
        _must("at", sa.BigInteger()),
        _text("service"),
        _text("model"),
        _text("model_digest", 128),
        _text("input_digest", 128),
        _text("patient_key", 64),
        *(sa.Column(name, sa.Float()) for name in ("probability", "low", "high")),
    )
    op.create_index("predictions_at", "predictions", ["at"])
    op.create_index("predictions_patient", "predictions", ["patient_key"])
    op.create_table(
        "cards_shown",
        _must("tenant", sa.String(128), key=True),
        _must("card", sa.String(512), key=True),
        _must("audit_id", sa.String(64)),
        _text("service"),
        _text("service_version"),
        _text("indicator", 16),
        _must("rules", sa.Text()),
        _must("suggestions", sa.Text()),
        _text("model_digest", 128),
        _text("patient_key", 64),
        _text("user_key", 64),
        _text("encounter_key", 64),
        _text("fingerprint", 64),
        _must("shadow", sa.Boolean()),
        _must("shown_at", sa.BigInteger()),
    )
    op.create_index("cards_shown_fingerprint", "cards_shown", ["tenant", "fingerprint", "user_key"])
    op.create_index("cards_shown_at", "cards_shown", ["shown_at"])
    op.create_index("cards_shown_patient", "cards_shown", ["patient_key"])
    op.create_table(
        "feedback",
        _row_id("id"),
        _must("tenant", sa.String(128)),
        _must("card", sa.String(512)),
        _text("suggestion", 512),
        _text("outcome", 16),
        _must("outcome_at", sa.BigInteger()),
        _text("service"),
        _must("reasons", sa.Text()),
        _must("comment", sa.Text()),
        _must("matched", sa.Boolean()),
        _must("received_at", sa.BigInteger()),
        sa.UniqueConstraint("tenant", "card", "suggestion", "outcome", "outcome_at", name="feedback_natural_key"),
    )
    op.create_index("feedback_received", "feedback", ["received_at"])
    op.create_table(
        "suppression",
        _must("tenant", sa.String(128), key=True),
        _must("fingerprint", sa.String(64), key=True),
        _must("user_key", sa.String(64), key=True),
        sa.Column("until", sa.BigInteger()),
        _text("cause", 64),
        _text("patient_key", 64),
        _must("set_at", sa.BigInteger()),
    )
    op.create_index("suppression_patient", "suppression", ["patient_key"])
    op.create_table("jti", _must("token", sa.String(64), key=True), _must("exp", sa.BigInteger()))
    op.create_index("jti_exp", "jti", ["exp"])
    op.create_table(
        "switches",
        _row_id("seq"),
        _must("tenant", sa.String(128)),
        _must("scope", sa.String(16)),
        _must("name", sa.String(256)),
        _must("state", sa.String(16)),
        _must("thresholds", sa.Text()),
        _must("who", sa.String(256)),
        _must("why", sa.Text()),
        _must("at", sa.BigInteger()),
    )
    op.create_table(
        "models_active",
        _row_id("seq"),
        _must("name", sa.String(256)),
        _must("digest", sa.String(128)),
        _must("who", sa.String(256)),
        _must("why", sa.Text()),
        _must("at", sa.BigInteger()),
    )
    op.bulk_insert(
        sa.table("meta", sa.column("name", sa.String()), sa.column("value", sa.Text())),
        [{"name": "compatible_with", "value": ""}],
    )
    _append_only()


def _append_only() -> None:
    """An audit row cannot be changed by accident; deleting is left to retention. The chain shows what is on purpose."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'audit rows are never changed'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_append_only()"
        )
    else:
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE ON audit "
            "BEGIN SELECT RAISE(ABORT, 'audit rows are never changed'); END"
        )
