"""Models that change while they serve: the next one is loaded beside the old, and takes over between two calls."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from models.checkpoint import CheckpointError
from models.registry import Registry, verify
from models.serving import Engine

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often the pointers are read: with about two seconds to load a model, a change is in force within ten."""
DRAIN_S = 60.0
"""How long a model that was taken over from goes on answering: longer than any call or film may take."""
RETRY_S = 60.0
"""A version that could not be used is tried again after this long; the old one answers meanwhile."""


class ServedModels(Mapping[str, Engine]):
    """The engine that answers under each name now. Whoever looks one up keeps it for the whole of a call, so that no
    call mixes two versions; a name whose next version cannot be used keeps the one it has.
    """

    def __init__(self, registry: Registry, shipped: Mapping[str, Engine], *, drain_s: float = DRAIN_S) -> None:
        self._registry = registry
        self._engines = dict(shipped)
        self._drain_s = drain_s
        self._retired: list[tuple[float, Engine]] = []
        self._refused: dict[tuple[str, str], float] = {}
        self._stop = threading.Event()

    def __getitem__(self, name: str) -> Engine:
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    def with_digest(self, digest: str) -> Engine | None:
        """The engine with these weights, also while it only finishes what was asked of it before another took over."""
        retired = [engine for _, engine in self._retired]
        return next((e for e in (*self._engines.values(), *retired) if e.digest == digest), None)

    @contextmanager
    def following(self, active: Callable[[], Mapping[str, str]]) -> Iterator[None]:
        """Serve what `active` names (digest of weights by model name), now and whenever it names another.

        Returns when all has been tried once. Names without a word keep their shipped model.
        """
        self.turn_to(active)
        thread = threading.Thread(target=self._follow, args=(active,), name="rollout", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            for engine in (*self._engines.values(), *(e for _, e in self._retired)):
                engine.close()

    def turn_to(self, active: Callable[[], Mapping[str, str]]) -> None:
        """Look once, and load what is to answer from now on. Whatever goes wrong is logged and leaves the old one."""
        try:
            wanted = active()
        except Exception as error:  # noqa: BLE001 - a state that cannot be read takes no model out of service
            log.warning("active models cannot be read", extra={"fields": {"why": type(error).__name__}})
            return
        for name, digest in wanted.items():
            old = self._engines.get(name)
            refused = self._refused.get((name, digest))
            if old is None or old.digest == digest or (refused is not None and time.monotonic() < refused + RETRY_S):
                continue
            fields = {"model": name, "from": old.digest[:12], "to": digest[:12]}
            try:
                version = self._registry.with_digest(name, digest)
                engine = Engine.of(verify(version), self._registry.models, device=old.device)
            except (CheckpointError, MemoryError, RuntimeError) as error:
                # torch reports a device without memory as a RuntimeError.
                self._refused[name, digest] = time.monotonic()
                told = str(error) if isinstance(error, CheckpointError) else type(error).__name__
                log.error("model not activated", extra={"fields": fields | {"why": told}})
                continue
            self._engines[name] = engine
            self._retired.append((time.monotonic() + self._drain_s, old))
            log.info("model activated", extra={"fields": fields})
        over = [engine for until, engine in self._retired if until <= time.monotonic()]
        self._retired = [(until, engine) for until, engine in self._retired if engine not in over]
        for engine in over:
            engine.close()

    def _follow(self, active: Callable[[], Mapping[str, str]]) -> None:
        while not self._stop.wait(LOOK_S):
            self.turn_to(active)
