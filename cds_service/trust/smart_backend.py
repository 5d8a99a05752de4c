"""`BackendTokens`: our own access to an EHR's FHIR server, for what is read when no hook has brought a token.

tokens = BackendTokens(Directory(transport))
token = tokens.token(client, "https://ehr.example.org/fhir/R4", Deadline.after(3))

Source: SMART App Launch 2.2 "Backend Services". A token is held in memory alone, and named in no log.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cds_service.deadline import Deadline, Monotonic
from cds_service.evidence import Reason
from cds_service.transport import Ask, Call, FetchFailed
from cds_service.trust.authorization_servers import Directory, read_object
from cds_service.trust.clients import Client, FhirServer
from cds_service.trust.private_keys import KeyFileError, assertion, load_keys
from cds_service.trust.registrations import Backend

log = logging.getLogger(__name__)

T = TypeVar("T")
LONGEST_S = 5.0
"""What asking for a token may take, however far the deadline is."""
EARLY_S = 30.0
"""A token is renewed this long before its end, or after four fifths of its life where that is shorter."""
COOL_DOWN_S = 5.0
"""After a failure nobody asks for as long: whoever waits for the same token would wait for the same failure."""
TOKEN_BYTES = 65_536
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_BEARER = re.compile(r"[!-~]{1,16384}")


@dataclass(slots=True)
class _Held:
    """One server's token; times are monotonic seconds. Who holds `lock` asks, the others wait for what it brings."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str = field(default="", repr=False)
    until: float = 0.0
    failure: Reason | None = None
    failed_at: float = 0.0


class BackendTokens:
    """One token per FHIR server, shared by all threads.

    Every failure is a FetchFailed, as that of the read it is for: `no-access` without a registration or a usable key,
    `refused` where the server does not take us, `not-allowed` for a token endpoint elsewhere than registered.
    """

    def __init__(
        self, directory: Directory, now: Callable[[], float] = time.time, clock: Monotonic = time.monotonic
    ) -> None:
        self.directory = directory
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str, str], _Held] = {}

    def token(self, client: Client, fhir_base: str, deadline: Deadline) -> str:
        """The bearer token for reads at this FHIR server of the client. Raises FetchFailed."""
        server, backend = _registered(client, fhir_base)
        held = self._of(client, server, backend)
        if self._clock() < held.until:
            return held.token
        if not held.lock.acquire(timeout=deadline.remaining()):
            raise FetchFailed("timeout")
        try:
            if self._clock() < held.until:
                return held.token
            if held.failure is not None and self._clock() - held.failed_at < COOL_DOWN_S:
                raise FetchFailed(held.failure)
            return self._ask(client, server, backend, held, deadline)
        finally:
            held.lock.release()

    def reading(self, client: Client, fhir_base: str, deadline: Deadline, read: Callable[[str], T]) -> T:
        """What `read(token)` returns; once more with a new token if the server answered 401 to this one."""
        token = self.token(client, fhir_base, deadline)
        try:
            return read(token)
        except FetchFailed as failed:
            if failed.status != 401:
                raise
        self.refused(client, fhir_base, token)
        return read(self.token(client, fhir_base, deadline))

    def refused(self, client: Client, fhir_base: str, token: str) -> None:
        """The server takes this token no longer; a newer one that another thread has brought stays."""
        server, backend = _registered(client, fhir_base)
        held = self._of(client, server, backend)
        with held.lock:
            if held.token == token:
                held.token, held.until = "", 0.0

    def _of(self, client: Client, server: FhirServer, backend: Backend) -> _Held:
        with self._lock:
            return self._held.setdefault((client.name, str(server.fhir_base()), str(backend)), _Held())

    def _ask(self, client: Client, server: FhirServer, backend: Backend, held: _Held, deadline: Deadline) -> str:
        whole = deadline.within(LONGEST_S)
        hurried = deadline.remaining() < LONGEST_S
        asked_at = self._clock()
        try:
            token, lasts_s, narrowed = self._exchange(server, backend, whole)
        except FetchFailed as failed:
            # A caller in a hurry says nothing about the server.
            if not (failed.reason == "timeout" and hurried):
                held.failure, held.failed_at = failed.reason, self._clock()
            log.warning("backend token", extra={"fields": {"client": client.name, "error": failed.reason}})
            raise
        held.failure = None
        held.token, held.until = token, asked_at + max(lasts_s - EARLY_S, 0.8 * lasts_s)
        log.info(
            "backend token", extra={"fields": {"client": client.name, "seconds": lasts_s, "fewer_scopes": narrowed}}
        )
        return token

    def _exchange(self, server: FhirServer, backend: Backend, deadline: Deadline) -> tuple[str, int, bool]:
        """The token, the seconds it is good for (0 where that is not said), whether scopes are missing from it."""
        at = self.directory.of_fhir(server, deadline).token
        try:
            key = load_keys(Path(backend.key_file))[0]
        except KeyFileError as error:
            log.error("our key cannot be used", extra={"fields": {"why": str(error)}})
            raise FetchFailed("no-access") from None
        form = {
            "grant_type": "client_credentials",
            "scope": " ".join(backend.scopes),
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion(key, backend.client_id, at.url, self._now()),
        }
        got = self.directory.transport.post(
            Call(at.base, deadline), Ask(at.below, "application/json", TOKEN_BYTES, form=form)
        )
        if got.status != 200:
            raise FetchFailed("refused", got.status)
        told = read_object(got.body)
        token, lasts, scope = told.get("access_token"), told.get("expires_in"), told.get("scope")
        if not isinstance(token, str) or _BEARER.fullmatch(token) is None:
            raise FetchFailed("bad-answer")
        if str(told.get("token_type")).lower() != "bearer":
            raise FetchFailed("bad-answer")
        lasts_s = lasts if isinstance(lasts, int) and not isinstance(lasts, bool) and lasts > 0 else 0
        granted = scope.split() if isinstance(scope, str) else list(backend.scopes)
        return token, min(lasts_s, 86_400), not set(backend.scopes) <= set(granted)


def _registered(client: Client, fhir_base: str) -> tuple[FhirServer, Backend]:
    server = client.server(fhir_base)
    if server is None:
        raise FetchFailed("not-allowed")
    if server.smart is None or server.smart.backend is None:
        raise FetchFailed("no-access")
    return server, server.smart.backend
