"""The process that alone owns the models and the accelerator, for several web workers: `EngineServer`, and its main.

    python -P -m cds_service.engine_process SOCKET LIFELINE

It follows what is activated as a service with one worker does. LIFELINE is the number of a file descriptor whose other
end the parent holds: when the parent is gone, so is this process.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from cds_service.cli.serve import load_engines
from cds_service.durable import open_state
from cds_service.engine_wire import (
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
    Refusal,
    Refused,
    Said,
    asked,
    receive,
    send,
)
from cds_service.lifeline import end_with_parent, told
from cds_service.logs import configure_logging
from cds_service.manifest import load_services
from cds_service.settings import Settings
from models.contract import EngineBusy, EngineTimeout
from models.rollout import ServedModels
from models.serving import Engine

log = logging.getLogger("cds_service.engine")

SAY_S = 1.0
LOOK_S = 0.1


class EngineServer:
    """Answers on a Unix socket until it is closed: one thread for each connection, of which a worker keeps a few."""

    def __init__(self, path: Path, models: ServedModels) -> None:
        """Binds `path`; what a process before it left there is taken away."""
        self._models = models
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(128)
        self._closing = threading.Event()
        self._described: dict[str, Model] = {}
        threading.Thread(target=self._accept, name="engine-accept", daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        self._socket.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="engine-call", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while not self._closing.is_set():
                    message = receive(connection, asked)
                    if isinstance(message, Follow):
                        self._tell(connection)
                        return
                    send(connection, answer(self._models.with_digest(message.digest), message))
            except (OSError, BadFrame):
                return  # the worker has gone, or gave up waiting

    def _tell(self, connection: socket.socket) -> None:
        before, at = self._here(), float("-inf")
        while not self._closing.is_set():
            here = self._here()
            if here.models != before.models or time.monotonic() - at >= SAY_S:
                send(connection, here)
                before, at = here, time.monotonic()
            self._closing.wait(LOOK_S)

    def _here(self) -> Here:
        now = dict(self._models)
        for key, engine in now.items():
            known = self._described.get(key)
            if known is None or known.digest != engine.digest:
                self._described[key] = describe(key, engine)
        busy_s = max((engine.busy_s for engine in now.values()), default=0.0)
        return Here(tuple(self._described[key] for key in now), busy_s)


def describe(key: str, engine: Engine) -> Model:
    return Model(key, engine.name, engine.digest, engine.device, engine.encoder, engine.depths, engine.spec)


def answer(engine: Engine | None, message: Assess | Encode | Explain) -> Said:
    """What the engine with the message's digest says to it; None where there is no such engine any more."""
    if engine is None:
        return Refused("busy", "no such weights")
    try:
        if isinstance(message, Encode):
            return Encoded(engine.encode(message.pixels, timeout=message.timeout_s))
        if isinstance(message, Explain):
            return Explained(engine.explain(message.pixels, message.finding, timeout=message.timeout_s))
        return Assessed(
            engine.assess(message.inputs, timeout=message.timeout_s, targets=message.targets, depth=message.depth)
        )
    except Exception as error:  # noqa: BLE001 - whatever the model raises is its caller's to hear
        return _refused(error)


def _refused(error: Exception) -> Refused:
    kinds: tuple[tuple[type[Exception], Refusal], ...] = (
        (EngineBusy, "busy"),
        (EngineTimeout, "timeout"),
        (ValueError, "input"),
    )
    for cls, kind in kinds:
        if isinstance(error, cls):
            return Refused(kind, str(error))
    names = {cls.__name__ for cls in type(error).__mro__}
    memory = bool(names & {"MemoryError", "OutOfMemoryError"})
    return Refused("out-of-memory" if memory else "failed", type(error).__name__)


def main(path: Path, lifeline: int) -> None:
    settings = Settings.from_env()
    configure_logging()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    end_with_parent(lifeline, stopped.set)
    models = load_engines(load_services(settings.manifests / "services", settings.profile), settings)
    gc.collect()
    gc.freeze()
    with open_state(settings, outbox=False) as state, models.following(state.active_models):
        server = EngineServer(path, models)
        log.info("engine serving", extra={"fields": {"models": sorted(e.name for e in models.values())}})
        stopped.wait()
        server.close()


if __name__ == "__main__":
    told(lambda: main(Path(sys.argv[1]), int(sys.argv[2])))
