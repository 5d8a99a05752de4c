"""ID tokens and authorization codes: what both the launch of an evidence page and the console's login rest on.

Sources: OpenID Connect Core 1.0 section 3.1.3.7, RFC 6749, RFC 7636 (PKCE), RFC 9207 (`iss` in the answer).
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeGuard
from urllib.parse import quote

from cds_service import strict_json
from cds_service.deadline import Deadline
from cds_service.transport import Ask, Call, FetchFailed, Transport
from cds_service.trust.authorization_servers import AuthorizationServer, read_object
from cds_service.trust.clients import Client
from cds_service.trust.keys import TOKEN_BYTES, KeySets, KeysUnavailable, signed_by
from cds_service.trust.private_keys import KeyFileError, assertion, load_keys

SKEW_S = 60.0
FRESH_S = 600.0
"""A token answers a login that began at most this long ago, so an older one is another login's."""
ANSWER_BYTES = 65_536
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")

Fault = Literal["malformed", "header", "issuer", "audience", "times", "expired", "nonce", "subject", "signature"]


class BadIdToken(Exception):
    """Who logged in is not proved; `fault` is for our log."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault: Fault = fault


def verify_id_token(
    token: Any, server: AuthorizationServer, keys: KeySets, *, client_id: str, nonce: str, now: float
) -> Mapping[str, Any]:
    """The claims of an ID token made by this server, for us, for this very login.

    Raises BadIdToken, and FetchFailed when the server's keys cannot be read.
    """
    match = _COMPACT.fullmatch(token) if isinstance(token, str) and len(token) <= TOKEN_BYTES else None
    if match is None:
        raise BadIdToken("malformed")
    header, claims = _decode(match[1]), _decode(match[2])
    _check_header(header)
    if not server.issuer or claims.get("iss") != server.issuer:
        raise BadIdToken("issuer")
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    # A token for several parties must say that we are the one it was given to; we trust none of the others.
    if client_id not in named or claims.get("azp", client_id if len(named) == 1 else None) != client_id:
        raise BadIdToken("audience")
    expires, issued = claims.get("exp"), claims.get("iat")
    if not _is_time(expires) or not _is_time(issued):
        raise BadIdToken("times")
    if expires <= now - SKEW_S or not -SKEW_S <= now - issued <= FRESH_S + SKEW_S:
        raise BadIdToken("expired")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
        raise BadIdToken("nonce")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise BadIdToken("subject")
    if server.jwks is None:
        raise FetchFailed("bad-answer")
    issuer = Client("identity provider", (), issuer=server.issuer, jwks_url=server.jwks.url)
    try:
        found = keys.find(issuer, header["kid"])
    except KeysUnavailable:
        raise FetchFailed("unreachable") from None
    if not signed_by(token, header, found):
        raise BadIdToken("signature")
    return claims


def redeem(
    transport: Transport,
    server: AuthorizationServer,
    deadline: Deadline,
    *,
    code: str,
    verifier: str,
    redirect_uri: str,
    client_id: str,
    now: float,
    key_file: str = "",
    secret: str = "",
) -> dict[str, Any]:
    """The token response for a code. With neither key nor secret, PKCE alone shows that the code is ours.

    Raises FetchFailed: `refused` where the server takes the code or us for wrong.
    """
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    basic = None
    if key_file:
        try:
            key = load_keys(Path(key_file))[0]
        except KeyFileError:
            raise FetchFailed("no-access") from None
        form |= {
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion(key, client_id, server.token.url, now),
        }
    elif secret:
        basic = (quote(client_id, safe=""), quote(secret, safe=""))  # RFC 6749 section 2.3.1
    else:
        form["client_id"] = client_id
    at = server.token
    ask = Ask(at.below, "application/json", ANSWER_BYTES, form=form, basic=basic)
    got = transport.post(Call(at.base, deadline), ask)
    if got.status != 200:
        raise FetchFailed("refused", got.status)
    return read_object(got.body)


def _decode(segment: str) -> dict[str, Any]:
    try:
        value = strict_json.parse(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (binascii.Error, strict_json.BadJson):
        raise BadIdToken("malformed") from None
    if not isinstance(value, dict):
        raise BadIdToken("malformed")
    return value


def _check_header(header: Mapping[str, Any]) -> None:
    """`jwk`, `jku` and `x5c` are not looked at: keys come from the server's own document alone."""
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid"), str):
        raise BadIdToken("header")
    if "crit" in header or "b64" in header or str(header.get("typ", "JWT")).upper() != "JWT":
        raise BadIdToken("header")


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
