"""The demo EHR's pages, in a browser too, and the calls it makes of the service."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from demo_server import demo_only, served
from flask import Flask, Response, render_template, request
from rich.console import Console

from cds_service.app import create_app
from cds_service.demo.chart import view
from cds_service.demo.ehr import demo_blueprint
from cds_service.demo.fire import DemoError, Ehr, fill, fire_demo
from cds_service.manifest import load_services
from cds_service.settings import Settings
from cds_service.state.store import Store
from cds_service.trust.clients import Client, Clients, FhirServer
from fhir_mappers.cohort.scenarios import demo_patients

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ehr() -> Iterator[str]:
    with served(demo_only()) as base:
        yield base


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def house(state: Path) -> Iterator[str]:
    """The service with its real manifests and the demo EHR beside it, as `cds-service demo` serves them."""
    settings = Settings(
        profile="research_imaging",
        jwt="off",
        economy="off",
        state_dir=state,
        outbox_mb=1,
        manifests=ROOT / "manifests",
    )
    services = load_services(settings.manifests / "services", settings.profile)
    clients: list[Client] = []
    app = create_app(settings, services=services, engines={}, clients=Clients(clients))
    app.register_blueprint(demo_blueprint())
    act(app)
    with served(app) as base:
        known = Client("demo-ehr", (FhirServer(f"{base}/demo/fhir", (f"{base}/demo/dicomweb",)),))
        app.extensions["ordersight"].clients = Clients([known])
        yield base


# ---------------------------------------------------------------------------------------------------------- pages


def test_the_worklist_and_every_chart_open(ehr: str) -> None:
    worklist = requests.get(f"{ehr}/demo/", timeout=60).text
    for patient in demo_patients(datetime.now(UTC)):
        assert f"/demo/patients/{patient.id}" in worklist
        page = requests.get(f"{ehr}/demo/patients/{patient.id}", timeout=60)
        assert page.status_code == 200
        assert f"<h1>{patient.name}</h1>" in page.text
        for fact in patient.labs:
            assert fact.code.name in page.text
    assert requests.get(f"{ehr}/demo/patients/nobody", timeout=60).status_code == 404


def test_pages_run_and_style_nothing_that_is_written_into_them(ehr: str) -> None:
    for path in ("", "patients/demo-alder", "patients/nobody"):
        answer = requests.get(f"{ehr}/demo/{path}", timeout=60)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", answer.text)
        for address in re.findall(r'(?:src|href)="([^"]*)"', answer.text):
            assert address.startswith(("/demo/", "#")), address


def test_hostile_text_of_a_record_stays_text() -> None:
    app = Flask("pages", static_folder=None)
    app.register_blueprint(demo_blueprint(draw=False))
    patient = demo_patients(datetime.now(UTC))[0]
    hostile = replace(patient, family='<img src=x onerror="alert(1)">', story="</main><script>alert(2)</script>")
    with app.test_request_context("/demo/"):
        html = render_template("chart.html", chart=view(hostile), patients=(hostile,), age_of=lambda _: 1)
    assert "<img src=x" not in html
    assert "<script>" not in html
    assert "&lt;script&gt;alert(2)" in html


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def browse(url: str) -> tuple[str, str]:
    """The page's DOM once its scripts have run, and what the browser wrote to its console."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=15000", "--dump-dom", url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    console = "\n".join(line for line in ran.stderr.splitlines() if "CONSOLE" in line)
    return ran.stdout, console


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_the_cards_of_patient_view_in_the_chart(house: str) -> None:
    dom, console = browse(f"{house}/demo/patients/demo-oak")
    assert console == ""
    assert re.search(r'<article class="card warning">.*NEWS2 8', dom, re.DOTALL)
    assert "<td>24 /min (2 points)</td>" in dom
    assert "POST /cds-services/deterioration" in dom


# What a clinician would do, run inside the real page: its Content-Security-Policy lets in what this origin serves.
ROUTINES = {
    "accept": """
        (await appears("#suggested button")).click();
        (await appears("#order-answers .suggestions button")).click();
        await told("/feedback");""",
    "dismiss": """
        const card = await appears("#patient-view .card");
        card.querySelector("details.override").open = true;
        card.querySelector("select").selectedIndex = 1;
        card.querySelector("input").value = "seen <b>already</b>";
        card.querySelector("details.override button").click();
        await told("/feedback");""",
    "sign": """
        (await appears("#suggested button")).click();
        await told("cxr-insight");
        (await appears("#sign:not(:disabled)")).click();
        await until(() => document.querySelector("#signed").textContent);""",
}
TOOLS = """
    const until = async (found) => {
        for (let i = 0; i < 300; i += 1) {
            const value = found();
            if (value) return value;
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
        throw new Error("waited in vain");
    };
    const appears = (selector) => until(() => document.querySelector(selector));
    const told = (address) => until(() =>
        [...document.querySelectorAll("#wire-log code")].some((line) => line.textContent.includes(address)));
"""


def act(app: Flask) -> None:
    """Let `?do=accept` on a chart page run that routine in it."""

    @app.get("/do/<name>.js")
    def script(name: str) -> Response:
        return Response(TOOLS + ROUTINES[name], content_type="text/javascript")

    @app.after_request
    def add(response: Response) -> Response:
        if name := request.args.get("do"):
            tag = f'<script type="module" src="/do/{name}.js"></script></body>'
            response.set_data(response.get_data(as_text=True).replace("</body>", tag))
        return response


def feedback_of(state: Path) -> list[Mapping[str, Any]]:
    with Store.open(f"sqlite:///{state / 'state.sqlite'}", state, outbox_bytes=0) as store:
        return list(store.export_feedback(comments=True))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_an_accepted_suggestion_changes_the_draft_and_is_told(house: str, state: Path) -> None:
    dom, console = browse(f"{house}/demo/patients/demo-alder?do=accept")
    assert console == ""
    drafts = dom.split('id="drafts"')[1].split("</ul>")[0]
    assert "CT chest without contrast" in drafts
    assert "changed by suggestion, was: CT chest with IV contrast" in drafts
    assert "Accepted: Change to CT chest without contrast" in dom
    assert any(row["outcome"] == "accepted" and row["matched"] for row in feedback_of(state))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_dismissed_card_is_told_with_its_reason(house: str, state: Path) -> None:
    dom, console = browse(f"{house}/demo/patients/demo-oak?do=dismiss")
    assert console == ""
    assert re.search(r'class="card warning settled".*Dismissed: \w', dom, re.DOTALL)
    told = [row for row in feedback_of(state) if row["outcome"] == "overridden"]
    assert told
    assert "seen <b>already</b>" in told[-1]["comment"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_an_order_nobody_objects_to_is_signed_at_once(house: str) -> None:
    dom, console = browse(f"{house}/demo/patients/demo-hazel?do=sign")
    assert console == ""
    assert "1 order signed." in dom
    assert re.search(r"Nothing to advise: [^<]*Imaging safety", dom)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_markdown_of_a_card_never_becomes_live_html() -> None:
    """What GitHub-flavoured Markdown would let through stays text; tables, emphasis and web links are shown."""
    detail = "\n".join(
        (
            "<img src=x onerror=alert(1)> **strong** and *soft* [site](https://example.org) [bad](javascript:alert(2))",
            "",
            "| Fact | Value |",
            "|---|---|",
            r"| a\|b | &lt;script&gt; |",
            "",
            "- one",
            "- two `code`",
        )
    )
    app = Flask("markdown", static_folder=None)
    app.register_blueprint(demo_blueprint(draw=False))

    @app.get("/try")
    def page() -> str:
        return f'<pre id="in" hidden>{detail.replace("&", "&amp;").replace("<", "&lt;")}</pre><div id="out"></div>' + (
            '<script type="module">import { markdown } from "/demo/static/markdown.js";'
            'document.getElementById("out").append(markdown(document.getElementById("in").textContent));</script>'
        )

    with served(app) as base:
        dom, console = browse(f"{base}/try")
    shown = dom.split('<div id="out">')[1].split("</div><script")[0]
    assert console == ""
    assert "<img" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt; <strong>strong</strong> and <em>soft</em>" in shown
    assert '<a href="https://example.org"' in shown
    assert "[bad](javascript:alert(2))" in shown
    assert "<td>a|b</td><td>&lt;script&gt;</td>" in shown
    assert "<ul><li>one</li><li>two <code>code</code></li></ul>" in shown


# ------------------------------------------------------------------------------------------------ firing the hooks


def test_the_demo_fires_real_hooks_and_prints_what_came(house: str) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    outcomes = fire_demo(house, console)
    printed = console.export_text()
    assert [o.problem for o in outcomes] == [""] * len(outcomes)
    assert {o.hook for o in outcomes} == {"order-sign", "order-select", "patient-view"}
    alder = [o for o in outcomes if o.patient == "demo-alder" and o.service == "imaging-safety"]
    assert [o.with_prefetch for o in alder] == [True, False]
    assert "eGFR 26" in alder[0].cards[0]["summary"]
    assert "eGFR 26" in printed
    assert f"{house}/demo/" in printed
    silent = [o for o in outcomes if o.patient in ("demo-cedar", "demo-rowan")]
    assert [o.cards for o in silent] == [()] * len(silent)
    assert "not the same without prefetch" not in printed


def test_cards_are_the_same_whether_the_chart_was_sent_or_read(house: str) -> None:
    ehr = Ehr(house)
    ehr.discover()

    def said(with_prefetch: bool) -> list[tuple[str, str, str]]:
        outcomes = ehr.fire("demo-fir", "order-sign", with_prefetch=with_prefetch)
        return [(c["indicator"], c["summary"], c["detail"]) for o in outcomes for c in o.cards]

    assert said(True) == said(False)
    assert "240 umol/L" in said(True)[0][2]


def test_without_a_service_the_demo_says_so(ehr: str) -> None:
    with pytest.raises(DemoError, match="/cds-services"):
        fire_demo(ehr, Console(file=io.StringIO()))


def test_a_template_that_cannot_be_filled_is_not_sent() -> None:
    assert fill("Encounter/{{context.encounterId}}", {"patientId": "p"}) is None
    assert fill("Patient/{{context.patientId}}", {"patientId": "a b"}) == "Patient/a%20b"
    week_ago = (datetime.now(UTC) - timedelta(days=7)).date().isoformat()
    assert fill("Observation?date=ge{{today() - 7 days}}", {}) == f"Observation?date=ge{week_ago}"
    assert fill("Practitioner/{{userPractitionerId}}", {}) == "Practitioner/demo-clinician"
