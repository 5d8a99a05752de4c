"""`Ahead`: films are fetched and encoded when somebody will soon ask for them, not when an order waits.

ahead = Ahead(state.films, clients, fetcher, decoders, engines, clock=now, days=30, most_bytes=512 * MIB)
ahead.start(workers=1)
ahead.after(hook, client)                     # patient-view, encounter-start: the answer is already made
ahead.note(Wish(client=..., base=..., study="s1"))      # a subscription, or a poll

A wish is durable before anybody works on it. A token that came with a hook stays in this process's memory until its
time is over; where it is gone, or the wish came without one, our own (SMART Backend Services) is asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta

import msgspec

from cds_service.decoding import Decoders
from cds_service.evidence import Shortfall
from cds_service.fhir_client import FhirClient
from cds_service.films.cache import FilmCache, OfOneCall
from cds_service.films.encoding import Encoding, NotEncoded, Wish, tenant_of
from cds_service.hooks import HookRequest
from cds_service.settings import Settings
from cds_service.state.errors import StateError
from cds_service.state.films import Depth, FilmRows
from cds_service.state.store import Store
from cds_service.trust.clients import Client, Clients
from cds_service.trust.smart_backend import BackendTokens
from models.contract import Assessor

log = logging.getLogger(__name__)

HOOKS = frozenset({"patient-view", "encounter-start"})
"""After these an order may follow."""
LEASE = timedelta(minutes=2)
AGAIN_S = 60.0
"""The same wish within so many seconds is one."""
IDLE_S = 2.0
LOOK_S = 5.0
SWEEP_S = 600.0


class Ahead:
    """The queue's two ends in one process. `depth` is what the queue and the cache held a few seconds ago."""

    def __init__(
        self,
        rows: FilmRows,
        clients: Clients,
        fetcher: FhirClient,
        decoders: Decoders,
        engines: Mapping[str, Assessor],
        *,
        clock: Callable[[], datetime],
        days: int,
        most_bytes: int,
        tokens: BackendTokens | None = None,
    ) -> None:
        self.cache = FilmCache(rows, days, most_bytes)
        self.depth = Depth(0, 0, 0, 0)
        self._rows = rows
        self._clients = clients
        self._clock = clock
        self._encoding = Encoding(self.cache, clients, fetcher, decoders, engines, clock, tokens)
        self._lock = threading.Lock()
        self._noted: dict[str, float] = {}
        self._lent: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked_at = self._swept_at = float("-inf")

    @property
    def useful(self) -> bool:
        """Whether any model here reads films."""
        return bool(self._encoding.engines)

    def start(self, workers: int) -> None:
        """Work on the queue with so many threads; none leaves it to other processes."""
        if self.useful:
            for number in range(workers):
                thread = threading.Thread(target=self._work, name=f"films-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        """Give up what is under way: its lease ends, and it is taken again."""
        self._stop.set()
        self._wake.set()
        self._encoding.abandon()
        for thread in self._threads:
            thread.join(timeout=5)

    # Wishes -----------------------------------------------------------------------------------------------------

    def of_call(self, client: Client, hook: HookRequest, engine: Assessor | None) -> OfOneCall | None:
        """The kept films of a call's patient for the engine that answers it; None where it reads none."""
        encoder: str = getattr(engine, "encoder", "")
        if not encoder:
            return None
        return self.cache.of(tenant_of(client), hook.context.patient_id, encoder, hook.received_at)

    def after(self, hook: HookRequest, client: Client, missing: Sequence[Shortfall] = ()) -> None:
        """An answer is made: its patient's films may be wanted soon, or were and could not be had in time.

        Costs microseconds. The call's token is kept in memory alone, and no longer than it is good for.
        """
        if hook.hook not in HOOKS and not any(s.key == "films" for s in missing):
            return
        server = client.server(hook.fhir_server) if hook.fhir_server is not None else None
        if server is None or not server.dicomweb or not self.useful:
            return
        lent = hook.fhir_authorization
        wish = Wish(client=client.name, base=server.base, patient=hook.context.patient_id)
        try:
            self.note(wish, token=lent.access_token if lent else None, token_s=lent.expires_in if lent else 0)
        except StateError as error:
            log.warning("films not noted", extra={"fields": {"why": str(error)}})

    def note(self, wish: Wish, *, token: str | None = None, token_s: float = 0.0) -> Future[None] | None:
        """Queue a wish; durable once the future has ended. None where the same patient was noted a moment ago.

        Raises StateUnavailable where too much waits for the database already.
        """
        client = next(c for c in self._clients.all if c.name == wish.client)
        tenant, now = tenant_of(client), time.monotonic()
        name = self._rows.job_name(tenant, wish.base, wish.patient, wish.study, *wish.versions())
        with self._lock:
            self._noted = {n: at for n, at in self._noted.items() if now - at < AGAIN_S}
            self._lent = {n: held for n, held in self._lent.items() if held[1] > now}
            if token:
                self._lent[name] = token, now + token_s
            if not wish.study:
                # A chart that is opened by several services, or again and again, is one wish; a study's news never is.
                if name in self._noted:
                    return None
                self._noted[name] = now
        done = self._rows.put(tenant, wish.patient, name, msgspec.json.encode(wish), self._clock())
        done.add_done_callback(lambda _: self._wake.set())
        return done

    # Work -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        failing = False
        while not self._stop.is_set():
            try:
                busy = self.work_once()
                failing = False
            except Exception as error:  # noqa: BLE001 - the thread must outlive one bad job or a lost database
                if not failing:
                    why = str(error) if isinstance(error, StateError) else type(error).__name__
                    log.warning("films are not encoded ahead", extra={"fields": {"why": why}})
                busy, failing = False, True
            if not busy:
                self._wake.wait(IDLE_S)
                self._wake.clear()

    def work_once(self) -> bool:
        """Carry out the job that has been due longest; False where there is none. Raises StateUnavailable."""
        self._look()
        job = self._rows.take(self._clock(), LEASE)
        if job is None:
            return False
        began = time.monotonic()
        try:
            films = self._encoding.carry_out(job, self._lent_for(job.name))
        except NotEncoded as failure:
            self._rows.failed(job, failure.reason, self._clock(), for_good=failure.for_good)
            log.info("films not encoded", extra={"fields": {"why": failure.reason, "attempt": job.attempts}})
            return True
        except StateError:
            raise
        except Exception as error:  # noqa: BLE001 - one patient's fault must not stop the others'
            self._rows.failed(job, "failed", self._clock())
            log.error("encoding films failed", extra={"fields": {"error": type(error).__name__}})
            return True
        self._rows.done(job)
        ms = round((time.monotonic() - began) * 1000)
        log.info("films encoded", extra={"fields": {"films": films, "ms": ms, "attempt": job.attempts}})
        return True

    def _lent_for(self, name: str) -> str | None:
        """The token a hook lent for this job, while it holds."""
        with self._lock:
            lent, until = self._lent.get(name, ("", 0.0))
        return lent if lent and until > time.monotonic() else None

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at > LOOK_S:
            self._looked_at = now
            self.depth = self._rows.depth()
        if now - self._swept_at > SWEEP_S:
            self._swept_at = now
            self.cache.sweep(self._clock())


def open_ahead(
    settings: Settings,
    state: Store,
    clients: Clients,
    fetcher: FhirClient,
    decoders: Decoders,
    engines: Mapping[str, Assessor],
    clock: Callable[[], datetime],
    tokens: BackendTokens,
    workers: int | None = None,
) -> Ahead:
    """As the settings have it, at work already; `workers` in place of how many they say."""
    ahead = Ahead(
        state.films,
        clients,
        fetcher,
        decoders,
        engines,
        clock=clock,
        days=settings.films_days,
        most_bytes=settings.films_mb * 1024 * 1024,
        tokens=tokens,
    )
    ahead.start(settings.films_workers if workers is None else workers)
    return ahead
