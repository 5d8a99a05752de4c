"""The OpenAPI document says what we do: bodies it allows are taken, others refused, and every answer is as it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from callers import ISSUER, Caller
from contexts import CONTEXTS
from served import served as served_process

from cds_service.openapi import document, served

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("evidence", "console", "launch", "subscriptions")
"""And what an EHR sends as HL7's Subscriptions Backport describes it."""


def test_the_document_is_served_printed_and_kept_alike(make_app: Callable[..., Any], capfdbinary: Any) -> None:
    from cds_service.cli.openapi import openapi

    answer = make_app().test_client().get("/openapi.json")
    assert answer.content_type == "application/json"
    assert answer.get_json()["openapi"] == "3.1.0"
    openapi()
    assert answer.get_data() == capfdbinary.readouterr().out == served()
    assert served() == (ROOT / "docs" / "openapi.json").read_bytes(), (
        "run: cds-service openapi --write docs/openapi.json"
    )


def test_every_route_is_in_the_document_but_for_the_pages_people_read(make_app: Callable[..., Any]) -> None:
    ours = {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in make_app().url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.endpoint.split(".")[0] not in PAGES
    }
    told = {(path, m) for path, item in document()["paths"].items() for m in item if m != "parameters"}
    assert told == ours


def test_nothing_the_house_keeps_to_itself_is_in_the_document() -> None:
    text = served().decode()
    for own in ("basis", "CardError", "Epic", "Raises"):
        assert own not in text
    assert set(CONTEXTS) == {
        schema["anyOf"][0]["properties"]["hook"]["const"]
        for name, schema in document()["components"]["schemas"].items()
        if name.endswith("Call")
    }


SEED = int(os.environ.get("SCHEMATHESIS_SEED", "20261124"))
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "40"))
PHASES = os.environ.get("SCHEMATHESIS_PHASES", "coverage,fuzzing")
"""For a longer search: 2000 and coverage,fuzzing,stateful."""
CONFIG = f"""
seed = {SEED}

[generation]
allow-x00 = false

[checks.positive_data_acceptance]
expected-statuses = [200, 412]

[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 405, 413, 415]
"""
"""A body that is in order may still find its data missing, and nothing else. U+0000 is no character of JSON we take:
JSON Schema has no short word for that."""
SERVICE = {
    "hooks": list(CONTEXTS),
    "advice": "probe",
    "budget_ms": dict.fromkeys(CONTEXTS, 5000),
    "evidence": {"labs": {"search": "Observation?category=laboratory"}},
}


def test_schemathesis_finds_no_answer_that_differs_from_the_document(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Callers are checked and every call is signed; generated bodies are valid and invalid by turns."""
    caller = Caller()
    (tmp_path / "private.json").write_text(json.dumps(caller.key.as_dict(private=True)))
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [caller.jwk()]}))
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    described = document()
    names = {"enum": ["probe", "needy"]}
    for path, item in described["paths"].items():
        if "{service_id}" in path:
            item["parameters"][0]["schema"] = names
            # The same bodies under both media types would be twice the time.
            del item["post"]["requestBody"]["content"]["application/fhir+json"]
    (tmp_path / "openapi.json").write_text(json.dumps(described))
    services = {
        "probe": SERVICE,
        "needy": {**SERVICE, "evidence": {"labs": {"search": "Observation", "required": True}}},
    }
    client = {"name": "general", "fhir": [], "issuer": ISSUER, "jwks_file": str(tmp_path / "jwks.json")}
    with served_process(tmp_path / "house", services, [client], jwt="required", client_points_per_s=1_000_000) as house:
        options = {
            "--url": house.url,
            "--checks": "all",
            "--phases": PHASES,
            "--max-examples": str(EXAMPLES),
            "--suppress-health-check": "all",
        }
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", *chain(*options.items()), "--no-color"],
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "openapi_hooks",
                "PYTHONPATH": str(Path(__file__).parent),
                "CALLER_KEY": str(tmp_path / "private.json"),
                "CALLED": house.url,
            },
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert house.alive()
    with capsys.disabled():
        print("\n  schemathesis:", *re.findall(r"\d+ generated.*", run.stdout)[-1:], end="")
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:]
    assert int(re.findall(r"(\d+) generated", run.stdout)[-1]) > 800
