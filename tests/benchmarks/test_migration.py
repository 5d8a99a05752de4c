"""An upgrade of the state database while the release before goes on, on a few rows of each database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import migration  # noqa: E402


def test_the_gap_that_counts_is_between_calls_that_were_done() -> None:
    calls = [(1.0, True), (2.0, False), (4.5, True), (5.0, True), (9.0, True)]
    assert migration.longest_gap_s(calls, 0.5, 6.0) == 3.5
    assert migration.longest_gap_s(calls, 4.8, 8.0) == 3.0, "from the last call to the end counts as well"
    assert migration.longest_gap_s([], 1.0, 8.0) == 7.0


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_release_before_writes_and_reads_on_through_an_upgrade_and_starts_on_the_new_schema(
    database: str, tmp_path: Path
) -> None:
    """Goal 31 in small: nobody is locked out for 5 s, no call fails, and the chain that both releases wrote holds."""
    wanted = ["git", "cat-file", "-e", migration.RELEASE_BEFORE]
    if subprocess.run(wanted, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("the release before is not here: this is no clone with its history")
    arguments = ["--rows", "2000", "--quiet-s", "0.5", "--database", database, "--out", str(tmp_path / "out.json")]
    report: dict[str, Any] = dict(migration.main(arguments)[database])
    assert (report["from"], report["to"], report["chain_holds"]) == ("0003", migration.schema.head(), True)
    for command in ("upgrade", "isolate") if database == "postgresql" else ("upgrade",):
        felt = report[command]
        for kind in ("write", "read"):
            assert felt[f"{kind}s"] > 0
            assert felt[f"failed_{kind}s"] == 0
            assert felt[f"longest_{kind}_gap_s"] < 5
    for kind in ("writes", "reads"):
        done, of = report["release_before_started_anew"][kind].removesuffix(" done").split(" of ")
        assert done == of
        assert int(done) > 0
