"""`Desk`: what the administrator's console asks of durable state beyond what answering calls needs."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from cds_service.state import audit as chain
from cds_service.state.store import WAIT_S, Store
from cds_service.state.tables import dump


class Desk:
    """Over an open store; every method raises StateUnavailable when the database does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, who: str, did: str, at: datetime, **details: Any) -> None:
        """A row of the installation's audit chain saying what an administrator did or tried."""
        said = dump({"who": who, "did": did, **details})
        self._store._writer.run(
            lambda conn: chain.append(conn, "", str(uuid.uuid4()), at, "admin", details=said), WAIT_S
        )
