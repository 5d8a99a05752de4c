"""Rows of the audit saying who came to a card's evidence by the EHR's login, or was turned away after it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from cds_service.state import audit as chain
from cds_service.state.store import WAIT_S, Store
from cds_service.state.tables import dump


def note_launch(
    store: Store, tenant: str, at: datetime, *, user: str, service: str = "", patient_key: str = "", **details: Any
) -> None:
    """Durable once it returns; of `user`, the EHR's reference, the keyed hash is kept. Raises StateUnavailable."""
    user_key = store.key("user", tenant, user)
    store._writer.run(
        lambda conn: chain.append(
            conn,
            tenant,
            str(uuid.uuid4()),
            at,
            "evidence",
            service=service,
            patient_key=patient_key,
            user_key=user_key,
            details=dump(details),
        ),
        WAIT_S,
        tenant,
    )
