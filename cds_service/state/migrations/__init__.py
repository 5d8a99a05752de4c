"""Alembic migrations. Forward only; each must leave the release before it running (expand, later contract)."""
