"""The commands an administrator types, as they are mounted."""

from __future__ import annotations

import csv
import json
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from state_cases import answer, card, item
from typer.testing import CliRunner

from cds_service.cli import state
from cds_service.cli.errors import CommandError
from cds_service.state import schema
from cds_service.state.store import Store, now_utc

APP = typer.Typer(pretty_exceptions_enable=False)
state.mount(APP)


class Shell:
    """Runs a command as `cds-service` does: a CommandError is its one sentence and exit code 2."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.env = {"ORDERSIGHT_STATE_DIR": str(folder), "ORDERSIGHT_STATE_URL": url, "COLUMNS": "200"}

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        done = CliRunner().invoke(APP, [str(word) for word in words], env=self.env)
        if isinstance(done.exception, CommandError):
            assert code == 2, done.exception
            return str(done.exception)
        assert done.exit_code == code, (done.output, done.exception)
        return done.output


@pytest.fixture
def shell(url: str, folder: Path) -> Shell:
    now = now_utc()
    with Store.open(url, folder, outbox_bytes=1 << 16) as store:
        patient = store.key("patient", "north", "pat-7")
        for n in range(3):
            store.record_answer(answer(card(f"c{n}"), at=now - timedelta(minutes=9), patient_key=patient))
        store.record_feedback(
            "north",
            [
                item("c0", outcome_at=now),
                item("c1", "overridden", outcome_at=now, comment="=cmd() and free text"),
                item("strange", outcome_at=now),
            ],
        )
    return Shell(folder, url)


def test_the_audit_is_verified_exported_and_followed_from_the_file(shell: Shell, tmp_path: Path) -> None:
    assert "4 rows hold" in shell("audit", "verify")
    assert "4 rows written" in shell("audit", "export", tmp_path / "audit.jsonl", "--tenant", "north")
    assert "4 rows hold" in shell("audit", "verify", "--file", tmp_path / "audit.jsonl")
    shell("audit", "export", tmp_path / "events.ndjson", "--fhir")
    first = json.loads((tmp_path / "events.ndjson").read_text().splitlines()[0])
    assert (first["resourceType"], first["subtype"][0]["code"]) == ("AuditEvent", "order-sign")
    lines = (tmp_path / "audit.jsonl").read_text().replace('"status":200', '"status":412', 1)
    (tmp_path / "audit.jsonl").write_text(lines)
    assert "row 1 " in shell("audit", "verify", "--file", tmp_path / "audit.jsonl", code=1)
    assert "File exists" in shell("audit", "export", tmp_path / "audit.jsonl", code=2)
    assert "No such file" in shell("audit", "verify", "--file", tmp_path / "none.jsonl", code=2)


def test_an_altered_row_ends_verify_with_exit_code_1_and_its_name(sqlite_url: str, folder: Path) -> None:
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        record = answer(card("c1"))
        store.record_answer(record)
    with sqlite3.connect(folder / "state.sqlite") as conn:
        conn.execute("DROP TRIGGER audit_append_only")
        conn.execute("UPDATE audit SET status = 412")
    conn.close()
    told = Shell(folder)("audit", "verify", code=1)
    assert f"tenant north, row 1 {record.id}: the row was altered" in told


def test_the_feedback_report_counts_and_its_export_cannot_run_in_a_spreadsheet(shell: Shell, tmp_path: Path) -> None:
    report = json.loads(shell("feedback", "report", "--json"))
    (row,) = report["rows"]
    assert (row["shown"], row["accepted"], row["overridden"], row["unanswered"]) == (3, 1, 1, 1)
    assert report["unmatched"] == 1
    assert "imaging-safety" in shell("feedback", "report")
    shell("feedback", "export", tmp_path / "feedback.csv")
    with (tmp_path / "feedback.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["card"] for r in rows] == ["c0", "c1", "strange"]
    assert "comment" not in rows[0]
    shell("feedback", "export", tmp_path / "all.csv", "--comments")
    with (tmp_path / "all.csv").open() as file:
        assert [r["comment"] for r in csv.DictReader(file)] == ["", "'=cmd() and free text", ""]


def test_backup_loss_and_restore_by_command(shell: Shell, folder: Path, tmp_path: Path, url: str) -> None:
    shell("backup", tmp_path / "backup")
    if not url.startswith("sqlite"):
        # PostgreSQL is restored into another database (test_backup does it); the filled one is refused.
        assert "holds state already" in shell("restore", tmp_path / "backup", code=2)
        return
    folder.rename(tmp_path / "lost")
    assert "audit chains hold" in shell("restore", tmp_path / "backup")
    assert "4 rows hold" in shell("audit", "verify")
    assert "holds state already" in shell("restore", tmp_path / "backup", code=2)


def test_retention_and_erasure_by_command(shell: Shell) -> None:
    assert "predictions: 0 would go" in shell("retention", "run", "--dry-run")
    assert "audit: 0 removed" in shell("retention", "run")
    told = shell("erase", "--patient", "Patient/pat-7", "--tenant", "north")
    assert "cards_shown: 3 removed" in told
    assert "feedback: 2 removed" in told
    assert "4 rows stay" in told
    assert json.loads(shell("feedback", "report", "--json"))["rows"] == []


def test_upgrade_says_which_schema_and_an_old_one_is_named(shell: Shell, url: str, folder: Path) -> None:
    assert f"schema {schema.head()}" in shell("state", "upgrade")
    assert "state URL" in Shell(folder, "mysql://hunter2@host/x")("audit", "verify", code=2)
