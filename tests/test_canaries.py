"""A test patient's data that gets out fails the run, and names the test: shown on runs of one small test each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOOKS = "from canaries import pytest_configure, pytest_sessionfinish, pytest_terminal_summary, pytest_unconfigure"
APP = """
    import flask
    app = flask.Flask("x")
    app.extensions["ordersight"] = object()
    @app.get("/")
    def fail():
        return {body}, {status}
    app.test_client().get("/")
"""
LEAKS = {
    "log": (
        "import logging\n    logging.getLogger('cds_service.x').warning('e', extra={'fields': {'w': 'Patient/p1'}})",
        "a patient's reference in a log line of cds_service.x",
    ),
    "error body": (
        APP.format(body="'no Patient/p1 here'", status=404),
        "a patient's reference in the body of a 404",
    ),
    "label": (
        "import prometheus_client as p\n"
        "    p.Counter('c', 'c', ['who'], registry=p.CollectorRegistry()).labels('Zebra7Canary').inc()",
        "a canary in a label of a metric",
    ),
    "scrape": (
        "import prometheus_client as p, prometheus_client.exposition as e\n"
        "    r = p.CollectorRegistry(); p.Gauge('g', 'of Practitioner/7', registry=r); e.generate_latest(r)",
        "a user's reference in a scrape of the metrics",
    ),
    "span": (
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "    TracerProvider(shutdown_on_exit=False).get_tracer('x').start_span('GET Patient/p1').end()",
        "a patient's reference in a span of a trace",
    ),
    "what a collector is sent": (
        "from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans\n"
        "    from opentelemetry.sdk.resources import Resource\n"
        "    from opentelemetry.sdk.trace import TracerProvider\n"
        "    provider = TracerProvider(resource=Resource({'of': 'Zebra7Canary'}), shutdown_on_exit=False)\n"
        "    encode_spans([provider.get_tracer('x').start_span('s')])",
        "a canary in what a collector of traces is sent",
    ),
    # Left to itself, waitress repeats a malformed line to whoever sent it.
    "a refusal of the server's own": (
        "import contextlib, socket, threading, waitress\n"
        "    server = waitress.create_server(lambda *_: [], port=0)\n"
        "    threading.Thread(target=server.run, daemon=True).start()\n"
        "    there = ('127.0.0.1', server.effective_port)\n"
        "    with contextlib.suppress(OSError), socket.create_connection(there, 30) as sock:\n"
        "        sock.sendall(b'GET / HTTP/1.1\\r\\n Patient/p1\\r\\n\\r\\n'); sock.recv(65536)",
        "a patient's reference in a 400 of the server's own",
    ),
    "another process's log": (
        "import subprocess, sys\n"
        "    program = 'import logging, cds_service.logs; cds_service.logs.configure_logging(); '\\\n"
        '        \'logging.getLogger("cds_service").info("Bearer 0123456789abcdef")\'\n'
        "    subprocess.run([sys.executable, '-c', program], check=True)",
        "a bearer token in a log line of cds_service",
    ),
    "a killed process's log": (
        "import subprocess, sys\n"
        '    program = \'import logging, os; logging.getLogger("models").error("Zebra7Canary"); \'\\\n'
        "        'os.kill(os.getpid(), 9)'\n"
        "    assert subprocess.run([sys.executable, '-c', program]).returncode == -9",
        "a canary in a log line of models",
    ),
    "an exception nobody caught": (
        "import subprocess, sys\n    subprocess.run([sys.executable, '-c', 'raise ValueError(\"Patient/p1\")'])",
        "a patient's reference in an exception nobody caught",
    ),
}
HARMLESS = {
    "a library's message, of which only the place is written": (
        "import logging, cds_service.logs\n    logging.getLogger('urllib3').warning('GET Patient/p1')"
    ),
    "a template of a manifest": (
        "import logging\n    logging.getLogger('cds_service').warning('read Patient/{{context.patientId}}')"
    ),
    "a chart that was asked for": APP.format(body="'Patient/p1'", status=200),
    "an assertion about a patient": "assert 'Patient/p1'",
}


def run(folder: Path, bodies: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """One run of pytest with a test for each body: `test_0`, `test_1` and so on."""
    (folder / "conftest.py").write_text(HOOKS)
    tests = (f"def test_{n}():\n    {body}\n" for n, body in enumerate(bodies.values()))
    (folder / "test_small.py").write_text("\n".join(tests))
    env = {name: value for name, value in os.environ.items() if name not in ("CANARY_REPORT", "PYTEST_CURRENT_TEST")}
    env["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests" / "servers"), str(ROOT)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return run(tmp_path_factory.mktemp("leaking"), {way: body for way, (body, _) in LEAKS.items()})


@pytest.mark.parametrize("way", LEAKS)
def test_what_gets_out_is_told_with_its_test(leaking: subprocess.CompletedProcess[str], way: str) -> None:
    assert f"test_small.py::test_{list(LEAKS).index(way)}: {LEAKS[way][1]}" in leaking.stdout


def test_a_run_in_which_something_got_out_fails_though_no_test_did(leaking: subprocess.CompletedProcess[str]) -> None:
    assert leaking.returncode == 1
    assert f"{len(LEAKS)} passed" in leaking.stdout, leaking.stdout


def test_what_stays_inside_fails_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, HARMLESS)
    assert done.returncode == 0, done.stdout
    assert f"{len(HARMLESS)} passed" in done.stdout


def test_this_very_run_is_watched() -> None:
    assert Path(os.environ["CANARY_REPORT"]).is_file()
