"""`SeenTokens`: which caller tokens were used already, across threads, processes and restarts."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Protocol

SWEEP_EVERY_S = 60.0


class StoreUnavailable(Exception):
    """The store cannot be asked, so a token can be neither accepted nor refused."""


class ReplayStore(Protocol):
    def burn(self, issuer: str, jti: str, until: float, now: float) -> bool:
        """True the first time this token is seen. Raises StoreUnavailable."""
        ...


class SeenTokens:
    """A table in an SQLite file; its primary key lets exactly one of several equal tokens pass.

    Times are seconds since 1970. A token is forgotten once `until` has passed, when it is refused as expired anyway.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._swept = 0.0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
            # In WAL mode NORMAL acknowledges before the disk has it: after a crash a token would pass twice.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "trusted_schema=OFF"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS seen (issuer TEXT, jti TEXT, until REAL, PRIMARY KEY (issuer, jti)) "
                "WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"{path} cannot be used ({type(error).__name__}); is the folder writable?") from None

    def burn(self, issuer: str, jti: str, until: float, now: float) -> bool:
        with self._lock:
            try:
                if now - self._swept > SWEEP_EVERY_S:
                    self._db.execute("DELETE FROM seen WHERE until < ?", (now,))
                    self._swept = now
                done = self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (issuer, jti, until))
            except sqlite3.Error as error:
                raise StoreUnavailable(type(error).__name__) from None
            return done.rowcount == 1

    def writable(self) -> bool:
        """Whether the file takes a write now; the write is taken back."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("INSERT OR IGNORE INTO seen VALUES ('', '', 0)")
            except sqlite3.Error:
                return False
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            return True

    def close(self) -> None:
        with self._lock:
            self._db.close()
