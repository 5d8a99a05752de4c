"""Sealing with a key that is in the link only: AES-256-GCM, bound to the place it is kept in.

The identifier names the row (its hash does), the key opens it. Neither can be had from the other, nor from the
database. Source: NIST SP 800-38D; a key seals a handful of blobs once, so random 96-bit nonces cannot collide.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ID_BYTES = 16
KEY_BYTES = 32
NONCE_BYTES = 12
MOST_BYTES = 50_000_000
"""Unpacked; our own data, so only a bug comes near."""


class WrongKey(Exception):
    """The key does not open this, or this is not what was sealed."""


def new_secret(count: int) -> str:
    return _text(secrets.token_bytes(count))


def known_as(secret: str) -> str:
    """How an identifier or a visit is known to the database: its SHA-256, hex."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def seal(data: bytes, key: str, place: str) -> bytes:
    """Compress and seal; `place` (row and part) must be the same to open it."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(_bytes(key)).encrypt(nonce, zlib.compress(data, 6), place.encode())


def unseal(sealed: bytes, key: str, place: str) -> bytes:
    """Raises WrongKey, whatever it was that did not fit."""
    try:
        packed = AESGCM(_bytes(key)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
    except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
        raise WrongKey from None
    return zlib.decompressobj().decompress(packed, MOST_BYTES)


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (NotBase64, ValueError):
        raise WrongKey from None
    # The last character has bits to spare: a second spelling of a key would be one flipped character that opens.
    if len(raw) != KEY_BYTES or _text(raw) != text:
        raise WrongKey
    return raw
