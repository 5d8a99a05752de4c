"""Login to the admin console at the hospital's OpenID provider: who may do what is read from a claim it signs.

Off unless ORDERSIGHT_OIDC_ISSUER is set; accounts made on the command line go on working, for when the provider does
not. Every login is audited under the provider's own subject, which no user can choose.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, request

from cds_service.pages.code_flow import Astray, CodeFlow, code_of, onward
from cds_service.pages.console_accounts import Role, set_session
from cds_service.pages.console_page import Console
from cds_service.settings import Settings
from cds_service.transport import FetchFailed
from cds_service.trust.oidc import BadIdToken, redeem, verify_id_token
from cds_service.trust.private_keys import KeyFileError

log = logging.getLogger(__name__)

FAILED = "The identity provider's login did not succeed. Try again, or log in with an account of this service."
NO_ROLE = "The identity provider knows you, and none of your groups may open this console."
_SHOWN = re.compile(r"[^A-Za-z0-9@._ -]")


def add_oidc(blueprint: Blueprint, console: Console) -> None:
    house, settings = console.house, console.house.settings
    public = urlsplit(settings.base_url)
    flow = CodeFlow(
        "admin",
        f"{settings.base_url}/admin/oidc/callback",
        f"{console.root}/oidc",
        house.state,
        secure=public.scheme == "https",
    )
    directory = house.backend.directory

    @blueprint.get("/oidc")
    def oidc() -> Response:
        try:
            with flow.asking() as deadline:
                server = directory.of_issuer(settings.oidc_issuer, settings.oidc_origins, deadline)
            asked = {"client_id": settings.oidc_client_id, "scope": settings.oidc_scopes}
            return flow.send(server, house.clock(), settings.oidc_issuer, framed=False, **asked)[1]
        except (Astray, FetchFailed) as error:
            return failed(error)

    @blueprint.get("/oidc/callback")
    def oidc_callback() -> Response:
        now = house.clock()
        try:
            login = flow.back(request.args, request.cookies, now)
            with flow.asking() as deadline:
                server = directory.of_issuer(settings.oidc_issuer, settings.oidc_origins, deadline)
                told = redeem(
                    directory.transport,
                    server,
                    deadline,
                    code=code_of(request.args, server),
                    verifier=login.verifier,
                    redirect_uri=flow.redirect_uri,
                    client_id=settings.oidc_client_id,
                    secret=_secret(settings),
                    now=now.timestamp(),
                )
                claims = verify_id_token(
                    told.get("id_token"),
                    server,
                    house.verifier.keys,
                    client_id=settings.oidc_client_id,
                    nonce=login.nonce,
                    now=now.timestamp(),
                )
        except (Astray, FetchFailed, BadIdToken, KeyFileError) as error:
            return failed(error)
        name, role = name_of(claims), role_of(claims, settings)
        if role is None:
            console.desk.note(name, "login refused", now, way="oidc", subject=claims["sub"], why="no group with a role")
            return flow.forget(console.page("login", 403, said=NO_ROLE, name=""), login, framed=False)
        token = console.accounts.begin_elsewhere(name, role, now)
        console.desk.note(name, "login", now, way="oidc", subject=claims["sub"], role=role)
        response = onward(f"{console.root}/")
        set_session(response, token, console.root, secure=public.scheme == "https")
        return flow.forget(response, login, framed=False)

    def failed(error: Exception) -> Response:
        """The reason is for our log: to a browser they are all one."""
        why = getattr(error, "fault", None) or getattr(error, "reason", type(error).__name__)
        log.warning("admin login refused", extra={"fields": {"way": "oidc", "why": why}})
        return console.page("login", 403, said=FAILED, name="")


def name_of(claims: Mapping[str, Any]) -> str:
    """How this user is named in the audit: by the subject, after a name for people, which may be anybody's.

    An account of our own has no blank in its name, so none of them can be feigned.
    """
    shown = next((v for c in ("preferred_username", "email", "name") if isinstance(v := claims.get(c), str) and v), "")
    subject = _SHOWN.sub("?", claims["sub"])[:128]
    return f"{_SHOWN.sub('?', shown)[:64] or 'user'} (oidc {subject})"


def role_of(claims: Mapping[str, Any], settings: Settings) -> Role | None:
    """The role of the user's groups; `change` where both fit. None where none does."""
    found = _claim(claims, settings.oidc_role_claim)
    groups = {found} if isinstance(found, str) else {g for g in found if isinstance(g, str)}
    if groups & set(settings.oidc_change):
        return "change"
    return "view" if groups & set(settings.oidc_view) else None


def _claim(claims: Mapping[str, Any], path: str) -> str | list[Any]:
    """A claim by its name, which may hold dots (a URL), or by a path of dots (realm_access.roles)."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, str | list) else []


def _secret(settings: Settings) -> str:
    """Read at each login, so that one that was changed holds at once. Raises KeyFileError."""
    path = settings.oidc_secret_file
    if path is None:
        return ""
    try:
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"{path} may be read by others; chmod 600 it")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise KeyFileError(f"{path} cannot be read") from None
