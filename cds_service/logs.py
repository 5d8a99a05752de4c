"""Log lines in JSON that cannot carry a patient: named fields of our own code, and of everybody else only the place.

log.info("consultation", extra={"fields": {"service": service.id, "ms": stages.ms}})
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

OURS = ("cds_service", "fhir_mappers", "models")


class JsonLines(logging.Formatter):
    """One JSON object per record.

    Messages are names of events, so they are written as they stand and never filled with arguments. A library's message
    may hold a path or a value: of those only the logger and the line are written.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if record.name.split(".")[0] in OURS:
            line["event"] = str(record.msg)
            fields = getattr(record, "fields", None)
            if isinstance(fields, dict):
                line.update(fields)
        else:
            line["event"] = "library"
            line["logger"] = record.name
            line["place"] = f"{record.module}:{record.lineno}"
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["at"] = places(record.exc_info[2])
        return json.dumps(line, default=lambda value: type(value).__name__)


def places(trace: TracebackType | None, limit: int = 12) -> list[str]:
    """Where an exception passed, innermost last, as `module.py:12 function`; no message and no value."""
    return [
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(trace)[-limit:]
    ]


def configure_logging(stream: TextIO | None = None, level: str = "INFO") -> logging.Handler:
    """Send every log line of the process to `stream`, by default standard error. Returns the handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    # Werkzeug and waitress would add lines per request with the path in them.
    for name in ("werkzeug", "waitress.queue"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return handler
