"""Serving a Flask application on a real socket of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from werkzeug.serving import make_server

from cds_service.demo.ehr import demo_blueprint


@contextmanager
def served(app: Flask, port: int = 0) -> Iterator[str]:
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def demo_only() -> Flask:
    """The demo EHR alone: no decision support behind it."""
    app = Flask("demo-only", static_folder=None)
    app.register_blueprint(demo_blueprint(draw=False))
    return app
