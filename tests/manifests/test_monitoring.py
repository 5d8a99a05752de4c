"""Alerts and dashboard ask for metrics and labels that exist, and the alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from cds_service.metrics import DESCRIBED, documented

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "manifests" / "monitoring" / "rules.yaml"
DASHBOARD = ROOT / "manifests" / "monitoring" / "dashboard.json"
OF_THE_PROCESS = {"process_open_fds", "process_max_fds", "process_resident_memory_bytes"}
OF_PROMETHEUS = {"instance", "job"}
KNOWN: dict[str, set[str]] = {name: set() for name in OF_THE_PROCESS}
for metric in DESCRIBED:
    labels = set(metric.labels)
    if metric.kind == "histogram":
        KNOWN |= {f"{metric.name}_{part}": labels for part in ("sum", "count")}
        KNOWN[f"{metric.name}_bucket"] = labels | {"le"}
    else:
        KNOWN[metric.name] = labels


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Metrics of an expression, each with the labels it is filtered by."""
    found: list[tuple[str, set[str]]] = []

    def look(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append((node.name, {m.name for m in node.matchers.matchers}))
        return True

    promql.walk(promql.parse(expression.replace("$__rate_interval", "5m").replace("$service", "x")), look)
    yield from found


def expressions() -> list[tuple[str, str]]:
    alerts = [(rule.get("alert", rule.get("record")), rule["expr"]) for rule in rules()]
    return alerts + [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


@pytest.mark.parametrize(("name", "expression"), expressions(), ids=[name for name, _ in expressions()])
def test_every_expression_asks_for_metrics_and_labels_that_exist(name: str, expression: str) -> None:
    recorded = {rule["record"]: set(re.findall(r"by \((\w+)\)", rule["expr"])) for rule in rules() if "record" in rule}
    metrics = list(asked(expression))
    assert metrics
    for metric, filters in metrics:
        assert filters <= (KNOWN | recorded)[metric] | OF_PROMETHEUS, metric
    grouped = {
        label.strip()
        for labels in re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", expression)
        for label in labels.split(",")
        if label.strip()
    }
    assert grouped <= set().union(*((KNOWN | recorded)[metric] for metric, _ in metrics)) | OF_PROMETHEUS


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {metric for panel in panels() for target in panel["targets"] for metric, _ in asked(target["expr"])}
    for metric in DESCRIBED:
        assert any(name.startswith(metric.name) for name in shown), metric.name


def test_the_dashboard_has_no_panel_over_another_and_no_number_twice() -> None:
    places: set[tuple[int, int]] = set()
    numbers: set[int] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not own & places, panel["title"]
        assert panel["id"] not in numbers
        places |= own
        numbers.add(panel["id"])


def test_every_alert_is_explained_and_pages_or_makes_a_ticket() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert f"| `{rule['alert']}` |" in text, rule["alert"]


def test_every_metric_is_documented_as_the_code_makes_it() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for name, kind, labels, meaning in documented():
        assert f"| `{name}` | {kind} | {labels} | {meaning} |" in text


def test_the_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool of Prometheus is not installed")
    written = (ROOT / "tests" / "manifests" / "rules_test.yaml").read_text().replace("RULES", str(RULES))
    (tmp_path / "rules_test.yaml").write_text(written)
    run = subprocess.run([promtool, "test", "rules", "rules_test.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
