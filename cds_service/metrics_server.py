"""`/metrics` on a port of its own, and nowhere unless it was asked for.

On the port of the hooks it would be open to every EHR, and a check of the sender's address proves nothing there: behind
a proxy every call comes from this machine. So there are three choices: `off`, which is the default since nobody should
find a port open that he did not open; `loopback`; and a port on the address of the service, for a network where only
the monitoring reaches it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from threading import Event, Thread
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from waitress import wasyncore
from waitress.server import create_server

from cds_service.settings import Settings, SettingsError

log = logging.getLogger(__name__)

LOOPBACK_PORT = 9464
"""Where collectors look for an OpenTelemetry or Prometheus exporter by convention."""


class MetricsServer:
    """Answers GET /metrics until `close`. Raises SettingsError when the address is not to be had."""

    def __init__(self, settings: Settings, registry: CollectorRegistry, worker: int = 0) -> None:
        host, first = (
            ("127.0.0.1", LOOPBACK_PORT) if settings.metrics == "loopback" else (settings.host, int(settings.metrics))
        )
        port = first + worker
        self._sockets: dict[int, Any] = {}
        self._stopping = Event()
        try:
            # waitress too reads whole requests before it gives them a thread: a slow scraper holds none.
            self._server = create_server(
                _only_metrics(make_wsgi_app(registry)),
                host=host,
                port=port,
                map=self._sockets,
                threads=2,
                connection_limit=20,
                channel_timeout=15,
                max_request_body_size=1,
                asyncore_use_poll=True,
                expose_tracebacks=False,
                ident=None,
            )
        except OSError as error:
            raise SettingsError(f"ORDERSIGHT_METRICS: cannot listen on port {port}: {error.strerror}") from None
        self.port = int(self._server.effective_port)
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics", extra={"fields": {"port": self.port}})

    def _run(self) -> None:
        while not self._stopping.is_set():
            wasyncore.loop(timeout=1.0, use_poll=True, map=self._sockets, count=1)

    def close(self) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._server.pull_trigger()
        self._thread.join(timeout=5)
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._sockets, ignore_all=True)


def listen_metrics(settings: Settings, registry: CollectorRegistry, worker: int = 0) -> MetricsServer | None:
    """The server the settings ask for, or None. Raises SettingsError when its port is taken.

    Each web worker counts what it answers, on a port of its own: those after the first one's.
    """
    return None if settings.metrics == "off" else MetricsServer(settings, registry, worker)


def _only_metrics(metrics: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics" or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return [b""]
        return metrics(environ, start_response)

    return app
