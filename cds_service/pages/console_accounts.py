"""`Accounts`: who may open the admin console, in a file of the state folder that only this service reads.

Kept apart from the state database: its backups and exports then hold no password, and no EHR's token leads here.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import sqlite3
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import argon2
import msgspec
from werkzeug.wrappers import Response

from cds_service.state.errors import StateError, StateUnavailable

FILE = "admins.sqlite"
COOKIE = "ordersight-admin"
Role = Literal["view", "change"]
SHORTEST, LONGEST = 15, 1024
"""Characters of a password: 15 where it is the only factor (NIST SP 800-63B-4, 3.1.1.2)."""
TRIES = 5
LOCKED = timedelta(minutes=15)
IDLE, WHOLE = timedelta(minutes=30), timedelta(hours=8)
SEEN_EVERY = timedelta(minutes=1)
"""A session's last use is written no more often than this."""
_NAME = re.compile(r"[a-z][a-z0-9._@-]{0,63}\Z")
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS admins (name TEXT PRIMARY KEY, role TEXT NOT NULL, password TEXT NOT NULL, "
    "made_at REAL NOT NULL, failures INTEGER NOT NULL DEFAULT 0, failed_at REAL NOT NULL DEFAULT 0) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS sessions (token TEXT PRIMARY KEY, name TEXT NOT NULL, began_at REAL NOT NULL, "
    "seen_at REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS elsewhere (token TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, "
    "began_at REAL NOT NULL, seen_at REAL NOT NULL) WITHOUT ROWID",
)
"""`elsewhere`: sessions of users an identity provider vouched for, with the role they had when they logged in."""


class AccountError(StateError):
    """An account cannot be made or changed like this; the text says what would be right."""


class Account(msgspec.Struct, frozen=True):
    name: str
    role: Role
    made_at: float
    locked: bool


class Session(msgspec.Struct, frozen=True):
    """Who is logged in; `csrf` must come back with every form."""

    name: str
    role: Role
    csrf: str


class Accounts:
    """Open it once per process; every method may be called from any thread, and other processes see it at once.

    Every method raises StateUnavailable when the file cannot be read or written.
    """

    def __init__(self, folder: Path, *, elsewhere: bool = False) -> None:
        """`elsewhere` says that an identity provider logs in as well; without it its sessions are no more."""
        self._elsewhere = elsewhere
        self._lock = threading.Lock()
        # argon2id with the memory of OWASP's password storage cheat sheet; one at a time, so that guesses queue.
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._hashing = threading.Lock()
        self._nobody = self._hasher.hash(secrets.token_urlsafe())
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
            for statement in (
                "PRAGMA journal_mode=WAL",
                "PRAGMA synchronous=FULL",
                "PRAGMA secure_delete=ON",
                *_SCHEMA,
            ):
                self._db.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise StateUnavailable(f"{path} cannot be used ({type(error).__name__})") from None

    def add(self, name: str, role: str, password: str, now: datetime) -> None:
        """Raises AccountError for a name that is taken or malformed, an unknown role, a password too short."""
        if not _NAME.match(name):
            raise AccountError("a name is 1 to 64 lower-case letters, digits, . _ @ and -, a letter first")
        if role not in get_args(Role):
            raise AccountError("a role is view or change")
        kept = self._hashed(password)
        row = (name, role, kept, now.timestamp())
        done = self._write(
            "INSERT INTO admins (name, role, password, made_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row
        )
        if not done:
            raise AccountError(f"{name} exists; remove it first to give it another role or password")

    def remove(self, name: str) -> None:
        """Remove an account and end its sessions. Raises AccountError for a name that is not there."""
        if not self._write("DELETE FROM admins WHERE name = ?", (name,)):
            raise AccountError(f"there is no admin {name}")
        self._write("DELETE FROM sessions WHERE name = ?", (name,))

    def unlock(self, name: str) -> None:
        if not self._write("UPDATE admins SET failures = 0 WHERE name = ?", (name,)):
            raise AccountError(f"there is no admin {name}")

    def all(self, now: datetime) -> tuple[Account, ...]:
        rows = self._read("SELECT name, role, made_at, failures, failed_at FROM admins ORDER BY name", ())
        since = (now - LOCKED).timestamp()
        return tuple(
            Account(n, role, made, failures >= TRIES and failed > since) for n, role, made, failures, failed in rows
        )

    def known(self, name: str) -> bool:
        return bool(self._read("SELECT 1 FROM admins WHERE name = ?", (name,)))

    def any(self) -> bool:
        return bool(self._read("SELECT 1 FROM admins LIMIT 1", ()))

    def login(self, name: str, password: str, now: datetime) -> str | None:
        """The token of a new session, for a cookie; None for a wrong name or password, and while locked.

        After TRIES failures in a row the account takes no password for LOCKED. Each takes the same time.
        """
        at, since = now.timestamp(), (now - LOCKED).timestamp()
        # The try is counted before it is judged: guesses made at the same time count each.
        allowed = self._write(
            "UPDATE admins SET failures = CASE WHEN failed_at <= :since THEN 1 ELSE failures + 1 END, failed_at = :at "
            "WHERE name = :name AND (failures < :tries OR failed_at <= :since)",
            {"since": since, "at": at, "name": name, "tries": TRIES},
        )
        found = self._read("SELECT password FROM admins WHERE name = ?", (name,)) if allowed else []
        with self._hashing:
            try:
                right = self._hasher.verify(found[0][0] if found else self._nobody, password[:LONGEST]) and bool(found)
            except argon2.exceptions.VerificationError:
                right = False
        if not right:
            return None
        self._write("UPDATE admins SET failures = 0 WHERE name = ?", (name,))
        token = secrets.token_urlsafe(32)
        self._write("DELETE FROM sessions WHERE began_at <= ?", ((now - WHOLE).timestamp(),))
        self._write("INSERT INTO sessions VALUES (?, ?, ?, ?)", (_known_as(token), name, at, at))
        return token

    def session(self, token: str, now: datetime) -> Session | None:
        """Whose session this is, under the role the account has now; None when it is unknown or over."""
        alive = (_known_as(token), (now - WHOLE).timestamp(), (now - IDLE).timestamp())
        table = "sessions"
        rows = self._read(
            "SELECT s.name, a.role, s.seen_at FROM sessions s JOIN admins a ON a.name = s.name "
            "WHERE s.token = ? AND s.began_at > ? AND s.seen_at > ?",
            alive,
        )
        if not rows and self._elsewhere:
            table = "elsewhere"
            rows = self._read(
                "SELECT name, role, seen_at FROM elsewhere WHERE token = ? AND began_at > ? AND seen_at > ?", alive
            )
        if not token or not rows:
            return None
        name, role, seen = rows[0]
        if seen < (now - SEEN_EVERY).timestamp():
            # `table` is one of the two above.
            self._write(f"UPDATE {table} SET seen_at = ? WHERE token = ?", (now.timestamp(), _known_as(token)))  # noqa: S608
        return Session(name, role, hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest())

    def begin_elsewhere(self, name: str, role: Role, now: datetime) -> str:
        """The token of a new session of somebody an identity provider has vouched for."""
        token, at = secrets.token_urlsafe(32), now.timestamp()
        self._write("DELETE FROM elsewhere WHERE began_at <= ?", ((now - WHOLE).timestamp(),))
        self._write("INSERT INTO elsewhere VALUES (?, ?, ?, ?, ?)", (_known_as(token), name, role, at, at))
        return token

    def logout(self, token: str) -> None:
        self._write("DELETE FROM sessions WHERE token = ?", (_known_as(token),))
        self._write("DELETE FROM elsewhere WHERE token = ?", (_known_as(token),))

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _hashed(self, password: str) -> str:
        if not SHORTEST <= len(password) <= LONGEST:
            raise AccountError(f"a password has {SHORTEST} to {LONGEST} characters")
        return self._hasher.hash(password)

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise StateUnavailable(f"{FILE} cannot be read ({type(error).__name__})") from None

    def _write(self, statement: str, values: tuple[object, ...] | dict[str, object]) -> bool:
        with self._lock:
            try:
                return self._db.execute(statement, values).rowcount > 0
            except sqlite3.Error as error:
                raise StateUnavailable(f"{FILE} cannot be written ({type(error).__name__})") from None


def set_session(response: Response, token: str, path: str, *, secure: bool) -> None:
    """The session's cookie: for the console alone, for our own pages alone, for no script."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(WHOLE.total_seconds()),
        path=path,
        httponly=True,
        secure=secure,
        samesite="Strict",
    )


def _known_as(token: str) -> str:
    """What the file holds of a session's token: whoever reads the file cannot use it."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
