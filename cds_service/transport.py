"""`Transport`: one GET, or POST, that ends by its deadline, whatever the server does.

requests bounds one read of a socket, not a call: a server that drips a byte now and then holds a thread for as long
as it likes. So bodies are read piece by piece against the clock, and whoever waits for a read may end it from
outside: each connection keeps a second handle on its socket, and shutting that down wakes the thread that reads.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from cds_service.breaker import RetryBudget
from cds_service.deadline import Deadline
from cds_service.evidence import Reason
from cds_service.multipart import BadAnswer, FirstPart, media_type
from cds_service.trust.origins import Base, NotAllowed, Resolver

CHUNK = 65_536
EPILOGUE = 4_096
"""Bytes after the part that was wanted that are read for the connection to be of further use."""
RETRIED = frozenset({502, 503, 504})
SHORTEST_S = 0.001
"""A socket takes no time-out of 0 for "at once"; it would mean "do not block"."""

_now = threading.local()
"""`_now.call` is the call this thread carries out: connections are made for it and register with it."""


class FetchFailed(Exception):
    """A read that gave nothing. No URL is in it: URLs name patients.

    retry   whether asking once more may help
    wait_s  how long the server asked to be left alone (Retry-After in seconds)
    """

    def __init__(
        self, reason: Reason, status: int | None = None, *, retry: bool = False, wait_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.status = status
        self.retry = retry
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Got:
    """An answer; `part` is the headers of its first part where `body` is that part's content."""

    content_type: str
    body: bytes
    status: int = 200
    part: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What to GET: `below` a base, at most `limit` bytes after decompression, with the token that goes there.

    form   is POSTed instead, once: what it holds is mostly good once, and OAuth's errors (400 and 401, RFC 6749 5.2)
           are answers to it as well
    first_part  of a multipart answer only the first part is wanted
    basic  user and password of HTTP Basic, in place of a token
    body   is POSTed as `media` says what it is, by `get`: only for what the server takes twice as once
    """

    below: str = field(repr=False)
    accept: str
    limit: int
    token: str | None = field(default=None, repr=False)
    gzip: bool = False
    form: Mapping[str, str] | None = field(default=None, repr=False)
    body: bytes | None = field(default=None, repr=False)
    media: str = ""
    basic: tuple[str, str] | None = field(default=None, repr=False)
    first_part: bool = False


class Call:
    """One read: which base it may reach, until when, and the sockets to shut when it is given up."""

    def __init__(self, base: Base, deadline: Deadline) -> None:
        self.base = base
        self.deadline = deadline
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._abandoned = False

    @property
    def over(self) -> bool:
        return self._abandoned or self.deadline.passed

    def time_left(self) -> float:
        return max(SHORTEST_S, self.deadline.remaining())

    def hold(self, handle: socket.socket) -> None:
        with self._lock:
            self._sockets.add(handle)
        if self._abandoned:
            self.abandon()

    def let_go(self, handle: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(handle)

    def abandon(self) -> None:
        """End the read from another thread."""
        with self._lock:
            self._abandoned = True
            for handle in self._sockets:
                with contextlib.suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """From here on the connection may serve another call, which this one must not end."""
        with self._lock:
            self._sockets.clear()

    def connect(self, resolver: Resolver) -> socket.socket:
        """A socket to one of the base's addresses: the address that was checked is the one contacted."""
        try:
            addresses = resolver.addresses(self.base, self.deadline.remaining())
        except TimeoutError:
            raise FetchFailed("timeout") from None
        except NotAllowed:
            raise FetchFailed("not-allowed") from None
        except OSError:
            raise FetchFailed("unreachable", retry=True) from None
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            if self.over:
                break
            with contextlib.suppress(OSError):
                sock = socket.create_connection((address, self.base.port), self.time_left() / left)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(self.time_left())
                return sock
        raise FetchFailed("timeout") if self.over else FetchFailed("unreachable", retry=True)


class _Held:
    """A connection whose socket can be shut from another thread, also during a TLS handshake."""

    _handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        call: Call = _now.call
        sock = call.connect(_now.resolver)
        self._handle = sock.dup()
        call.hold(self._handle)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self._handle is not None:  # a connection kept from an earlier call
            _now.call.hold(self._handle)
        super().request(*args, **kwargs)  # type: ignore[misc]

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        handle, self._handle = self._handle, None
        if handle is not None:
            call: Call | None = getattr(_now, "call", None)
            if call is not None:
                call.let_go(handle)
            handle.close()


class _HTTPConnection(_Held, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_Held, urllib3.connection.HTTPSConnection):
    pass


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


def _new_session(ca_bundle: str | None) -> requests.Session:
    """A session that holds connections and nothing else: no token, no cookies, no proxy or netrc of the machine."""
    session = requests.Session()
    session.trust_env = False
    session.verify = ca_bundle or True
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(pool_connections=8, pool_maxsize=1, max_retries=0))
    return session


class Transport:
    """One session for each thread. `ca_bundle` is a file of certificate authorities instead of the usual ones."""

    def __init__(self, ca_bundle: str | None = None, resolver: Resolver | None = None) -> None:
        self._ca_bundle = ca_bundle
        self._resolver = resolver or Resolver()
        self._thread = threading.local()
        self._retries = RetryBudget()
        # urllib3 warns with the URL in the text, and ours name patients.
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    def post(self, call: Call, ask: Ask) -> Got:
        """POST the form of `ask`, once. Raises FetchFailed."""
        return self._get(call, ask)

    def get(self, call: Call, ask: Ask) -> Got:
        """GET, and once more after a passing fault if a third of the time is left. Raises FetchFailed.

        All retries of the process together are at most a tenth of its calls.
        """
        a_third = call.deadline.remaining() / 3
        self._retries.called()
        try:
            return self._get(call, ask)
        except FetchFailed as failed:
            if not failed.retry or call.over or call.deadline.remaining() < a_third or not self._retries.retry():
                raise
        return self._get(call, ask)

    def _get(self, call: Call, ask: Ask) -> Got:
        if call.over:
            raise FetchFailed("timeout")
        try:
            url = call.base.url(ask.below)
        except NotAllowed:
            raise FetchFailed("not-allowed") from None
        headers = {
            "Accept": ask.accept,
            "Accept-Encoding": "gzip" if ask.gzip else "identity",
            "User-Agent": "ordersight",
        }
        if ask.token is not None:
            headers["Authorization"] = f"Bearer {ask.token}"
        if ask.body is not None:
            headers["Content-Type"] = ask.media
        session: requests.Session | None = getattr(self._thread, "session", None)
        if session is None:
            session = self._thread.session = _new_session(self._ca_bundle)
        _now.call, _now.resolver = call, self._resolver
        try:
            with session.request(
                "GET" if ask.form is None and ask.body is None else "POST",
                url,
                headers=headers,
                data=ask.form if ask.body is None else ask.body,
                auth=ask.basic,
                stream=True,
                allow_redirects=False,
                timeout=call.time_left(),
            ) as response:
                if ask.form is None or response.status_code not in (400, 401):
                    _check_status(response, written=ask.body is not None)
                content_type = response.headers.get("Content-Type", "")
                part = _part_of(content_type) if ask.first_part else None
                body = _read_body(response, call, ask.limit, part)
                return Got(content_type, body, response.status_code, None if part is None else part.headers)
        except BadAnswer:
            raise FetchFailed("bad-answer") from None
        except requests.exceptions.Timeout:
            raise FetchFailed("timeout") from None
        except requests.exceptions.SSLError:
            raise FetchFailed("timeout" if call.over else "unreachable") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError):
            raise (FetchFailed("timeout") if call.over else FetchFailed("unreachable", retry=True)) from None
        finally:
            _now.call = None
            call.finish()


def _check_status(response: requests.Response, *, written: bool = False) -> None:
    status = response.status_code
    if status in (401, 403):
        raise FetchFailed("refused", status)
    if status not in (200, 204, *((201, 202) if written else ())):
        # Redirects end here too: the token would follow them.
        asked = response.headers.get("Retry-After", "")
        wait_s = float(asked) if status in (429, 503) and asked.isascii() and asked.isdigit() else None
        raise FetchFailed("error", status, retry=status in RETRIED and not asked, wait_s=wait_s)


def _part_of(content_type: str) -> FirstPart | None:
    """What takes the first part of a multipart answer; None for a plain one. Raises BadAnswer without a boundary."""
    type_, parameters = media_type(content_type)
    return FirstPart(parameters.get("boundary", "")) if type_ == "multipart/related" else None


def _read_body(response: requests.Response, call: Call, limit: int, part: FirstPart | None) -> bytes:
    """The whole body, or the content of its first part: held once while it comes. Raises FetchFailed or BadAnswer."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", "gzip"):
        raise FetchFailed("bad-answer")
    whole = io.BytesIO()
    size = after = 0
    while not call.over:
        try:
            # What one read of the socket gave; decompressed it is CHUNK bytes at most, the rest waits.
            piece = response.raw.read1(CHUNK, decode_content=True)
        except urllib3.exceptions.DecodeError:
            raise FetchFailed("bad-answer") from None
        if not piece:
            return whole.getvalue() if part is None else part.content()
        size += len(piece)
        if size > limit:
            raise FetchFailed("bad-answer")
        if part is None:
            whole.write(piece)
        elif not part.done:
            part.feed(piece)
        else:
            after += len(piece)
        if after > EPILOGUE:
            break  # more parts, which nobody wants: the connection goes with them
    if part is not None and part.done:
        return part.content()
    raise FetchFailed("timeout")
