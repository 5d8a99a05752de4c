"""How we are registered at the authorization server of an EHR, as the clients file says it beside a FHIR server."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from cds_service.trust.origins import NotAllowed, parse, read_base

# RFC 6749 section 3.3: what a scope is spelled with, and appendix A: a client id.
_SCOPE = re.compile(r"[!#-\[\]-~]+")
_CLIENT_ID = re.compile(r"[!-~]{1,256}")
_READING = re.compile(r"system/(\*|[A-Z][A-Za-z]{0,63})\.(rs|r|s|read)(\?[!#-\[\]-~]{1,512})?")


class Backend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For reads outside a hook: SMART Backend Services, client_credentials with private_key_jwt.

    key_file  made by `cds-service clients keys new`; readable for its owner alone
    scopes    e.g. system/Patient.rs; nothing but reading and searching, since we never write
    """

    client_id: str
    key_file: str
    scopes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_id(self.client_id)
        if not self.key_file:
            raise ValueError("backend.key_file is missing; make one with `cds-service clients keys new FILE`")
        if not self.scopes:
            raise ValueError("backend.scopes is empty; write e.g. [system/Observation.rs, system/Patient.rs]")
        for scope in self.scopes:
            if _READING.fullmatch(scope) is None:
                raise ValueError(f"backend.scopes has {scope!r}; write scopes that read, e.g. system/Observation.rs")


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For the evidence page: SMART App Launch with PKCE, of a public client where there is no key file.

    link    what a card's link is: `smart` for an EHR that launches us with the card's appContext, `absolute` for one
            that only opens addresses; evidence then asks its visitor to log in, which is a standalone launch
    scopes  beside `launch` or `launch/patient`, which we add; without openid no id_token is asked for
    """

    client_id: str
    key_file: str = ""
    link: Literal["smart", "absolute"] = "smart"
    scopes: tuple[str, ...] = ("openid", "fhirUser")

    def __post_init__(self) -> None:
        _check_id(self.client_id)
        for scope in self.scopes:
            if _SCOPE.fullmatch(scope) is None or scope == "offline_access" or scope.startswith("launch"):
                raise ValueError(f"launch.scopes has {scope!r}; write e.g. [openid, fhirUser]; `launch` is added")


class Smart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Our registrations at one FHIR server's authorization server.

    origins    other origins its SMART configuration may name, e.g. https://login.example.org; its own always may
    token_url  the token endpoint, where it is to be pinned; discovered if left out
    """

    origins: tuple[str, ...] = ()
    token_url: str = ""
    backend: Backend | None = None
    launch: Launch | None = None

    def __post_init__(self) -> None:
        for origin in self.origins:
            if read_base(origin).path:
                raise ValueError(f"smart.origins has {origin!r}; write an origin without a path")
        if self.token_url:
            try:
                parts = parse(self.token_url)
            except NotAllowed as error:
                raise ValueError(f"smart.token_url is {error}; write e.g. https://login.example.org/token") from None
            read_base(f"{parts.scheme}://{parts.host}:{parts.port}")


def _check_id(client_id: str) -> None:
    if _CLIENT_ID.fullmatch(client_id) is None:
        raise ValueError("client_id is what the EHR called us: 1 to 256 characters without blanks")
