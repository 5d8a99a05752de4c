"""CDS clients that sign their calls, and a key server that counts who asks."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

ISSUER = "https://ehr.example.org/fhir/R4"


def b64(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Caller:
    """One key pair and what it signs."""

    def __init__(self, alg: str = "ES384", kid: str = "k1") -> None:
        self.alg = alg
        self.kid = kid
        curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
        self.key: Any = ECKey.generate_key(curve[alg]) if alg.startswith("ES") else RSAKey.generate_key(2048)

    def jwk(self, **members: Any) -> dict[str, Any]:
        return {**self.key.as_dict(private=False), "kid": self.kid, "use": "sig", **members}

    def claims(self, aud: Any, at: float, /, **changes: Any) -> dict[str, Any]:
        claims = {"iss": ISSUER, "aud": aud, "exp": int(at) + 300, "iat": int(at), "jti": f"{time.perf_counter_ns()}"}
        return {k: v for k, v in {**claims, **changes}.items() if v is not ...}

    def sign(self, claims: Any, header: dict[str, Any] | None = None, key: Any = None) -> str:
        """`header` replaces members of the usual header; `...` leaves one out."""
        whole = {"alg": self.alg, "kid": self.kid, "typ": "JWT", **(header or {})}
        head = {k: v for k, v in whole.items() if v is not ...}
        signed = f"{b64(head)}.{b64(claims)}"
        # By hand: joserfc would refuse to write most of what a forger writes.
        return f"{signed}.{b64(jws.JWSRegistry.algorithms[whole['alg']].sign(signed.encode(), key or self.key))}"

    def token(self, aud: Any, at: float, /, **changes: Any) -> str:
        return self.sign(self.claims(aud, at, **changes))


@contextmanager
def key_server(answer: Any, path: str = "/jwks.json") -> Iterator[tuple[str, list[str]]]:
    """Serve a JSON value (or bytes, or a function of the handler); yields its URL and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            if callable(answer):
                answer(self)
                return
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{path}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
