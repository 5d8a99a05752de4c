"""`UsedTokens`: which caller tokens were used already, across threads, processes and restarts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from cds_service.state.errors import StateUnavailable
from cds_service.state.store import Store


class StoreUnavailable(Exception):
    """The store cannot be asked, so a token can be neither accepted nor refused."""


class ReplayStore(Protocol):
    def burn(self, issuer: str, jti: str, until: float, now: float) -> bool:
        """True the first time this token is seen. Raises StoreUnavailable."""
        ...


class UsedTokens:
    """The table of the durable state; its primary key lets exactly one of several equal tokens pass.

    Times are seconds since 1970. A token is forgotten an hour after `until`, when it is refused as expired anyway.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def burn(self, issuer: str, jti: str, until: float, now: float) -> bool:
        try:
            return self._store.use_jti(
                issuer, jti, datetime.fromtimestamp(until, UTC), datetime.fromtimestamp(now, UTC)
            )
        except StateUnavailable as error:
            raise StoreUnavailable(str(error)) from None
