"""The one gate every outgoing URL passes: parsed once, held against a registered base, rebuilt from that base.

A URL out of a request or a record is never contacted as written. It only selects among bases of the clients file;
scheme, host and port of what we contact are always the file's own.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache

DEFAULT_PORTS = {"http": 80, "https": 443}
RESOLVED_FOR_S = 30.0
LOOPBACK = {"localhost": ("127.0.0.1", "::1")}

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9][a-z0-9.-]*)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[a-z0-9._~!$&'()*+,;=:@%-]*)*)(?:\?(?P<query>[!-~]*))?",
    re.ASCII | re.IGNORECASE,
)
_BELOW = re.compile(r"(?P<path>[a-z0-9._~!$&'()*+,;=:@%/-]*)(?:\?(?P<query>[!-~]*))?", re.ASCII | re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
# Encoded dot, slash, backslash, percent and NUL: what one parser takes as text and the next as a path.
_ENCODED = re.compile(r"%(?:2e|2f|5c|25|00|(?![0-9a-f]{2}))", re.IGNORECASE)


class NotAllowed(Exception):
    """The URL is not one we may contact. The message holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Base:
    """A registered base URL; `path` is empty or starts with a slash and does not end with one."""

    scheme: str
    host: str
    port: int
    path: str
    allow_private: bool = False

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK or re.fullmatch(r"127(\.[0-9]+){3}", self.host) is not None

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}"

    def url(self, below: str) -> str:
        """The URL of `Patient/1`, `Observation?patient=1` or `?page=2` below this base. Raises NotAllowed."""
        match = _BELOW.fullmatch(below)
        if match is None or below.startswith("/") or "#" in below or "\\" in below:
            raise NotAllowed("not a path below the base")
        _check_path(match["path"])
        return f"{self}{'/' if match['path'] else ''}{below}"

    def below(self, link: str) -> str:
        """What a link leads to below this base, as `url` takes it; absolute, from the root, or relative.

        Raises NotAllowed for another scheme, host, port or base path: the token would go there.
        """
        if link.startswith("/"):
            link = f"{self.scheme}://{self.host}:{self.port}{link}"  # parse() refuses `//host`
        elif re.match(r"[^/?]*:", link) is None:
            self.url(link)
            return link
        parts = parse(link)
        if parts.origin != self.origin or not (parts.path == self.path or parts.path.startswith(f"{self.path}/")):
            raise NotAllowed("a link to another server")
        path = parts.path[len(self.path) :].removeprefix("/")
        return path if parts.query is None else f"{path}?{parts.query}"


@dataclass(frozen=True, slots=True)
class Parts:
    scheme: str
    host: str
    port: int
    path: str
    query: str | None

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def parse(url: str) -> Parts:
    """Take a URL apart, strictly. Raises NotAllowed for all that parsers disagree about.

    That is userinfo, backslashes, whitespace, fragments, dot segments, encoded dots and slashes, IPv6 literals and
    characters outside ASCII. Scheme and host are lower-cased, as they mean the same either way.
    """
    match = _URL.fullmatch(url)
    if match is None or "#" in url or "\\" in url:
        raise NotAllowed("not a plain http or https URL")
    scheme = match["scheme"].lower()
    port = int(match["port"]) if match["port"] else DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:
        raise NotAllowed("no such port")
    _check_path(match["path"])
    return Parts(scheme, match["host"].lower(), port, match["path"], match["query"])


def _check_path(path: str) -> None:
    if _ENCODED.search(path) or any(segment in (".", "..") for segment in path.split("/")) or "//" in path:
        raise NotAllowed("a path that may be read in two ways")


@lru_cache(maxsize=1024)
def read_base(text: str, allow_private: bool = False) -> Base:
    """Read a base URL of the clients file. Raises ValueError saying what would be right."""
    try:
        parts = parse(text)
    except NotAllowed as error:
        shown = "a URL with a password in it" if "@" in text else repr(text)
        raise ValueError(f"{shown} is {error}; write e.g. https://ehr.example.org/fhir/R4") from None
    if parts.query is not None:
        raise ValueError(f"{text!r} has a query; write the base URL alone")
    labels = parts.host.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} has a host that is no name; write e.g. ehr.example.org")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        try:
            ipaddress.IPv4Address(parts.host)  # decimal, octal, hexadecimal and short spellings are refused
        except ValueError:
            raise ValueError(f"{text!r} has an address that is not four decimal numbers") from None
    base = Base(parts.scheme, parts.host, parts.port, parts.path.rstrip("/"), allow_private)
    if base.scheme == "http" and not base.loopback:
        raise ValueError(f"{text!r} is http; only a server on this machine may be read without TLS")
    return base


def same_base(base: Base, url: str) -> bool:
    """Whether a URL names exactly this base, with or without a final slash."""
    try:
        parts = parse(url)
    except NotAllowed:
        return False
    return parts.query is None and (*parts.origin, parts.path.rstrip("/")) == (*base.origin, base.path)


def address_allowed(base: Base, address: str) -> bool:
    """Whether the base may be contacted at this address.

    Loopback is for bases that are written so, private ranges for entries with `allow_private`; link-local (cloud
    metadata), multicast, unspecified and reserved addresses for none.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in ipaddress.IPv6Network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    if base.loopback:
        return ip.is_loopback
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return False
    return ip.is_global or base.allow_private


Lookup = Callable[[str, int], Sequence[str]]


def system_lookup(host: str, port: int) -> list[str]:
    """All addresses the operating system knows for a name. Raises OSError when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Addresses of registered hosts, looked up within a time limit and kept for 30 s.

    The operating system's lookup cannot be interrupted, so it runs on a thread of its own, one per host at most,
    and only the wait for it ends.
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[float, Future[Sequence[str]]]] = {}

    def addresses(self, base: Base, timeout: float) -> tuple[str, ...]:
        """The addresses at which a base may be contacted.

        Raises NotAllowed when there is none left after the check, OSError when the name is unknown, and
        TimeoutError. The caller connects to one of these, so a second answer of the name server changes nothing.
        """
        if base.host in LOOPBACK:
            return LOOPBACK[base.host]
        found = self._future(base.host, base.port).result(timeout)
        allowed = tuple(a for a in found if address_allowed(base, a))
        if not allowed:
            raise NotAllowed("the name leads to an address that may not be contacted")
        return allowed

    def _future(self, host: str, port: int) -> Future[Sequence[str]]:
        with self._lock:
            until, future = self._known.get((host, port), (0.0, None))
            failed = future is not None and future.done() and future.exception() is not None
            if future is not None and not failed and (not future.done() or time.monotonic() < until):
                return future
            future = Future()
            self._known[host, port] = time.monotonic() + RESOLVED_FOR_S, future
        threading.Thread(target=self._look_up, args=(host, port, future), name="resolve", daemon=True).start()
        return future

    def _look_up(self, host: str, port: int, future: Future[Sequence[str]]) -> None:
        try:
            future.set_result(self._lookup(host, port))
        except (OSError, UnicodeError) as error:
            future.set_exception(error if isinstance(error, OSError) else OSError("not a name"))
