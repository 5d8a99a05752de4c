"""An engine elsewhere as the service sees it: the models it answers for, each asked like an engine of one's own.

A call that finds no engine hears so at once (EngineGone, a kind of EngineBusy) and goes on with rules alone.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cds_service.engine_wire import (
    Asked,
    Assess,
    Assessed,
    BadFrame,
    Encode,
    Encoded,
    Explain,
    Explained,
    Follow,
    Here,
    Model,
    Refused,
    Said,
    receive,
    said,
    send,
)
from models.contract import Assessment, Depth, EncodedFilm, EngineBusy, EngineTimeout, FusionInput, InputSpec

log = logging.getLogger(__name__)

AGAIN_S = 0.1
QUIET_S = 10.0
"""The engine speaks every second; silent for so long it is taken for gone."""
GRACE_S = 0.02
"""How long after its own time-out the engine's word that it was late may still arrive."""


class EngineGone(EngineBusy):
    """The engine's process is not there; it is being started again."""


class EngineFailed(RuntimeError):
    """The model raised; the message is the name of the error's class."""


class RemoteEngine:
    """One version of one model in the engine's process. Safe to use from many threads."""

    def __init__(self, model: Model, link: Link) -> None:
        self.model, self._link = model, link

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def digest(self) -> str:
        return self.model.digest

    @property
    def device(self) -> str:
        return self.model.device

    @property
    def encoder(self) -> str:
        return self.model.encoder

    @property
    def depths(self) -> frozenset[Depth]:
        return self.model.depths

    @property
    def spec(self) -> InputSpec:
        return self.model.spec

    @property
    def ready(self) -> bool:
        return self._link.connected

    def assess(
        self, inputs: FusionInput, *, timeout: float, targets: Sequence[str] | None = None, depth: Depth = "explained"
    ) -> Assessment:
        """As `Engine.assess`. Raises EngineGone where the process ended, and EngineFailed where the model raised."""
        named = tuple(targets) if targets is not None else None
        answer = self._link.ask(Assess(self.digest, inputs, named, depth, timeout), timeout)
        if not isinstance(answer, Assessed):
            raise EngineFailed("BadFrame")
        return answer.assessment

    def encode(self, pixels: NDArray[np.float32], *, timeout: float) -> EncodedFilm:
        """As `Engine.encode`, and as `assess` raises."""
        answer = self._link.ask(Encode(self.digest, pixels, timeout), timeout)
        if not isinstance(answer, Encoded):
            raise EngineFailed("BadFrame")
        return answer.film

    def explain(self, pixels: NDArray[np.float32], finding: str, *, timeout: float) -> NDArray[np.float32]:
        """As `Engine.explain`, and as `assess` raises."""
        answer = self._link.ask(Explain(self.digest, pixels, finding, timeout), timeout)
        if not isinstance(answer, Explained):
            raise EngineFailed("BadFrame")
        return answer.parts


class Link(Mapping[str, RemoteEngine]):
    """The engines elsewhere by their manifests' names. Whoever looks one up keeps its version for the whole of a call.

    connected  whether anybody there spoke lately
    spoke_at   when somebody last did, by the monotonic clock
    busy_s     the age of the oldest batch that was under way then, in seconds
    """

    def __init__(self) -> None:
        self._models: dict[str, RemoteEngine] = {}
        self._closing = threading.Event()
        self._told = threading.Event()
        self.connected = False
        self.spoke_at = float("-inf")
        self.busy_s = 0.0
        self._thread = threading.Thread(target=self._follow, name="engine-link", daemon=True)
        self._thread.start()

    def __getitem__(self, name: str) -> RemoteEngine:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def wait(self, seconds: float) -> bool:
        """Whether somebody has said by then which models there are."""
        return self._told.wait(seconds)

    def close(self) -> None:
        self._closing.set()

    def ask(self, message: Asked, timeout: float) -> Said:
        """Put one message. Raises EngineTimeout, EngineGone, and what the engine refused."""
        raise NotImplementedError

    def _follow(self) -> None:
        raise NotImplementedError

    def _learn(self, here: Here) -> None:
        self.spoke_at, self.busy_s = time.monotonic(), here.busy_s
        known = self._models
        self._models = {
            m.key: known[m.key] if m.key in known and known[m.key].model == m else RemoteEngine(m, self)
            for m in here.models
        }
        if not self.connected:
            log.info("engine here", extra={"fields": {"models": sorted(m.name for m in here.models)}})
            self.connected = True
        self._told.set()

    def _lost(self) -> None:
        if self.connected:
            log.warning("engine gone")
        self.connected = False


class EngineLink(Link):
    """To the engine's process on this machine, over a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        super().__init__()

    def close(self) -> None:
        super().close()
        self._drop_idle()

    def ask(self, message: Asked, timeout: float) -> Said:
        """As `Link.ask`, on a connection of its own."""
        until = time.monotonic() + timeout
        if timeout <= 0.0:
            raise EngineTimeout("no time was left for the model")
        if not self.connected:
            raise EngineGone("the engine's process is not there")
        try:
            sock = self._take()
            try:
                sock.settimeout(timeout)
                send(sock, message)
                answer = receive(sock, said, until + GRACE_S)
            except BaseException:
                sock.close()  # whatever still comes on it would be the answer to another call
                raise
        except TimeoutError:
            raise EngineTimeout("the model did not answer in time") from None
        except (OSError, BadFrame):
            raise EngineGone("the engine's process ended") from None
        self._give_back(sock)
        if isinstance(answer, Refused):
            raise error_of(answer)
        return answer

    def _take(self) -> socket.socket:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, sock: socket.socket) -> None:
        with self._lock:
            if self.connected:
                self._idle.append(sock)
                return
        sock.close()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(self._path))
        except OSError:
            sock.close()
            raise
        return sock

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                with self._connect() as sock:
                    send(sock, Follow())
                    while not self._closing.is_set():
                        here = receive(sock, said, time.monotonic() + QUIET_S)
                        if isinstance(here, Here):
                            self._learn(here)
            except (OSError, BadFrame):
                pass
            with self._lock:
                self._lost()
            self._drop_idle()
            self._closing.wait(AGAIN_S)

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for sock in idle:
            sock.close()


def error_of(refused: Refused) -> Exception:
    if refused.kind == "busy":
        return EngineBusy("the engine is busy")
    if refused.kind == "timeout":
        return EngineTimeout("the model did not answer in time")
    if refused.kind == "input":
        return ValueError(refused.why)
    return MemoryError() if refused.kind == "out-of-memory" else EngineFailed(refused.why)
