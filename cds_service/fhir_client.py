"""`FhirClient`: what one call reads from its FHIR server and the archives beside it.

Each upstream has a bounded pool of threads of its own, which is its bulkhead: a server that hangs holds up the reads
of that server and no other, and what waits in its queue holds no thread. Before it stands a breaker for each tenant:
a server that has failed or been late time and again is not asked at all for a while.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cds_service import dicomweb
from cds_service.archives import Archives, ended
from cds_service.breaker import Breakers, Kind
from cds_service.deadline import Deadline
from cds_service.evidence import Frame, Reason
from cds_service.films.seek import Wanted
from cds_service.hooks import HookRequest
from cds_service.multipart import BadAnswer
from cds_service.prefetch import Absent, Answer, Failed, Sent, read_answer
from cds_service.transport import Ask, Call, FetchFailed, Got, Transport
from cds_service.trust.clients import Client, FhirServer
from cds_service.trust.origins import Base, NotAllowed, Resolver
from fhir_mappers.record import Instance, Study

MAX_PAGES = 10
MAX_ENTRIES = 2_000
MAX_FHIR_BYTES = 8_000_000
"""Of all pages of one search together, after decompression."""
FHIR_JSON = "application/fhir+json"
SHORTEST_SLICE_S = 0.1
"""A read that had less time than this and was late says nothing about the server."""
CLOSE_TO_S = 0.02
"""A read given up earlier than this before its deadline was not late: the call it belonged to had ended."""

T = TypeVar("T")


class FhirClient:
    """The threads and connections of all calls; made once per app.

    fhir_in_flight      reads under way at one FHIR server
    dicomweb_in_flight  reads under way at one archive
    ca_bundle           file with the certificate authorities to trust, where the hospital has its own
    """

    def __init__(
        self,
        *,
        fhir_in_flight: int = 16,
        dicomweb_in_flight: int = 8,
        ca_bundle: str | None = None,
        resolver: Resolver | None = None,
        breakers: Breakers | None = None,
    ) -> None:
        self.transport = Transport(ca_bundle, resolver)
        self.breakers = breakers or Breakers()
        self._sizes: Mapping[Kind, int] = {"fhir": fhir_in_flight, "dicomweb": dicomweb_in_flight}
        self._lock = threading.Lock()
        self._pools: dict[tuple[Kind, Base], ThreadPoolExecutor] = {}
        self._in_use: Counter[tuple[Kind, Base]] = Counter()
        self.fetched: Callable[[str, Kind, str, float], None] = lambda tenant, kind, outcome, seconds: None
        """Told of every GET: tenant, kind, `ok` or the reason of its failure, and the seconds it took."""

    def for_request(self, request: HookRequest, client: Client | None) -> Reads:
        """The reads of one call: at the `fhirServer` it names, if that is registered for `client`, with its token."""
        if request.fhir_server is None:
            return Reads(self, None, "no-access")
        server = client.server(request.fhir_server) if client is not None else None
        if server is None:
            return Reads(self, None, "not-allowed")
        token = request.fhir_authorization.access_token if request.fhir_authorization is not None else None
        if token is not None and re.fullmatch(r"[!-~]+", token) is None:
            return Reads(self, None, "no-access")  # it would end the header it stands in
        assert client is not None
        return Reads(self, server, None, token, client.tenant or client.name)

    def at(self, client: Client, server: FhirServer, token: str | None) -> Reads:
        """Reads outside any call, at a registered server of this client."""
        return Reads(self, server, None, token, client.tenant or client.name)

    def close(self) -> None:
        with self._lock:
            for pool in self._pools.values():
                pool.shutdown(wait=False, cancel_futures=True)

    def pool(self, kind: Kind, base: Base) -> ThreadPoolExecutor:
        with self._lock:
            if (kind, base) not in self._pools:
                self._pools[kind, base] = ThreadPoolExecutor(self._sizes[kind], thread_name_prefix=kind)
            return self._pools[kind, base]

    @contextmanager
    def using(self, kind: Kind, base: Base) -> Iterator[None]:
        """Counts a thread of a pool as busy."""
        with self._lock:
            self._in_use[kind, base] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_use[kind, base] -= 1

    def fullest(self) -> Mapping[Kind, tuple[int, int]]:
        """Per kind: busy threads of the server that keeps most of them busy, and how many a server may have."""
        with self._lock:
            busy = {
                kind: max((n for (k, _), n in self._in_use.items() if k == kind), default=0) for kind in self._sizes
            }
        return {kind: (busy[kind], size) for kind, size in self._sizes.items()}


@dataclass(slots=True)
class Reads:
    """The reads of one call, as `fetching.Fetcher` describes them. `refusal` says why there is no server to read."""

    client: FhirClient
    server: FhirServer | None
    refusal: Reason | None
    token: str | None = field(default=None, repr=False)
    tenant: str = ""
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _calls: set[Call] = field(default_factory=set, repr=False)
    _futures: list[Future[Any]] = field(default_factory=list, repr=False)
    _abandoned: bool = False
    _archives: Archives = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._archives = Archives(self)

    def read(self, query: str, type_: str | None, deadline: Deadline) -> Future[Answer]:
        if self.server is None:
            return ended(Failed(self.refusal or "no-access"))
        base = self.server.fhir_base()
        return self.submit("fhir", base, lambda: self._pages(base, query, type_, deadline))

    def instances(self, study: Study, deadline: Deadline) -> Future[tuple[Instance, ...] | Failed]:
        return self._archives.instances(study, deadline)

    def find(self, wanted: Wanted, deadline: Deadline) -> Future[tuple[dicomweb.FoundStudy, ...] | Failed]:
        return self._archives.find(wanted, deadline)

    def metadata(self, study: Study, image: Instance, deadline: Deadline) -> Future[Mapping[str, Any] | Failed]:
        return self._archives.metadata(study, image, deadline)

    def frame(self, study: Study, image: Instance, deadline: Deadline, number: int = 1) -> Future[Frame | Failed]:
        return self._archives.frame(study, image, deadline, number)

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            calls, futures = tuple(self._calls), tuple(self._futures)
        for future in futures:
            future.cancel()
        for call in calls:
            call.abandon()

    def submit(self, kind: Kind, base: Base, task: Callable[[], T]) -> Future[T | Failed]:
        """Carry `task` out on a thread of this server's; what it raises of ours is a Failed."""
        if self.client.breakers.of(self.tenant, kind, str(base)).refuses():
            return ended(Failed("unreachable"))

        def carry_out() -> T | Failed:
            try:
                with self.client.using(kind, base):
                    return task()
            except FetchFailed as failed:
                return Failed(failed.reason)
            except BadAnswer:
                return Failed("bad-answer")

        future = self.client.pool(kind, base).submit(carry_out)
        with self._lock:
            self._futures.append(future)
        return future

    def get(self, kind: Kind, base: Base, ask: Ask, deadline: Deadline) -> Got:
        """One GET, if the server's breaker lets it through. Raises FetchFailed."""
        assert self.server is not None
        if base.origin == self.server.fhir_base().origin:
            # The token is the EHR's: it goes to the FHIR server's own origin and nowhere else.
            ask = replace(ask, token=self.token)
        call = Call(base, deadline)
        with self._lock:
            if self._abandoned:
                raise FetchFailed("timeout")
            self._calls.add(call)
        permit = self.client.breakers.of(self.tenant, kind, str(base)).allow()
        had_s = deadline.remaining()
        try:
            if permit is None:
                raise FetchFailed("unreachable")
            began = time.monotonic()
            outcome = "error"
            try:
                got = self.client.transport.get(call, ask)
                outcome = "ok"
            except FetchFailed as failed:
                outcome = failed.reason
                raise
            finally:
                self.client.fetched(self.tenant, kind, outcome, time.monotonic() - began)
            permit.ended(good=True)
            return got
        except FetchFailed as failed:
            may_convert = ask.accept in dicomweb.OTHERWISE and failed.status in dicomweb.CONVERT_ON
            if permit is not None and not may_convert and _counts(failed, had_s, deadline):
                permit.ended(good=False, wait_s=failed.wait_s)
            raise
        finally:
            if permit is not None:
                permit.without_evidence()
            with self._lock:
                self._calls.discard(call)

    def _pages(self, base: Base, query: str, type_: str | None, deadline: Deadline) -> Answer:
        """An answer with all its pages. What the first ones gave is kept when a later one fails: it is then partial."""
        resources: list[Mapping[str, Any]] = []
        seen: set[str] = set()
        partial, size = False, 0
        link: str | None = query
        while link is not None:
            if len(seen) == MAX_PAGES or len(resources) >= MAX_ENTRIES:
                partial = True
                break
            page: Answer
            try:
                below = base.below(link)
                if below in seen:
                    partial = True
                    break
                got = self.get("fhir", base, Ask(below, FHIR_JSON, MAX_FHIR_BYTES - size, gzip=True), deadline)
                size += len(got.body)
                page = _read_fhir(got, None if seen else type_)
            except FetchFailed as failed:
                page = Failed(failed.reason)
            except NotAllowed:
                page = Failed("not-allowed")
            if isinstance(page, Failed):
                if not seen:
                    return page
                partial = True
                break
            seen.add(below)
            link = None
            if isinstance(page, Sent):
                resources += page.resources
                partial = partial or page.partial
                link = page.next_link
        if not resources and not partial:
            return Absent()
        return Sent(tuple(resources), partial=partial)


def _read_fhir(got: Got, type_: str | None) -> Answer:
    if got.content_type and "json" not in got.content_type.lower():
        return Failed("bad-answer")
    return read_answer(got.body, type_)


def _counts(failed: FetchFailed, had_s: float, deadline: Deadline) -> bool:
    """Whether a failed read is held against the server: late, gone, broken or too busy, but not 401, 403 or 404."""
    if failed.reason == "timeout":
        return had_s >= SHORTEST_SLICE_S and deadline.remaining() <= CLOSE_TO_S
    if failed.reason == "error":
        return failed.status in (408, 429) or (failed.status or 0) >= 500
    return failed.reason in ("unreachable", "bad-answer")
