"""The admin console under /admin: server-rendered pages without a script, for accounts made on the command line.

Nobody is there before `cds-service admin add` has made somebody or an identity provider is set: until then every
address is 404. A token of an EHR
is never looked at. Each change carries the session's own form token, needs the role `change`, and is audited.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import Forbidden, HTTPException, Unauthorized
from werkzeug.wrappers import Response as AnyResponse

from cds_service.errors import UnknownService
from cds_service.pages.console_accounts import COOKIE, Accounts, set_session
from cds_service.pages.console_audit import add_audit
from cds_service.pages.console_feedback import add_feedback
from cds_service.pages.console_models import add_models
from cds_service.pages.console_oidc import add_oidc
from cds_service.pages.console_onboarding import add_onboarding
from cds_service.pages.console_page import Console, admin
from cds_service.pages.console_quality import add_quality
from cds_service.pages.console_running import add_running
from cds_service.pages.console_services import add_services
from cds_service.pages.console_sources import add_sources
from cds_service.pages.evidence import security_headers
from cds_service.state.desk import Desk
from cds_service.state.errors import StateUnavailable

if TYPE_CHECKING:
    from cds_service.app import House

log = logging.getLogger(__name__)

OPEN = frozenset({"console.static", "console.login", "console.enter", "console.oidc", "console.oidc_callback"})
"""What can be asked for without a session."""
READING = frozenset({"console.leave", "console.search", "console.onboarding_token"})
"""Forms that change nothing an EHR can notice: the role `view` may send them."""
PASSWORD_WRONG = "Name or password is wrong, or the account is locked: after five failures it stays so for 15 minutes."  # noqa: S105


def console_blueprint(house: House) -> Blueprint:
    """Raises StateUnavailable when the accounts' file cannot be used."""
    settings = house.settings
    public = urlsplit(settings.base_url)
    elsewhere = bool(settings.oidc_issuer)
    accounts = Accounts(settings.state_dir, elsewhere=elsewhere)
    console = Console(house, Desk(house.state), accounts, f"{public.path.rstrip('/')}/admin")
    blueprint = Blueprint("console", __name__, url_prefix="/admin", static_folder="static")
    headers = security_headers(()) | {"Content-Security-Policy": _policy()}

    @blueprint.before_request
    def guard() -> Response | AnyResponse | None:
        somebody = elsewhere or console.accounts.any()
        if not _reachable(public.scheme, public.hostname or "", request.remote_addr) or not somebody:
            raise UnknownService("there is nothing at this address; services are listed at /cds-services")
        if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Forbidden("The form was sent from another site.")
        if request.endpoint in OPEN:
            return None
        session = console.accounts.session(request.cookies.get(COOKIE, ""), house.clock())
        if session is None:
            if request.method == "GET":
                return console.to("login")
            raise Unauthorized("The session is over: log in again.")
        g.admin = session
        if request.method == "POST":
            if not hmac.compare_digest(request.form.get("csrf", "").encode(), session.csrf.encode()):
                raise Forbidden("The form does not belong to this session: load the page again.")
            if session.role != "change" and request.endpoint not in READING:
                raise Forbidden("This account may look, not change.")
        return None

    @blueprint.get("/login")
    def login() -> Response:
        return console.page("login", said="", name="")

    @blueprint.post("/login")
    def enter() -> Response | AnyResponse:
        name, now = request.form.get("name", ""), house.clock()
        token = console.accounts.login(name, request.form.get("password", ""), now)
        if token is None:
            log.warning("admin login refused")
            if console.accounts.known(name):
                console.desk.note(name, "login refused", now)
            return console.page("login", 403, said=PASSWORD_WRONG, name=name[:64])
        console.desk.note(name, "login", now)
        response = console.to("")
        set_session(response, token, console.root, secure=public.scheme == "https")
        return response

    @blueprint.post("/logout")
    def leave() -> AnyResponse:
        console.accounts.logout(request.cookies.get(COOKIE, ""))
        console.desk.note(admin().name, "logout", house.clock())
        response = console.to("login")
        response.delete_cookie(COOKIE, path=console.root)
        return response

    if elsewhere:
        add_oidc(blueprint, console)
    add_services(blueprint, console)
    add_feedback(blueprint, console)
    add_quality(blueprint, console)
    add_sources(blueprint, console)
    add_models(blueprint, console)
    add_running(blueprint, console)
    add_onboarding(blueprint, console)
    add_audit(blueprint, console)

    @blueprint.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        status = error.code or 500
        return console.page("message", status, title=error.name, text=error.description or "")

    @blueprint.errorhandler(StateUnavailable)
    def unavailable(_: StateUnavailable) -> Response:
        text = "The service has no access to its store. Nothing was changed: try again in a few seconds."
        response = console.page("message", 503, title="Not available at the moment", text=text)
        response.headers["Retry-After"] = "5"
        return response

    @blueprint.after_request
    def secure(response: Response) -> Response:
        response.headers.update(headers)
        return response

    return blueprint


def _policy() -> str:
    """Stricter than the evidence page's: the console has no script at all."""
    parts = ("default-src 'none'", "style-src 'self'", "img-src 'self'", "form-action 'self'", "base-uri 'none'")
    return "; ".join((*parts, "frame-ancestors 'none'"))


def _reachable(scheme: str, host: str, peer: str | None) -> bool:
    """A password travels over https, or does not leave the machine."""
    return scheme == "https" or (_loopback(host) and _loopback(peer or ""))


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
