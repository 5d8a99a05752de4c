"""An authorization server of an EHR, and an OpenID provider, on a socket: SMART configuration, PKCE, assertions, keys.

It checks what RFC 6749, 7523 and 7636 and SMART App Launch 2.2 tell a server to check, and keeps what it saw.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class App:
    """A client as it registered with us. With `jwks` it proves itself by assertions, with `secret` by HTTP Basic."""

    client_id: str
    redirect_uri: str = ""
    jwks: dict[str, Any] | None = None
    secret: str = ""


@dataclass
class Authorized:
    """What a code stands for until it is redeemed."""

    app: App
    redirect_uri: str
    challenge: str
    nonce: str
    launch: str


class Refused(Exception):
    def __init__(self, error: str, status: int = 400) -> None:
        super().__init__(error)
        self.error, self.status = error, status


@dataclass
class Authorization:
    """Its state, for the test to arrange and to look at.

    launches  launch id -> what goes into the token response beside the token: patient, appContext
    user      claims of whoever is logged in
    changed   members of the token response or, under `claims`, of the id_token that are replaced
    resources what a valid token reads below /fhir/, by path; elsewhere there is Patient p1
    """

    apps: dict[str, App] = field(default_factory=dict)
    launches: dict[str, dict[str, Any]] = field(default_factory=dict)
    user: dict[str, Any] = field(default_factory=lambda: {"sub": "dr-1", "fhirUser": "Practitioner/7"})
    configuration: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    expires_in: int | None = 300
    clock: Callable[[], float] = time.time
    hang_s: float = 0.0
    status: int = 0
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-384", {"kid": "as-1", "use": "sig"}))
    signer: tuple[Any, dict[str, Any]] | None = None
    origin: str = ""
    asked: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    codes: dict[str, Authorized] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    jtis: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def fhir(self) -> str:
        return f"{self.origin}/fhir"

    @property
    def issuer(self) -> str:
        return f"{self.origin}/oidc"

    def described(self) -> dict[str, Any]:
        told = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.origin}/authorize",
            "token_endpoint": f"{self.origin}/token",
            "jwks_uri": f"{self.origin}/jwks",
            "code_challenge_methods_supported": ["S256"],
            "grant_types_supported": ["authorization_code", "client_credentials"],
            "authorization_response_iss_parameter_supported": True,
            "capabilities": ["launch-ehr", "launch-standalone", "sso-openid-connect", "client-confidential-asymmetric"],
        }
        return {k: v for k, v in {**told, **self.configuration}.items() if v is not ...}

    def redirect(self, asked: dict[str, str]) -> str:
        """Where the browser goes once the user has logged in; who sends it astray is told and not sent on."""
        app = self.apps.get(asked.get("client_id", ""))
        if app is None or asked.get("redirect_uri") != app.redirect_uri:
            raise Refused("unregistered redirect_uri")
        if asked.get("code_challenge_method") != "S256" or len(asked.get("code_challenge", "")) != 43:
            raise Refused("code challenge required")
        if asked.get("response_type") != "code" or len(asked.get("state", "")) < 22:
            raise Refused("state of 128 bits required")
        if "launch" in asked.get("scope", "") and asked.get("aud") != self.fhir:
            raise Refused("aud is not this server")
        code = secrets.token_urlsafe(16)
        self.codes[code] = Authorized(
            app, asked["redirect_uri"], asked["code_challenge"], asked.get("nonce", ""), asked.get("launch", "")
        )
        return f"{app.redirect_uri}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.issuer})}"

    def token(self, form: dict[str, str], basic: str) -> dict[str, Any]:
        app = self._authenticated(form, basic)
        if form.get("grant_type") == "client_credentials":
            if app.jwks is None:
                raise Refused("unauthorized_client")
            return self._access(form.get("scope", ""))
        with self.lock:
            found = self.codes.pop(form.get("code", ""), None)
        if found is None or found.app is not app or form.get("redirect_uri") != found.redirect_uri:
            raise Refused("invalid_grant")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != found.challenge:
            raise Refused("invalid_grant")
        answer = self._access("openid fhirUser launch") | self.launches.get(found.launch, {})
        answer["id_token"] = self.id_token(app.client_id, found.nonce, **self.changed.get("claims", {}))
        changed = {k: v for k, v in self.changed.items() if k != "claims"}
        return {k: v for k, v in {**answer, **changed}.items() if v is not ...}

    def id_token(self, client_id: str, nonce: str, /, **changes: Any) -> str:
        at = int(self.clock())
        usual = {"iss": self.issuer, "aud": client_id, "exp": at + 300, "iat": at, "nonce": nonce, **self.user}
        claims = {k: v for k, v in {**usual, **changes}.items() if v is not ...}
        key, header = self.signer or (self.key, {"alg": "ES384", "kid": self.key.kid})
        signed: str = jwt.encode(header, claims, key, algorithms=["ES384", "ES256", "HS256", "RS256", "none"])
        return signed

    def _access(self, scope: str) -> dict[str, Any]:
        token = secrets.token_urlsafe(24)
        self.tokens[token] = time.monotonic() + (self.expires_in or 0)
        answer = {"access_token": token, "token_type": "bearer", "scope": scope}
        return answer if self.expires_in is None else answer | {"expires_in": self.expires_in}

    def _authenticated(self, form: dict[str, str], basic: str) -> App:
        if basic:
            user, _, password = base64.b64decode(basic).decode().partition(":")
            app = self.apps.get(unquote(user))
            if app is None or not app.secret or app.secret != unquote(password):
                raise Refused("invalid_client", 401)
            return app
        if "client_assertion" not in form:
            app = self.apps.get(form.get("client_id", ""))
            if app is None or app.jwks is not None or app.secret:
                raise Refused("invalid_client", 401)
            return app
        return self._asserted(form)

    def _asserted(self, form: dict[str, str]) -> App:
        claimed = json.loads(base64.urlsafe_b64decode(form["client_assertion"].split(".")[1] + "=="))
        app = self.apps.get(claimed.get("sub"))
        if app is None or app.jwks is None or form.get("client_assertion_type") != ASSERTION_TYPE:
            raise Refused("invalid_client", 401)
        try:
            token = jwt.decode(form["client_assertion"], KeySet.import_key_set(app.jwks), algorithms=["ES384", "RS384"])
        except (JoseError, ValueError):
            raise Refused("invalid_client", 401) from None
        claims, now = token.claims, self.clock()
        right = claims["iss"] == claims["sub"] and claims["aud"] == f"{self.origin}/token"
        with self.lock:
            fresh = claims["jti"] not in self.jtis
            self.jtis.add(claims["jti"])
        if not (right and fresh and now < claims["exp"] <= now + 300 and token.header["typ"] == "JWT"):
            raise Refused("invalid_client", 401)
        return app


@contextmanager
def authorization_server(host: str = "127.0.0.1") -> Iterator[Authorization]:
    """Serves one on loopback; `host` localhost is another site than 127.0.0.1 to a browser."""
    state = Authorization()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            state.asked.append(parts.path)
            if parts.path in ("/fhir/.well-known/smart-configuration", "/oidc/.well-known/openid-configuration"):
                self._send(200, state.described())
            elif parts.path == "/jwks":
                self._send(200, KeySet([state.key]).as_dict(private=False))
            elif parts.path == "/authorize":
                try:
                    self._send(302, {}, Location=state.redirect(dict(parse_qsl(parts.query))))
                except Refused as refused:
                    self._send(refused.status, {"error": refused.error})
            elif parts.path.startswith("/fhir/"):
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                alive = state.tokens.get(token, 0.0) > time.monotonic()
                held = state.resources.get(parts.path.removeprefix("/fhir/"), {"resourceType": "Patient", "id": "p1"})
                self._send(200 if alive else 401, held if alive else {})
            else:
                self._send(404, {})

        def do_POST(self) -> None:
            state.asked.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = dict(parse_qsl(body))
            state.forms.append(form)
            time.sleep(state.hang_s)
            if state.status:
                self._send(state.status, {}, Location=f"{state.origin}/elsewhere")
                return
            try:
                self._send(200, state.token(form, self.headers.get("Authorization", "").removeprefix("Basic ")))
            except Refused as refused:
                self._send(refused.status, {"error": refused.error})

        def _send(self, status: int, value: Any, **headers: str) -> None:
            data = json.dumps(value).encode()
            try:
                self.send_response(status)
                for name, text in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # whoever asked has given up
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.origin = f"http://{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
