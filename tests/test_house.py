"""The rules of the house: which way imports run, what is packaged, that no file grows out of hand."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cds_service.manifest import Service
from cds_service.settings import documented

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cds_service", "fhir_mappers", "models")
ALLOWED = {
    # fhir_mappers knows the model's two ends and nothing else of it; models knows neither of the others.
    "cds_service": {"cds_service", "fhir_mappers", "models"},
    "fhir_mappers": {"fhir_mappers", "models.contract"},
    "models": {"models"},
}


def modules(package: str) -> Iterator[Path]:
    return (p for p in sorted((ROOT / package).rglob("*.py")) if "node_modules" not in p.parts)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    for path in modules(package):
        for name in imported(path):
            if name.split(".")[0] in PACKAGES:
                assert any(name == a or name.startswith(a + ".") for a in ALLOWED[package]), (
                    f"{path.relative_to(ROOT)} imports {name}"
                )


def test_the_mappers_do_no_network_input_or_output() -> None:
    for path in modules("fhir_mappers"):
        assert not {"requests", "socket", "urllib.request", "http.client"} & set(imported(path)), path


def test_flask_stays_in_the_service_and_torch_in_the_model() -> None:
    for package, stranger in (("fhir_mappers", "flask"), ("models", "flask"), ("fhir_mappers", "torch")):
        for path in modules(package):
            assert stranger not in {n.split(".")[0] for n in imported(path)}, f"{path} imports {stranger}"


def test_every_package_folder_is_a_package_that_setup_cfg_includes() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    included = set(config["options.packages.find"]["include"].split())
    for package in PACKAGES:
        assert {package, f"{package}.*"} <= included
        for folder in {p.parent for p in modules(package)}:
            assert (folder / "__init__.py").exists(), f"{folder.relative_to(ROOT)} has no __init__.py"


def test_no_test_folder_is_a_package() -> None:
    # tests/models/__init__.py would take the place of `models` on the path.
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_file_is_much_longer_than_350_lines() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for package in (*PACKAGES, "tests")
        for p in modules(package)
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 360
    }
    assert not long


def test_nothing_tracked_is_data_a_pickle_or_larger_than_it_may_be() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    weights = 0
    for name in filter(None, tracked):
        assert not name.endswith((".pt", ".pth", ".pkl", ".pickle", ".joblib", ".npz", ".parquet")), name
        if name.endswith(".safetensors"):
            weights += (ROOT / name).stat().st_size
    assert weights <= 25e6


def test_every_setting_is_documented_as_the_code_reads_it() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for variable, default, meaning in documented():
        assert f"| `{variable}` | `{default}` | {meaning} |" in text


def test_every_manifest_key_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    plain = {"id", "title", "description", "advice", "version", "usage_requirements"}
    for key in set(Service.__struct_fields__) - plain:
        assert f"`{key}`" in text, f"docs/operations.md does not say what the manifest key {key} means"


def test_every_test_and_file_that_the_safety_page_names_is_there() -> None:
    page = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    tests = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named
    assert named <= tests, f"not there any more: {sorted(named - tests)}"


def test_every_goal_of_the_safety_page_names_tests_that_lie_where_it_says() -> None:
    page = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    goals = page.split("## Goals, and the tests that hold them")[1]
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", goals)
    assert len(named) >= 25
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {test}"
