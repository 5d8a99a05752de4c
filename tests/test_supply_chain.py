"""Every package of a release is pinned, and its bill of materials lists these, the models and nothing else."""

from __future__ import annotations

import configparser
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tests" / "supply_chain.py"
supply: dict[str, Any] = runpy.run_path(str(SCRIPT))
PINNED_BY_TORCH = ("nvidia-", "cuda-", "triton")
"""A CUDA build of torch names its own libraries, each with ==; a CPU build has none."""


def test_every_package_a_release_needs_is_pinned_at_the_version_it_is_tested_with() -> None:
    pins = supply["pins"]()
    needed = {name: v for name, v in supply["closure"]().items() if not name.startswith(PINNED_BY_TORCH)}
    del needed["ordersight"]
    assert len(needed) > 50
    assert {name: (version, pins.get(name)) for name, version in needed.items() if pins.get(name) != version} == {}


def test_what_setup_cfg_names_is_what_is_installed_and_walked() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].split("\n")
    for extra in supply["EXTRAS"]:
        wanted += config["options.extras_require"][extra].split("\n")
    names = {supply["canonical"](re.split(r"[\[<>=!~;]", line.strip())[0]) for line in wanted if line.strip()}
    assert names <= set(supply["closure"]()), "install again: pip install -c constraints.txt -e ."


def test_each_pin_is_one_version_and_no_package_has_two() -> None:
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", line) for line in lines)
    names = [supply["canonical"](line.split("==")[0]) for line in lines]
    assert len(set(names)) == len(names)


def test_the_bill_of_materials_holds_the_release_and_its_models_and_no_tool_of_the_tests() -> None:
    needed = {**supply["closure"](), "pytest": "9.2.0", "mypy": "2.4.1"}
    components = [
        {"type": "library", "bom-ref": f"{n}=={v}", "name": n, "version": v, "purl": f"pkg:pypi/{n}@{v}"}
        for n, v in needed.items()
    ]
    refs = [c["bom-ref"] for c in components]
    of_root = [ref for ref in refs if not ref.startswith("ordersight")]
    dependencies = [{"ref": ref, "dependsOn": of_root if ref.startswith("ordersight") else []} for ref in refs]
    whole = {"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {}, "components": components}
    bom = supply["release_sbom"]({**whole, "dependencies": dependencies})
    names = {c["name"] for c in bom["components"]}
    assert not {"pytest", "mypy", "ordersight"} & names
    assert bom["metadata"]["component"]["name"] == "ordersight"
    models = {p.parent.name for p in (ROOT / "manifests" / "models").glob("*/model.json")}
    assert models | set(supply["closure"]()) - {"ordersight"} == names
    for component in bom["components"]:
        if component["type"] == "machine-learning-model":
            assert re.fullmatch(r"[0-9a-f]{64}", component["hashes"][0]["content"])
    known = {c["bom-ref"] for c in bom["components"]} | {bom["metadata"]["component"]["bom-ref"]}
    for dependency in bom["dependencies"]:
        assert {dependency["ref"], *dependency.get("dependsOn", ())} <= known
    (root,) = (d for d in bom["dependencies"] if d["ref"].startswith("ordersight"))
    assert len(root["dependsOn"]) == len(bom["components"])


GOOD = {"name": "flask", "version": "3.1.3", "vulns": []}
BAD = {"name": "old", "version": "1", "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "new", "version": "1", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ([GOOD], 0, "1 packages, no known vulnerability"),
        ([GOOD, BAD], 1, "old 1: PYSEC-2026-1"),
        ([GOOD, UNKNOWN], 2, "NOT AUDITED: 1 of 2 packages"),
        ([BAD, UNKNOWN], 1, "old 1: PYSEC-2026-1"),
        ([], 2, "NOT AUDITED"),
        (None, 2, "NOT AUDITED: the index of vulnerabilities cannot be reached"),
    ],
)
def test_an_audit_that_could_not_ask_is_never_a_clean_one(
    tmp_path: Path, found: list[dict[str, Any]] | None, status: int, words: str
) -> None:
    path = tmp_path / "audit.json"
    if found is not None:
        path.write_text(json.dumps({"dependencies": found, "fixes": []}))
    run = subprocess.run([sys.executable, str(SCRIPT), "verdict", str(path)], capture_output=True, text=True)
    assert (run.returncode, words in run.stdout) == (status, True), run.stdout
