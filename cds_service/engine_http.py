"""`HttpLink`: engines behind an address, such as Ray Serve's. It needs no Ray; losing them costs estimates alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import msgspec
import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as HttpTimeout

from cds_service.engine_client import QUIET_S, EngineGone, Link, error_of
from cds_service.engine_wire import MOST_BYTES, Asked, Follow, Here, Refused, Said, encode, said
from models.contract import EngineBusy, EngineTimeout

log = logging.getLogger(__name__)

SAY_S = 1.0
FOLLOW_S = 5.0
CONNECTIONS = 64
FULL = frozenset({429, 503})
"""What Serve answers where every replica has its queue full, or none is up yet."""


class HttpLink(Link):
    """Asks whoever answers at `url`, each message a POST of its own.

    active  the digests to answer with, by name, as `Store.active_models` says; read before each `Follow`
    """

    def __init__(self, url: str, active: Callable[[], Mapping[str, str]] = dict) -> None:
        self._url = url
        self.active = active
        self._last: Mapping[str, str] = {}
        self._pool = urllib3.PoolManager(maxsize=CONNECTIONS, retries=False)
        super().__init__()

    def ask(self, message: Asked, timeout: float) -> Said:
        """As `Link.ask`. Raises EngineBusy too where all replicas are full."""
        if timeout <= 0.0:
            raise EngineTimeout("no time was left for the model")
        if not self.connected:
            raise EngineGone("nobody answers for the models")
        answer = self._post(message, timeout)
        if isinstance(answer, Refused):
            raise error_of(answer)
        return answer

    def _post(self, message: Asked, timeout: float) -> Said:
        try:
            answer = self._pool.request(
                "POST",
                self._url,
                body=encode(message),
                headers={"Content-Type": "application/msgpack"},
                timeout=urllib3.Timeout(total=timeout),
                redirect=False,
                preload_content=True,
            )
        except NewConnectionError:  # refused, which urllib3 counts among the time-outs
            raise EngineGone("nobody answers for the models") from None
        except HttpTimeout:
            raise EngineTimeout("the model did not answer in time") from None
        except HTTPError:
            raise EngineGone("nobody answers for the models") from None
        if answer.status in FULL:
            raise EngineBusy("every replica is full")
        if answer.status != 200 or len(answer.data) > MOST_BYTES:
            raise EngineGone(f"whoever answers for the models said {answer.status}")
        try:
            return said.decode(answer.data)
        except (msgspec.MsgspecError, ValueError, TypeError):
            raise EngineGone("whoever answers for the models says something else") from None

    def _follow(self) -> None:
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                here = self._post(Follow(tuple(sorted(self._wanted().items()))), FOLLOW_S)
                if isinstance(here, Here):
                    self._learn(here)
            except EngineGone:
                self._lost()
            except (EngineBusy, EngineTimeout):
                # There, and busy; but what never speaks again must not cost every call its whole time.
                if time.monotonic() - self.spoke_at > QUIET_S:
                    self._lost()
            self._closing.wait(max(0.0, SAY_S - (time.monotonic() - began)))

    def _wanted(self) -> Mapping[str, str]:
        try:
            self._last = self.active()
        except Exception as error:  # noqa: BLE001 - a state that cannot be read changes no model
            log.warning("active models cannot be read", extra={"fields": {"why": type(error).__name__}})
        return self._last
