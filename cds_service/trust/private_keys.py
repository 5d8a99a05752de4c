"""Our own signing keys: a file only its owner may read, the public half for whoever must check our signature."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from cds_service import strict_json
from cds_service.state.keys import sync_folder
from cds_service.trust.clients import Client, ClientsError

log = logging.getLogger(__name__)

Algorithm = Literal["ES384", "RS384"]
"""The two a SMART server must know (SMART App Launch 2.2, "Client Authentication: Asymmetric")."""
RSA_BITS = 3072
ASSERTION_S = 120
"""SMART allows five minutes; less, so that a clock a little ahead of the server's stays within them."""
KEPT = 2
"""The signing key and the one before: who has cached our key set goes on knowing what we signed a moment ago."""
MODE = 0o600


class KeyFileError(ClientsError):
    """A key file that cannot be used: which, and what would be right. Never what is in it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    algorithm: Algorithm
    key: ECKey | RSAKey = field(repr=False)


def new_key(path: Path, algorithm: str = "ES384", *, rotate: bool = False) -> SigningKey:
    """Make a key; with `rotate` it goes before the one there is, which is still published and no longer signs.

    Raises KeyFileError where a file is in the way, or none to rotate.
    """
    if algorithm not in get_args(Algorithm):
        raise KeyFileError(f"{algorithm!r} is not for SMART; write {' or '.join(get_args(Algorithm))}")
    if rotate != path.exists():
        raise KeyFileError(
            f"{path}: there is no key to rotate" if rotate else f"{path} is there already; --rotate puts a new key in"
        )
    before = load_keys(path)[: KEPT - 1] if rotate else ()
    made: ECKey | RSAKey = ECKey.generate_key("P-384") if algorithm == "ES384" else RSAKey.generate_key(RSA_BITS)
    first = SigningKey(made.thumbprint(), "ES384" if algorithm == "ES384" else "RS384", made)
    _write(path, {"keys": [_jwk(key, private=True) for key in (first, *before)]})
    return first


def load_keys(path: Path) -> tuple[SigningKey, ...]:
    """The keys of a file, a JWK or a JWK set; the first signs. Raises KeyFileError."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyFileError(f"{path} may be read by others; chmod 600 it")
            text = file.read(65_536)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror})") from None
    try:
        value = strict_json.parse(text)
    except strict_json.BadJson:
        raise KeyFileError(f"{path} is not JSON; write a private JWK or a set of them") from None
    entries = value.get("keys", [value]) if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise KeyFileError(f"{path} holds no key; write a private JWK or a set of them")
    return tuple(_read(path, entry) for entry in entries)


def _read(path: Path, jwk: Any) -> SigningKey:
    wrong = KeyFileError(
        f"{path} holds a key that cannot sign; write private keys, EC P-384 or RSA of 2048 bits and up"
    )
    if not isinstance(jwk, dict):
        raise wrong
    try:
        key: ECKey | RSAKey
        if jwk.get("kty") == "EC" and jwk.get("crv") == "P-384":
            key, algorithm = ECKey.import_key(jwk), "ES384"
        # Six bits in a character of `n`.
        elif jwk.get("kty") == "RSA" and len(jwk["n"]) * 6 >= 2048:
            key, algorithm = RSAKey.import_key(jwk), "RS384"
        else:
            raise wrong
    except (JoseError, ValueError, TypeError, KeyError):
        raise wrong from None
    if not key.is_private or jwk.get("alg", algorithm) != algorithm:
        raise wrong
    kid = jwk.get("kid")
    return SigningKey(
        kid if isinstance(kid, str) and kid else key.thumbprint(), "ES384" if algorithm == "ES384" else "RS384", key
    )


def assertion(key: SigningKey, client_id: str, audience: str, now: float) -> str:
    """A client assertion for one token request, good for two minutes (RFC 7523; SMART App Launch 2.2)."""
    header = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "exp": int(now) + ASSERTION_S,
        "jti": secrets.token_urlsafe(24),
    }
    signed: str = jwt.encode(header, claims, key.key, algorithms=[key.algorithm])
    return signed


def key_files(client: Client) -> tuple[Path, ...]:
    """The files of the keys we sign with at this client's authorization servers."""
    registered = [r for s in client.fhir if s.smart is not None for r in (s.smart.backend, s.smart.launch)]
    return tuple(Path(r.key_file) for r in registered if r is not None and r.key_file)


def published(clients: Sequence[Client]) -> dict[str, Any]:
    """The JWK set of all our keys, for `/.well-known/jwks.json`; a file that cannot be used is passed over."""
    keys: list[SigningKey] = []
    for path in dict.fromkeys(path for client in clients for path in key_files(client)):
        try:
            keys += load_keys(path)
        except KeyFileError as error:
            log.error("our key cannot be published", extra={"fields": {"why": str(error)}})
    return public_set(keys)


def public_set(keys: Iterable[SigningKey]) -> dict[str, Any]:
    """The JWK set to publish; a key that stands in several files is in it once."""
    return {"keys": list({key.kid: _jwk(key, private=False) for key in keys}.values())}


def _jwk(key: SigningKey, *, private: bool) -> dict[str, Any]:
    ops = "sign" if private else "verify"
    return {
        **key.key.as_dict(private=private),
        "kid": key.kid,
        "alg": key.algorithm,
        "use": "sig",
        "key_ops": [ops],
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all, and never readable for anyone else, not even while it is written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        try:
            os.write(handle, orjson.dumps(value, option=orjson.OPT_INDENT_2))
            os.fsync(handle)
        finally:
            os.close(handle)
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written ({error.strerror})") from None
