"""`serve`: waitress, set up so that slow callers hold no thread and a stopping server finishes what it has begun.

waitress by itself answers in plain text when it refuses a request, resets the connection of a caller that still sends
too large a body, and drops calls under way on SIGTERM.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import time
from http import HTTPStatus
from threading import Event
from types import FrameType
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer, create_server
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import RequestEntityTooLarge

from cds_service.app import House
from cds_service.binding import bind
from cds_service.cors import cors_headers
from cds_service.errors import BadRequest, ServiceError, TooLarge, Unavailable, operation_outcome
from cds_service.lanes import Lanes, Overloaded
from cds_service.metrics_server import listen_metrics
from cds_service.settings import Settings

log = logging.getLogger(__name__)

ARRIVE_S = 0.1
DISCARDED_BODIES = 10
"""A body up to this many times the limit is read and thrown away, so that its sender gets to hear the 413."""


_ANNOUNCED = re.compile(rb"(?mi)^content-length:[ \t]*([0-9]{1,12})[ \t]*\r?$")
_NO_BODY_YET = re.compile(rb"(?mi)^(?:transfer-encoding|expect)[ \t]*:")


def _announced(header: bytes) -> int:
    """The one length a refused header announces, else 0; the connection is closed after the refusal in any case."""
    lengths = _ANNOUNCED.findall(header)
    return int(lengths[0]) if len(lengths) == 1 and not _NO_BODY_YET.search(header) else 0


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    _to_discard = 0
    _refused_length = 0

    def __init__(self, adj: object) -> None:
        super().__init__(adj)
        self.first_byte = time.monotonic()

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ParsingError:
            self._refused_length = _announced(header_plus)
            raise
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            # Two lengths are how a request is smuggled past a front server.
            raise ParsingError("two lengths")
        if not self.chunked and self.content_length == 0:
            # waitress would say 100 and wait for a body that never comes.
            self.expect_continue = False

    def received(self, data: bytes) -> int:
        if self._to_discard:
            taken = min(len(data), self._to_discard)
            self._to_discard -= taken
            self.completed = self._to_discard == 0
            return taken
        consumed: int = super().received(data)
        length = self.content_length if isinstance(self.error, RequestEntityTooLarge) else self._refused_length
        if (
            self.error is not None
            and not self.expect_continue
            and self.body_bytes_received == 0
            and 0 < length <= DISCARDED_BODIES * self.adj.max_request_body_size
        ):
            self._to_discard = length
            self._refused_length = 0
            self.completed = False
        return consumed


class _Task(WSGITask):  # type: ignore[misc]
    def get_environment(self) -> dict[str, Any]:
        """With the moment a call began: what it then waits for a thread is part of its budget."""
        environ: dict[str, Any] = super().get_environment()
        environ["ordersight.started"] = self.request.first_byte
        return environ


class _Refusal(ErrorTask):  # type: ignore[misc]
    """What waitress itself refuses, and what we turn away before a thread takes it, as an OperationOutcome."""

    def execute(self) -> None:
        fault = self.request.error
        error: ServiceError
        if isinstance(fault, Overloaded):
            error = Unavailable("more calls are waiting than can be answered in time")
            self.response_headers.append(("Retry-After", str(fault.retry_after_s)))
        elif fault.code == 413:
            error = TooLarge("the body is larger than this service reads")
        elif fault.code >= 500:
            error = ServiceError("the request cannot be answered")
        else:
            error = BadRequest("the request is not well-formed HTTP/1.1")
        body = operation_outcome(error)
        self.status = f"{fault.code} {HTTPStatus(fault.code).phrase}"
        self.response_headers += [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            *cors_headers(self.request.headers.get("ORIGIN", ""), self.channel.server.settings).items(),
        ]
        self.content_length = len(body)
        if not isinstance(fault, Overloaded):
            # What follows on this connection could not be told from the rest of a broken request. One that is turned
            # away was whole: to make its caller connect again would only add to the load.
            self.set_close_on_finish()
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task
    error_task_class = _Refusal


class Server:
    """A bound server: connections wait in its backlog until `run`, which serves until `stop` or the end of `with`.

    settings  as given, with the port that was found for port 0
    """

    def __init__(self, settings: Settings, listening: socket.socket | None = None, worker: int = 0) -> None:
        """`listening`: a socket that worker number `worker` shares with others; else one of its own."""
        self._socket = listening or bind(settings)
        self._worker = worker
        self.settings = settings.on_port(self._socket.getsockname()[1])
        self._stopping = Event()
        self._stopped = Event()
        self._stopped.set()
        self._waitress: BaseWSGIServer | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stopped.wait(self.settings.drain_s + 5)
        self._socket.close()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        return self.settings.own_url

    def run(self, app: Flask) -> None:
        """Serve the app. Once: the socket is closed afterwards."""
        if self._stopping.is_set():
            return
        house: House = app.extensions["ordersight"]
        metrics = listen_metrics(self.settings, house.metrics.registry, self._worker)
        self._stopped.clear()
        sockets: dict[int, Any] = {}
        limit = self.settings.max_body_bytes + 1
        self._waitress = waitress = create_server(
            app,
            map=sockets,
            sockets=[self._socket],
            _dispatcher=Lanes(house.admission, house.services.shortest_budget_s, house.metrics.turned_away),
            connection_limit=1000,
            channel_timeout=15,
            cleanup_interval=5,
            max_request_body_size=limit,
            max_request_header_size=65_536,
            inbuf_overflow=limit,  # a body holds a record: it stays in memory, never in a temporary file
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=True,
            expose_tracebacks=False,
            ident=None,
        )
        waitress.channel_class = _Channel
        waitress.settings = self.settings
        log.info("serving", extra={"fields": {"port": self.settings.port}})
        try:
            while not self._stopping.is_set():
                _turn(sockets, 1.0)
            house.draining.set()
            # New connections are refused from here on; what has come is answered.
            _take_waiting(waitress, sockets)
            wasyncore.dispatcher.close(waitress)
            if not _drain(sockets, self.settings.drain_s):
                log.warning("stopped before every call was answered")
        finally:
            waitress.task_dispatcher.shutdown(timeout=1)
            wasyncore.close_all(sockets, ignore_all=True)
            if metrics is not None:
                metrics.close()
            house.close()
            self._stopped.set()
        log.info("stopped")

    def stop(self) -> None:
        """Begin to stop; from a signal handler or any thread."""
        self._stopping.set()
        if self._waitress is not None:
            with contextlib.suppress(OSError):  # it has stopped already
                self._waitress.pull_trigger()


def _take_waiting(waitress: BaseWSGIServer, sockets: dict[int, Any]) -> None:
    """Take the connections the system has made for us: those nobody took it resets when we no longer listen."""
    known = -1
    while len(sockets) > known:
        known = len(sockets)
        waitress.handle_accept()


def _drain(sockets: dict[int, Any], seconds: float) -> bool:
    """Serve on until every connection is idle and closed; False when the time was not enough.

    What has only just connected has `ARRIVE_S` to say what it wants.
    """
    _turn(sockets, 0.0)  # what has arrived is read before anybody is found idle, however slow this machine is
    began = time.monotonic()
    while channels := [d for d in sockets.values() if isinstance(d, HTTPChannel)]:
        passed = time.monotonic() - began
        for channel in channels:
            if passed >= ARRIVE_S and not (channel.requests or channel.request or channel.total_outbufs_len):
                channel.will_close = True
        if passed >= seconds:
            return False
        _turn(sockets, 0.05)
    return True


def _turn(sockets: dict[int, Any], timeout: float) -> None:
    wasyncore.loop(timeout=timeout, use_poll=True, map=sockets, count=1)


def listen(settings: Settings) -> Server:
    """Bind the address of the settings, so that the port is known before the app is made. Raises CannotListen."""
    return Server(settings)


def serve(app: Flask, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, and return once the calls under way are answered. For the main thread."""
    with listen(settings) as server:

        def stop(signum: int, frame: FrameType | None) -> None:
            server.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        server.run(app)
