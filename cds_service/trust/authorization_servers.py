"""`Directory`: where to authorize and to ask for tokens, as an authorization server says it itself.

What it names is contacted, and a browser sent there, only at origins the clients file or the settings list.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cds_service import strict_json
from cds_service.deadline import Deadline, Monotonic
from cds_service.transport import Ask, Call, FetchFailed, Transport
from cds_service.trust.clients import FhirServer
from cds_service.trust.origins import Base, NotAllowed, parse, read_base

KEPT_S = 3600.0
ANSWER_BYTES = 65_536
SMART = ".well-known/smart-configuration"
OPENID = ".well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL of an authorization server, at a base we may contact."""

    base: Base
    below: str

    @property
    def url(self) -> str:
        """As it is named in a client assertion's `aud`."""
        return self.base.url(self.below)


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """What is None or "" it did not tell. `pkce`: whether it says that it checks S256."""

    token: Endpoint
    authorization: Endpoint | None
    jwks: Endpoint | None
    issuer: str
    pkce: bool | None
    names_itself: bool
    """Its answers to a browser carry `iss` (RFC 9207), so that one without it is another's."""


class Directory:
    """Shared by all threads; what was read is kept for an hour."""

    def __init__(self, transport: Transport, clock: Monotonic = time.monotonic) -> None:
        self.transport = transport
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, tuple[str, ...]], tuple[float, dict[str, Any]]] = {}

    def of_fhir(self, server: FhirServer, deadline: Deadline) -> AuthorizationServer:
        """The one in charge of a FHIR server with a `smart` entry.

        Raises FetchFailed, `not-allowed` for an endpoint elsewhere than the entry says.
        """
        base, smart = server.fhir_base(), server.smart
        if smart is None:
            raise FetchFailed("no-access")
        origins = (f"{base.scheme}://{base.host}:{base.port}", *smart.origins)
        if smart.token_url and smart.launch is None:
            # Whoever pinned it need not publish a configuration as well.
            return AuthorizationServer(endpoint(smart.token_url, server.allow_private), None, None, "", None, False)
        told = self._read(base, SMART, origins, deadline)
        return _understood(told, origins, server.allow_private, smart.token_url)

    def of_issuer(self, issuer: str, origins: Sequence[str], deadline: Deadline) -> AuthorizationServer:
        """An OpenID provider, by its discovery document. Raises FetchFailed; `bad-answer` if it names another issuer.

        Source: OpenID Connect Discovery 1.0 section 4.3, which demands that equality against mixed-up providers.
        """
        base = read_base(issuer, allow_private=True)
        allowed = (f"{base.scheme}://{base.host}:{base.port}", *origins)
        told = self._read(base, OPENID, allowed, deadline)
        if told.get("issuer") != issuer:
            raise FetchFailed("bad-answer")
        return _understood(told, allowed, allow_private=True)

    def _read(self, base: Base, below: str, origins: Sequence[str], deadline: Deadline) -> dict[str, Any]:
        key = (str(base), below, tuple(origins))
        with self._lock:
            until, told = self._known.get(key, (0.0, {}))
        if self._clock() < until:
            return told
        got = self.transport.get(Call(base, deadline), Ask(below, "application/json", ANSWER_BYTES))
        told = read_object(got.body)
        with self._lock:
            self._known[key] = self._clock() + KEPT_S, told
        return told


def endpoint(url: Any, allow_private: bool, origins: Sequence[str] | None = None) -> Endpoint:
    """A URL as something to contact. Raises FetchFailed: `bad-answer` if it is none, `not-allowed` if elsewhere."""
    if not isinstance(url, str):
        raise FetchFailed("bad-answer")
    try:
        parts = parse(url)
        base = read_base(f"{parts.scheme}://{parts.host}:{parts.port}", allow_private)
        below = base.below(url)
    except (NotAllowed, ValueError):
        raise FetchFailed("not-allowed") from None
    if origins is not None and base.origin not in {read_base(origin).origin for origin in origins}:
        raise FetchFailed("not-allowed")
    return Endpoint(base, below)


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises FetchFailed."""
    try:
        value = strict_json.parse(body)
    except strict_json.BadJson:
        raise FetchFailed("bad-answer") from None
    if not isinstance(value, dict):
        raise FetchFailed("bad-answer")
    return value


def _understood(
    told: dict[str, Any], origins: Sequence[str], allow_private: bool, pinned: str = ""
) -> AuthorizationServer:
    def at(name: str) -> Endpoint | None:
        return endpoint(told[name], allow_private, origins) if told.get(name) is not None else None

    token = endpoint(pinned, allow_private) if pinned else endpoint(told.get("token_endpoint"), allow_private, origins)
    methods = told.get("code_challenge_methods_supported")
    return AuthorizationServer(
        token=token,
        authorization=at("authorization_endpoint"),
        jwks=at("jwks_uri"),
        issuer=told["issuer"] if isinstance(told.get("issuer"), str) else "",
        pkce=None if methods is None else isinstance(methods, list) and "S256" in methods,
        names_itself=told.get("authorization_response_iss_parameter_supported") is True,
    )
