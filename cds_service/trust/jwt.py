"""`verify_client`: which registered client makes a call, proved by its CDS Hooks JWT.

Source: CDS Hooks 2.0 "Trusting CDS Clients". The order of the checks is that of its best practices: issuer known,
audience ours, times, signature, and only then the token is burnt, so that nobody can burn another's.
"""

from __future__ import annotations

import binascii
import logging
import re
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from cds_service import strict_json
from cds_service.errors import Unauthorized, Unavailable
from cds_service.settings import Settings
from cds_service.trust.clients import Client, Clients
from cds_service.trust.keys import TOKEN_BYTES, KeySets, KeysUnavailable, VerifyingKey, signed_by
from cds_service.trust.replay import ReplayStore, StoreUnavailable

log = logging.getLogger(__name__)

SKEW_S = 60.0
"""Clocks may differ by this much; the official sandbox rounds `iat` up to half a second into the future."""
LIFETIME_S = 3600.0
REFUSAL = "the caller is not known here"
"""The same words for every refusal: what was wrong is in our log, not in the answer."""

_BEARER = re.compile(r"(?i)bearer +([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


Refusal = Literal[
    "no-token",
    "malformed",
    "issuer",
    "header",
    "crit",
    "jku",
    "audience",
    "times",
    "expired",
    "not-yet",
    "lifetime",
    "jti",
    "signature",
    "replay",
]


class _Refused(Exception):
    """Carries the reason, of a closed set, to the log."""

    def __init__(self, reason: Refusal, client: Client | None = None) -> None:
        super().__init__(reason)
        self.reason: Refusal = reason
        self.client = client


class Verifier:
    """Checks callers against the clients file. Shared by all threads.

    refused  reason -> how often, since the start
    """

    def __init__(self, clients: Clients, settings: Settings, seen: ReplayStore, keys: KeySets | None = None) -> None:
        self._clients = clients
        self._base_url = settings.base_url
        self._seen = seen
        self.keys = keys or KeySets(clients.all)
        self.refused: Counter[Refusal] = Counter()

    def warm(self) -> None:
        self.keys.warm(self._clients.all)

    def verify_client(self, headers: Mapping[str, str], url_path: str, now: datetime) -> Client:
        """The client behind a call of `url_path`, e.g. `/cds-services/imaging-safety`.

        Raises Unauthorized without a reason, and Unavailable when the keys or the list of used tokens cannot be read.
        """
        try:
            return self._verify(headers.get("Authorization", ""), url_path, now.timestamp())
        except _Refused as refused:
            self.refused[refused.reason] += 1
            name = refused.client.name if refused.client else None
            log.warning("caller refused", extra={"fields": {"reason": refused.reason, "client": name}})
            raise Unauthorized(REFUSAL) from None
        except KeysUnavailable:
            raise Unavailable("the keys of this caller cannot be read at the moment", retry_after_s=60) from None
        except StoreUnavailable:
            raise Unavailable("whether this token was used before cannot be read", retry_after_s=5) from None

    def explain(
        self, token: str, url_path: str, now: datetime, keys: Sequence[VerifyingKey] | None = None
    ) -> tuple[Client | None, Refusal | None]:
        """Whose token it is and why it would be refused, for an administrator; it is not burnt.

        keys  instead of those the client publishes, for a token that was signed to try. Raises KeysUnavailable.
        """
        try:
            client, _, _ = self._examined(f"Bearer {token.strip()}", url_path, now.timestamp(), keys)
        except _Refused as refused:
            return refused.client, refused.reason
        return client, None

    def _verify(self, authorization: str, url_path: str, now: float) -> Client:
        client, jti, until = self._examined(authorization, url_path, now)
        if not self._seen.burn(client.issuer, jti, until, now):
            raise _Refused("replay", client)
        return client

    def _examined(
        self, authorization: str, url_path: str, now: float, keys: Sequence[VerifyingKey] | None = None
    ) -> tuple[Client, str, float]:
        """The client, the token's jti, and until when that must be remembered. Raises _Refused."""
        match = _BEARER.fullmatch(authorization.strip())
        if match is None or len(authorization) > TOKEN_BYTES:
            raise _Refused("no-token")
        header, claims = _decode(match[1]), _decode(match[2])
        issuer = claims.get("iss")
        client = self._clients.by_issuer(issuer) if isinstance(issuer, str) else None
        if client is None:
            raise _Refused("issuer")
        _check_header(header, client)
        self._check_audience(claims.get("aud"), url_path, client)
        until = _check_times(claims, now, client)
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= 512:
            raise _Refused("jti", client)
        known = keys if keys is not None else self.keys.find(client, header["kid"])
        if not signed_by(".".join(match.groups()), header, known):
            raise _Refused("signature", client)
        return client, jti, until

    def _check_audience(self, audience: Any, url_path: str, client: Client) -> None:
        """The URL of this very endpoint as the caller knows it, never as the Host header has it."""
        named = audience if isinstance(audience, list) else [audience]
        if f"{(client.audience or self._base_url).rstrip('/')}{url_path}" not in named:
            raise _Refused("audience", client)


def _decode(segment: str) -> dict[str, Any]:
    try:
        value = strict_json.parse(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (binascii.Error, strict_json.BadJson):
        raise _Refused("malformed") from None
    if not isinstance(value, dict):
        raise _Refused("malformed")
    return value


def _check_header(header: Mapping[str, Any], client: Client) -> None:
    """`jwk`, `x5u` and `x5c` are not looked at: keys come from the clients file alone."""
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid"), str):
        raise _Refused("header", client)
    if str(header.get("typ")).upper() != "JWT":
        raise _Refused("header", client)
    # `crit` names what must be understood and `b64` changes what was signed; we understand neither.
    if "crit" in header or "b64" in header:
        raise _Refused("crit", client)
    if "jku" in header and (not client.jwks_url or header["jku"] != client.jwks_url):
        raise _Refused("jku", client)


def _check_times(claims: Mapping[str, Any], now: float, client: Client) -> float:
    """Until when the token must be remembered, in seconds since 1970."""
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    not_before = _time(claims, "nbf") if "nbf" in claims else issued
    if issued is None or expires is None or not_before is None:
        raise _Refused("times", client)
    if expires <= now - SKEW_S:
        raise _Refused("expired", client)
    if max(issued, not_before) > now + SKEW_S:
        raise _Refused("not-yet", client)
    if not 0 <= expires - issued <= LIFETIME_S:
        raise _Refused("lifetime", client)
    return expires + SKEW_S


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
