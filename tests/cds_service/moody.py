"""A small HTTP server on a real socket that misbehaves on request."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Mood = Callable[[socket.socket], bool]
"""Answers one request; True keeps the connection for the next."""


@dataclass(frozen=True)
class Seen:
    """One request as the server got it: `path` is the raw request target, header names are in lower case."""

    path: str
    headers: dict[str, str]


class Moody:
    """Serves `answer(seen)` from a thread for each connection. Everything it sees is kept for the test to look at."""

    def __init__(
        self, answer: Callable[[Seen], Mood], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        self.contacts = 0
        self.most_at_once = 0
        self.open = 0
        self._tls = tls
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._listener = socket.create_server((host, 0))
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Moody:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._listener.close()

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def base(self) -> str:
        return f"{self.origin}/fhir"

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]

    def wait_until_idle(self, seconds: float) -> bool:
        """Whether every connection is closed, by the client or after an answer, within so many seconds."""
        until = time.monotonic() + seconds
        while self.open and time.monotonic() < until:
            time.sleep(0.01)
        return self.open == 0

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stop.is_set():
                connection, _ = self._listener.accept()
                with self._lock:
                    self.contacts += 1
                    self.open += 1
                    self.most_at_once = max(self.most_at_once, self.open)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                keep = True
                while keep:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        piece = connection.recv(65536)
                        if not piece:
                            return
                        head += piece
                    first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
                    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
                    seen = Seen(first.split(" ")[1], headers)
                    self.seen.append(seen)
                    keep = self.answer(seen)(connection)
        finally:
            with contextlib.suppress(OSError):
                connection.close()
            with self._lock:
                self.open -= 1


def reply(body: Any = b"", status: int = 200, content_type: str = "application/fhir+json", **headers: str) -> Mood:
    """An orderly answer; what is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def send(connection: socket.socket) -> bool:
        lines = {"Content-Type": content_type, "Content-Length": str(len(data)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        connection.sendall(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + data)
        return True

    return send


def later(seconds: float, mood: Mood) -> Mood:
    def wait(connection: socket.socket) -> bool:
        time.sleep(seconds)
        return mood(connection)

    return wait


def zipped(body: bytes) -> Mood:
    return reply(gzip.compress(body, 9), Content_Encoding="gzip")


def _until_closed(connection: socket.socket) -> bool:
    while connection.recv(65536):
        pass
    return False


def hang(connection: socket.socket) -> bool:
    """Accept, and say nothing."""
    return _until_closed(connection)


def _drip(connection: socket.socket, text: bytes) -> bool:
    while True:
        for byte in text:
            connection.sendall(bytes([byte]))
            time.sleep(0.2)


def drip_headers(connection: socket.socket) -> bool:
    return _drip(connection, b"HTTP/1.1 200 OK\r\n" + b"X-Slow: 1\r\n" * 1000)


def drip_body(connection: socket.socket) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: 100000\r\n\r\n")
    return _drip(connection, b" ")


def endless(connection: socket.socket) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\n\r\n[")
    while True:
        connection.sendall(b"0," * 32_768)


def half(connection: socket.socket) -> bool:
    """Promise more than is sent, then close."""
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: 500\r\n\r\n"
        b'{"resourceType": "Patient", "id": "p1"}'
    )
    return False


def reset(connection: socket.socket) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def garble(connection: socket.socket) -> bool:
    connection.sendall(b"\x00\xffSSH-2.0-OpenSSH_9.2\r\n" * 20)
    return False
