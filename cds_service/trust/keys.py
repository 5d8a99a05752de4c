"""`KeySets`: the public keys of registered callers, from their files and key servers, never from a token."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from cds_service import strict_json
from cds_service.deadline import Deadline, Monotonic
from cds_service.transport import Ask, Call, FetchFailed, Transport
from cds_service.trust.clients import Client, ClientsError
from cds_service.trust.origins import Base, NotAllowed, parse, read_base
from cds_service.trust.private_keys import key_files, load_keys

log = logging.getLogger(__name__)

FETCH_S = 2.0
FETCH_BYTES = 65_536
COOL_DOWN_S = 60.0
"""Unknown key ids make us ask a key server at most this often."""
REFRESH_S = 3600.0
KEPT_S = 24 * 3600.0
"""Keys go on serving this long while their server is down."""
RSA_BITS = 2048
TOKEN_BYTES = 16_384
ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "RSA": ("RS256", "RS384"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
}
"""What a key may sign with, by its own type. A token's `alg` only chooses among these."""


Refresh = Literal["ok", "failed"]


class KeysUnavailable(Exception):
    """This caller's keys were never read, and cannot be read now."""


class BadKeySet(ValueError):
    """What came is not a key set."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    kid: str
    algorithms: tuple[str, ...]
    key: ECKey | RSAKey = field(repr=False)


@dataclass(slots=True)
class _Known:
    """The keys of one caller, and when they were read and last asked for (monotonic seconds)."""

    keys: tuple[VerifyingKey, ...] = ()
    read_at: float | None = None
    tried_at: float | None = None
    under_way: threading.Event | None = None


class KeySets:
    """One cached key set per registered client. `refreshed` counts how reading them ended, since the start.

    Raises ClientsError for a client whose keys could never be read safely.
    """

    def __init__(
        self, clients: Sequence[Client], transport: Transport | None = None, clock: Monotonic = time.monotonic
    ) -> None:
        self._transport = transport or Transport()
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], _Known] = {}
        self.refreshed: Counter[Refresh] = Counter()
        check_sources(clients)

    def warm(self, clients: Sequence[Client]) -> None:
        """Begin to read every set, so that the first call need not wait for it."""
        for client in clients:
            if client.issuer and (client.jwks_file or client.jwks_url):
                self._refresh(client, self._of(client))

    def find(self, client: Client, kid: str) -> tuple[VerifyingKey, ...]:
        """The client's keys of this id, read again for an unknown id at most once a minute.

        Raises KeysUnavailable when no set of this client was read within the last day.
        """
        known = self._of(client)
        found = self._current(known, kid)
        if found:
            if known.read_at is not None and self._clock() - known.read_at > REFRESH_S:
                self._refresh(client, known)
            return found
        under_way = self._refresh(client, known)
        if under_way is not None:
            under_way.wait(FETCH_S)
        found = self._current(known, kid)
        if not found and (known.read_at is None or self._clock() - known.read_at > KEPT_S):
            raise KeysUnavailable
        return found

    def _of(self, client: Client) -> _Known:
        """Clients come and go while we run; one registered anew with other keys does not keep the old ones."""
        with self._lock:
            return self._known.setdefault((client.issuer, client.jwks_url, client.jwks_file), _Known())

    def _current(self, known: _Known, kid: str) -> tuple[VerifyingKey, ...]:
        if known.read_at is None or self._clock() - known.read_at > KEPT_S:
            return ()
        return tuple(key for key in known.keys if key.kid == kid)

    def _refresh(self, client: Client, known: _Known) -> threading.Event | None:
        """Start reading, or join a reading under way; None within the cool-down."""
        with self._lock:
            if known.under_way is not None:
                return known.under_way
            if known.tried_at is not None and self._clock() - known.tried_at < COOL_DOWN_S:
                return None
            known.tried_at = self._clock()
            known.under_way = done = threading.Event()
        # On a thread: a set that is only old is read again without holding up the call that noticed.
        threading.Thread(target=self._read, args=(client, known, done), name="jwks", daemon=True).start()
        return done

    def _read(self, client: Client, known: _Known, done: threading.Event) -> None:
        reason = ""
        try:
            text = Path(client.jwks_file).read_bytes() if client.jwks_file else fetch(self._transport, client.jwks_url)
            keys = read_key_set(text)
            known.keys, known.read_at = keys, self._clock()
        except (OSError, FetchFailed, NotAllowed, BadKeySet) as error:
            reason = type(error).__name__
        finally:
            with self._lock:
                known.under_way = None
            done.set()
        self.refreshed["failed" if reason else "ok"] += 1
        level = logging.WARNING if reason else logging.INFO
        log.log(level, "key set", extra={"fields": {"client": client.name, "keys": len(known.keys), "error": reason}})


def check_sources(clients: Sequence[Client]) -> None:
    """Raises ClientsError for a client whose keys could never be read safely, or for whom ours could not sign."""
    for client in clients:
        for path in key_files(client):
            load_keys(path)
        if not client.jwks_url:
            continue
        try:
            _address(client.jwks_url)
        except (NotAllowed, ValueError) as error:
            raise ClientsError(f"client {client.name}: jwks_url: {error}") from None


def fetch(transport: Transport, url: str) -> bytes:
    """GET a key set within FETCH_S and FETCH_BYTES, without following redirects. Raises FetchFailed or NotAllowed."""
    base, below = _address(url)
    return transport.get(Call(base, Deadline.after(FETCH_S)), Ask(below, "application/json", FETCH_BYTES)).body


def _address(url: str) -> tuple[Base, str]:
    """The server of a registered URL and the path below it. Raises ValueError or NotAllowed."""
    parts = parse(url)
    # Written down by the security officer, who may mean a server inside the hospital.
    base = read_base(f"{parts.scheme}://{parts.host}:{parts.port}", allow_private=True)
    return base, base.below(url)


def signed_by(token: str, header: Mapping[str, Any], keys: Sequence[VerifyingKey]) -> bool:
    """Whether one of these keys signed the compact token, by an algorithm that is the key's own."""
    for key in keys:
        if header["alg"] not in key.algorithms:
            continue
        registry = jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
        registry.max_header_length = TOKEN_BYTES
        try:
            jws.deserialize_compact(token, key.key, registry=registry)
        except (JoseError, ValueError, TypeError):
            continue
        return True
    return False


def read_key_set(text: bytes) -> tuple[VerifyingKey, ...]:
    """The signature keys of a JWK set that we can use; the others are passed over. Raises BadKeySet."""
    try:
        value = strict_json.parse(text)
    except strict_json.BadJson as error:
        raise BadKeySet(str(error)) from None
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise BadKeySet("no `keys`")
    return tuple(key for key in map(_read_key, entries) if key is not None)


def _read_key(jwk: Any) -> VerifyingKey | None:
    if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str) or jwk.get("use", "sig") != "sig":
        return None
    if "verify" not in jwk.get("key_ops", ["verify"]):
        return None
    # Only the public members: whatever else stands in the set is not our business.
    public = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}
    try:
        key: ECKey | RSAKey
        if jwk.get("kty") == "RSA":
            # Six bits in a character of `n`; asked before the import, which warns of short keys.
            if len(jwk["n"]) * 6 < RSA_BITS:
                return None
            key = RSAKey.import_key(public)
            algorithms = ALGORITHMS["RSA"]
        elif jwk.get("kty") == "EC":
            key = ECKey.import_key(public)
            algorithms = ALGORITHMS.get(key.curve_name, ())
        else:
            return None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    allowed = tuple(a for a in algorithms if jwk.get("alg", a) == a)
    return VerifyingKey(jwk["kid"], allowed, key) if allowed else None
