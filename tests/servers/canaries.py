"""Fails a run in which anything of a test patient reached a log, a metric, a trace or the body of an error.

It looks where these leave the program, in this process and, by `watched/sitecustomize.py`, in every Python process that
a test starts; nothing is put in the program's place. What is found is written at once, with the test that was running,
so that a process killed a moment later has told it.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

REPORT = "CANARY_REPORT"
"""Environment variable of the file that takes what is found; who has it watches."""
WATCHED = Path(__file__).parent / "watched"
CANARIES = {
    "canary": re.compile(r"Zebra7Canary"),
    "patient's reference": re.compile(r"\bPatient/[A-Za-z0-9][A-Za-z0-9.-]*"),
    "user's reference": re.compile(r"\bPractitioner/[A-Za-z0-9][A-Za-z0-9.-]*"),
    "JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{12,}\.[A-Za-z0-9_-]{8,}"),
    "bearer token": re.compile(r"\bBearer [A-Za-z0-9._~+/-]{8,}"),
}
"""What marks a test patient's data: a word that stands in their names and values, and any reference to them at all."""


def look_at(text: str, where: str) -> None:
    """Note every canary in `text`, which left the program by `where`."""
    report = os.environ.get(REPORT)
    if report is None:
        return
    for kind, canary in CANARIES.items():
        if canary.search(text):
            test = os.environ.get("PYTEST_CURRENT_TEST", "outside a test").split(" (")[0]
            # One write, appended: processes do not cut into each other's lines.
            handle = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, f"{test}: a {kind} in {where}\n".encode())
            finally:
                os.close(handle)


class _Log(logging.Handler):
    """Sees the line as it is written: a message that the formatter drops has not left."""

    def emit(self, record: logging.LogRecord) -> None:
        logs = sys.modules.get("cds_service.logs")
        if logs is not None and hasattr(logs, "JsonLines"):
            look_at(logs.JsonLines().format(record), f"a log line of {record.name}")
        elif record.name.split(".")[0] in ("cds_service", "fhir_mappers", "models"):
            look_at(f"{record.msg} {getattr(record, 'fields', '')}", f"a log line of {record.name}")


def _errors(flask: ModuleType) -> None:
    def finished(sender: Any, response: Any, **_: Any) -> None:
        if response.status_code >= 400 and "ordersight" in sender.extensions and response.is_sequence:
            where = f"the body of a {response.status_code}"
            look_at(response.get_data(as_text=True), where)
            look_at(str(response.headers), f"the headers of a {response.status_code}")

    flask.request_finished.connect(finished, weak=False)


def _metrics(exposition: ModuleType) -> None:
    """Every scrape, whoever asks for it."""
    made = exposition.generate_latest

    @functools.wraps(made)
    def generate_latest(*arguments: Any, **more: Any) -> bytes:
        text: bytes = made(*arguments, **more)
        look_at(text.decode("utf-8", "replace"), "a scrape of the metrics")
        return text

    exposition.generate_latest = generate_latest  # type: ignore[attr-defined]


def _labels(metrics: ModuleType) -> None:
    """Every label as it is set, for the many tests that scrape nothing."""
    labelled = metrics.MetricWrapperBase.labels

    @functools.wraps(labelled)
    def labels(self: Any, *values: Any, **named: Any) -> Any:
        look_at(" ".join(map(str, (*values, *named.values()))), "a label of a metric")
        return labelled(self, *values, **named)

    metrics.MetricWrapperBase.labels = labels


def _spans(trace: ModuleType) -> None:
    ended = trace.SynchronousMultiSpanProcessor.on_end

    @functools.wraps(ended)
    def on_end(self: Any, span: Any) -> None:
        look_at(span.to_json(), "a span of a trace")
        ended(self, span)

    trace.SynchronousMultiSpanProcessor.on_end = on_end


def _sent(encoder: ModuleType) -> None:
    """What a collector of traces gets: the spans, and all that the exporter adds to them."""
    encode = encoder.encode_spans

    @functools.wraps(encode)
    def encode_spans(*arguments: Any, **more: Any) -> Any:
        request = encode(*arguments, **more)
        look_at(str(request), "what a collector of traces is sent")
        return request

    encoder.encode_spans = encode_spans  # type: ignore[attr-defined]


def _refusals(task: ModuleType) -> None:
    """What the server answers by itself, before the application is asked or in its place."""
    write = task.Task.write

    @functools.wraps(write)
    def written(self: Any, data: bytes) -> None:
        if isinstance(self, task.ErrorTask):
            text = f"{self.response_headers} {data.decode('utf-8', 'replace')}"
            look_at(text, f"a {self.status[:3]} of the server's own")
        write(self, data)

    task.Task.write = written


AT = {
    "flask": _errors,
    "prometheus_client.exposition": _metrics,
    "prometheus_client.metrics": _labels,
    "opentelemetry.sdk.trace": _spans,
    "opentelemetry.exporter.otlp.proto.common.trace_encoder": _sent,
    "waitress.task": _refusals,
}


class _OnImport:
    """Watches a module from when the program itself imports it: most processes of the tests never do."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        watch = AT.get(name)
        if watch is None:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            watch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def watch() -> None:
    """From now on, in this process."""
    for name, begin in AT.items():
        if name in sys.modules:
            begin(sys.modules[name])
    sys.meta_path.insert(0, _OnImport())
    logging.getLogger().addHandler(_Log())
    for hook in ("excepthook", "unraisablehook"):
        setattr(sys, hook, _told(getattr(sys, hook)))


def _told(told: Callable[..., Any]) -> Callable[..., Any]:
    def hook(*arguments: Any) -> Any:
        error = arguments[1] if len(arguments) > 1 else getattr(arguments[0], "exc_value", None)
        look_at(f"{type(error).__name__}: {error}", "an exception nobody caught")
        return told(*arguments)

    return hook


# pytest ---------------------------------------------------------------------------------------------------------------


def pytest_configure(config: Any) -> None:
    if REPORT in os.environ:
        return  # a run within a run tells its own parent
    handle, path = tempfile.mkstemp(prefix="canaries-")
    os.close(handle)
    os.environ[REPORT] = path
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(WATCHED), os.environ.get("PYTHONPATH", ""))))
    config.stash["canaries"] = path
    watch()


def found(config: Any) -> list[str]:
    path = config.stash.get("canaries", None)
    return list(dict.fromkeys(Path(path).read_text().splitlines())) if path else []


def pytest_sessionfinish(session: Any) -> None:
    if found(session.config):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    lines = found(config)
    if lines:
        terminalreporter.section("data of test patients got out", red=True)
        for line in lines:
            terminalreporter.line(line)


def pytest_unconfigure(config: Any) -> None:
    path = config.stash.get("canaries", None)
    if path:
        Path(path).unlink(missing_ok=True)
        os.environ.pop(REPORT, None)
