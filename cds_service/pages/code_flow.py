"""`CodeFlow`: sending a browser to log in elsewhere and taking it back, once, within ten minutes, the same browser.

What must survive the way there and back (state, nonce, PKCE verifier) is in a cookie of that browser alone, sealed,
bound to its state; that a state was used is in the durable state, so that no replica takes it twice.
"""

from __future__ import annotations

import hashlib
import re
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec
from flask import Response

from cds_service.deadline import Deadline
from cds_service.pages.evidence import pages
from cds_service.pages.seal import WrongKey, known_as, new_secret, seal, unseal
from cds_service.state.store import Store
from cds_service.trust.authorization_servers import AuthorizationServer

LIFETIME = timedelta(minutes=10)
WAIT_S = 4.0
"""What all that is asked of the other server for one step may take."""
AT_ONCE = 2
"""Logins that wait for another server at a time: health checks answer on the same few threads."""
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")

Fault = Literal["state", "mixed-up", "denied", "no-code", "no-pkce", "busy"]


class Astray(Exception):
    """A browser that came back wrongly, or cannot be sent; `fault` is for our log and the page's words."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault: Fault = fault


class Login(msgspec.Struct, frozen=True):
    """One login under way. `to` names whom it is at; `kept` is what its end is for."""

    state: str
    nonce: str
    verifier: str
    began: datetime
    to: str
    kept: str = ""


class CodeFlow:
    """`name` keeps its cookies and states apart from other flows'; `root` is the path its cookies come back to."""

    def __init__(self, name: str, redirect_uri: str, root: str, store: Store, *, secure: bool) -> None:
        self.redirect_uri = redirect_uri
        self._name, self._root, self._store = name, root, store
        self._secure = secure
        # From the installation's secret, so that each replica opens what another has sealed.
        self._key = urlsafe_b64encode(hashlib.sha256(store.key("login", name, "1").encode()).digest()).rstrip(b"=")
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def asking(self) -> Iterator[Deadline]:
        """The time there is to ask the other server. Raises Astray, `busy`, when others are at it."""
        if not self._turns.acquire(blocking=False):
            raise Astray("busy")
        try:
            yield Deadline.after(WAIT_S)
        finally:
            self._turns.release()

    def send(
        self, server: AuthorizationServer, now: datetime, to: str, kept: str = "", *, framed: bool, **asked: str
    ) -> tuple[Login, Response]:
        """A page that takes the browser to the server; `asked` are client_id, scope and the like. Raises Astray.

        `framed` where the browser may show it in a frame of another site.
        """
        if server.authorization is None or server.pkce is False:
            raise Astray("no-pkce")
        login = Login(new_secret(32), new_secret(32), new_secret(32), now, to, kept)
        digest = hashlib.sha256(login.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "redirect_uri": self.redirect_uri,
            "state": login.state,
            "nonce": login.nonce,
            "code_challenge": urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            **asked,
        }
        url = server.authorization.url
        response = onward(f"{url}{'&' if '?' in url else '?'}{urlencode(query)}")
        response.set_cookie(
            self._cookie(login.state),
            urlsafe_b64encode(seal(msgspec.json.encode(login), self._key.decode(), self._place(login.state))).decode(),
            max_age=int(LIFETIME.total_seconds()),
            **self._kept(framed),
        )
        return login, response

    def back(self, args: Mapping[str, str], cookies: Mapping[str, str], now: datetime) -> Login:
        """The login this browser was sent on, from now on used up. Raises Astray, and StateUnavailable."""
        state = args.get("state", "")
        if not _SECRET.fullmatch(state):
            raise Astray("state")
        try:
            sealed = _from_cookie(cookies.get(self._cookie(state), ""))
            login = msgspec.json.decode(unseal(sealed, self._key.decode(), self._place(state)), type=Login)
        except (WrongKey, msgspec.DecodeError):
            raise Astray("state") from None
        if not timedelta(0) <= now - login.began < LIFETIME:
            raise Astray("state")
        if not self._store.use_jti(f"login {self._name}", state, login.began + LIFETIME, now):
            raise Astray("state")
        return login

    def forget(self, response: Response, login: Login, *, framed: bool) -> Response:
        response.delete_cookie(self._cookie(login.state), **self._kept(framed))
        return response

    def _kept(self, framed: bool) -> dict[str, Any]:
        """How a login's cookie is set, and taken away: one in a frame of another site is a cookie of its own."""
        return {
            "path": self._root,
            "httponly": True,
            "secure": framed or self._secure,
            # The way back begins at the other server, so no Strict cookie would come along.
            "samesite": "None" if framed else "Lax",
            "partitioned": framed,
        }

    def _cookie(self, state: str) -> str:
        """One for each login, so that two cards opened side by side do not undo each other."""
        return f"ordersight-{self._name}-{known_as(state)[:16]}"

    def _place(self, state: str) -> str:
        return f"ordersight login 1|{self._name}|{state}"


def code_of(args: Mapping[str, str], server: AuthorizationServer) -> str:
    """The authorization code in the answer, if it is this server's. Raises Astray."""
    issuer = args.get("iss")
    if issuer != server.issuer if issuer is not None else server.names_itself:
        raise Astray("mixed-up")
    if "error" in args:
        raise Astray("denied")
    code = args.get("code", "")
    if not re.fullmatch(r"[ -~]{1,4096}", code):
        raise Astray("no-code")
    return code


def onward(url: str) -> Response:
    """A page of ours that goes on to `url` by itself.

    Not a redirect: after one the browser holds back Strict cookies, as the way began elsewhere, and a form's
    `form-action` would forbid it.
    """
    html = pages.get_template("pages/onward.html").render(url=url)
    return Response(html, content_type="text/html; charset=utf-8")


def _from_cookie(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text)
    except ValueError:
        raise WrongKey from None
