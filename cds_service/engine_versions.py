"""`Versions`: the models one replica has in memory. It knows no database: callers say which version they mean."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from cds_service.engine_process import answer, describe
from cds_service.engine_wire import Asked, Follow, Here, Said
from models.checkpoint import CheckpointError
from models.registry import Registry, verify
from models.serving import Engine

log = logging.getLogger(__name__)

VERSIONS = 2
"""Of each model in memory at once besides the shipped one, over all models; beyond, what was loaded first goes."""


class Versions:
    """The engines of one replica by digest of their weights, loaded when first wanted. For many threads."""

    def __init__(self, models: Path, names: tuple[str, ...]) -> None:
        self._registry = Registry(models)
        self.shipped = {name: Engine.load(models / name) for name in names}
        self._loaded = {engine.digest: engine for engine in self.shipped.values()}
        self._lock = threading.Lock()

    def with_digest(self, digest: str) -> Engine | None:
        """None where no version of any of our models has these weights."""
        found = self._loaded.get(digest)
        if found is not None:
            return found
        with self._lock:
            for name in self.shipped:
                try:
                    return self._loaded.get(digest) or self._load(name, digest)
                except CheckpointError:
                    continue
        return None

    def has(self, digest: str) -> bool:
        """Whether these weights are in memory."""
        return digest in self._loaded

    def here(self, wanted: dict[str, str]) -> Here:
        """Of each model the version that is wanted, or the shipped one where that is not there."""
        now = {
            name: (self.with_digest(wanted[name]) if name in wanted else None) or engine
            for name, engine in self.shipped.items()
        }
        return Here(tuple(describe(name, engine) for name, engine in now.items()), self.busy_s)

    @property
    def busy_s(self) -> float:
        return max(engine.busy_s for engine in tuple(self._loaded.values()))

    def _load(self, name: str, digest: str) -> Engine:
        engine = Engine.of(verify(self._registry.with_digest(name, digest)), self._registry.models)
        kept = {engine.digest for engine in self.shipped.values()}
        added = [d for d in self._loaded if d not in kept]
        if len(added) >= VERSIONS * len(self.shipped):
            self._loaded.pop(added[0]).close()
        self._loaded[digest] = engine
        log.info("model loaded", extra={"fields": {"model": engine.name, "digest": digest[:12]}})
        return engine

    def said(self, message: Asked) -> Said:
        """The answer to any message."""
        if isinstance(message, Follow):
            return self.here(dict(message.wanted))
        return answer(self.with_digest(message.digest), message)
