"""`Tracing`: one trace for each call, a span for each of its stages, sent to an OpenTelemetry collector.

Spans are made when the answer is, from times noted on the way: nothing else of a request is at hand here, so no header,
body, query or message of an error can get in. The provider is ours alone and no library is instrumented.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from cds_service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Link

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
EXPORT_S = 2.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a trace says of a call. Every text is of a closed set but `hook_instance`, which is kept if it is a UUID.

    spans        stage, begin and end on the monotonic clock, in order
    missing      evidence keys that could not be had, each with its reason
    error        type of what was raised, for a fault of ours
    traceparent  the caller's, as sent
    """

    service: str
    hook: str
    status: int
    outcome: str
    tenant: str
    spans: tuple[tuple[str, float, float], ...]
    missing: tuple[str, ...] = ()
    hook_instance: str = field(default="", repr=False)
    error: str = ""
    traceparent: str = field(default="", repr=False)


class Tracing:
    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        # `Resource.create` would add the host, the process and its command line.
        self._provider = TracerProvider(resource=Resource({"service.name": "ordersight"}), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("cds_service")

    def tell(self, call: Told) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        if not call.spans:
            return
        to_wall_ns = time.time_ns() - round(time.monotonic() * 1e9)
        begin, end = (to_wall_ns + round(at * 1e9) for at in (call.spans[0][1], call.spans[-1][2]))
        attributes: dict[str, str | int | tuple[str, ...]] = {
            "cds.service": call.service,
            "cds.hook": call.hook,
            "cds.outcome": call.outcome,
            "cds.missing": call.missing,
            "http.response.status_code": call.status,
        }
        optional = {"cds.tenant": call.tenant, "cds.hook_instance": _uuid(call.hook_instance), "error.type": call.error}
        attributes |= {name: value for name, value in optional.items() if value}
        # Whether a call is traced is ours to say, not its sender's: always a root, with the sender's span as a link.
        root = self._tracer.start_span(
            "cds call", Context(), SpanKind.SERVER, attributes, links=_links(call.traceparent), start_time=begin
        )
        for stage, began, ended in call.spans:
            span = self._tracer.start_span(
                stage, set_span_in_context(root, Context()), start_time=to_wall_ns + round(began * 1e9)
            )
            span.end(to_wall_ns + round(ended * 1e9))
        if call.status >= 500:
            root.set_status(StatusCode.ERROR)
        root.end(end)

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        self._provider.shutdown()


def open_tracing(settings: Settings) -> Tracing | None:
    """What ORDERSIGHT_TRACES asks for. Raises SettingsError where the packages for it are not installed."""
    if settings.traces == "off":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError("ORDERSIGHT_TRACES needs its packages: pip install 'ordersight[otel]'") from None
    return Tracing(BatchSpanProcessor(OTLPSpanExporter(settings.traces, timeout=EXPORT_S)))


def _uuid(text: str) -> str:
    try:
        return str(UUID(text)) if len(text) == 36 else ""
    except ValueError:
        return ""


def _links(traceparent: str) -> tuple[Link, ...]:
    """The caller's span (W3C Trace Context); its tracestate may hold anything, and is not read."""
    from opentelemetry.trace import Link, SpanContext

    found = _TRACEPARENT.fullmatch(traceparent)
    return (Link(SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True)),) if found else ()
