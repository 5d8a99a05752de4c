"""A small audit repository on a socket: it takes AuditEvents, and fails, hangs or goes away when told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Mood = Callable[[dict[str, Any]], int]
"""The status an event is answered with; it may take its time."""


def well(event: dict[str, Any]) -> int:
    return 201


class Repository:
    """`got` is every event that was taken, in order; `kept` one of each, as a server with conditional create does."""

    def __init__(self, port: int = 0) -> None:
        self.mood: Mood = well
        self.got: list[dict[str, Any]] = []
        self.kept: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.port = port
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/fhir"

    def start(self) -> None:
        repository = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with repository._lock:
                    repository.asked.append((self.path, dict(self.headers)))
                status = repository.mood(event)
                if status == 201:
                    with repository._lock:
                        repository.got.append(event)
                        known = repository.kept.setdefault(self.headers["If-None-Exist"], event) is not event
                    status = 200 if known else 201
                self.send_response(status)
                if status == 307:
                    self.send_header("Location", f"http://127.0.0.2:{repository.port}/fhir/AuditEvent")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Repository:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def sequence(self, tenant: str) -> list[int]:
        """The chain's numbers of the events of one tenant, in the order they were first taken."""
        with self._lock:
            rows = [{d["type"]: d["valueString"] for d in event["entity"][0]["detail"]} for event in self.got]
        return list(dict.fromkeys(int(row["seq"]) for row in rows if row["tenant"] == tenant))


def hang(seconds: float) -> Mood:
    def mood(event: dict[str, Any]) -> int:
        time.sleep(seconds)
        return 503

    return mood
