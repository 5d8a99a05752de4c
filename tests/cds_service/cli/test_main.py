"""The command line put together: every word leads somewhere, and light commands stay light."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from cds_service.cli.main import EXPECTED, GROUPS, assemble, expected
from cds_service.manifest import ManifestError


def names(arguments: list[str]) -> set[str]:
    app = assemble(arguments)
    found = {c.name or "" for c in app.registered_commands} | {g.name or "" for g in app.registered_groups}
    return {str(name) for name in found}


def test_every_word_of_the_table_is_a_command_and_every_command_is_in_the_table() -> None:
    assert names([]) == {word for words, _ in GROUPS.values() for word in words}


@pytest.mark.parametrize("group", list(GROUPS))
def test_each_word_finds_its_own_group(group: str) -> None:
    words = GROUPS[group][0]
    assert all(names([word]) == set(words) for word in words)


def test_a_typing_error_is_answered_with_what_comes_near() -> None:
    line = [sys.executable, "-c", "from cds_service.cli.main import run; run()", "servises"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "services" in done.stderr


def test_listing_the_services_imports_neither_torch_nor_scikit_learn_nor_a_database() -> None:
    program = (
        "import sys\nfrom cds_service.cli.main import assemble\n"
        "assemble(['services'])(['services'], standalone_mode=False)\n"
        "heavy = {'torch', 'sklearn', 'sqlalchemy', 'pydicom', 'flask'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "imaging-safety" in done.stdout


def test_serving_a_model_imports_no_scikit_learn() -> None:
    program = "import sys, models.serving, models.checkpoint; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("name", EXPECTED)
def test_every_expected_error_exists_under_its_name(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(import_module(module), kind), Exception)


def test_a_manifest_error_is_told_and_a_bug_keeps_its_traceback() -> None:
    assert expected(ManifestError("services/x.yaml: title is missing"))
    assert not expected(ValueError("a bug"))
