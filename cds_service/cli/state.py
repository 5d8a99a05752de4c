"""Commands on durable state: audit, feedback, backup, restore, retention, erasure, schema. `mount` adds them all."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from cds_service.cli.errors import CommandError
from cds_service.settings import Settings
from cds_service.state import audit as chain
from cds_service.state import schema
from cds_service.state.engines import read_url
from cds_service.state.errors import StateError
from cds_service.state.records import AuditVerdict
from cds_service.state.store import Store

Tenant = Annotated[str, typer.Option(help="Only this tenant; without it, all of them.")]
BROKEN = 1
"""Exit code when what was checked does not hold; 2 is for what could not be checked."""

audit_app = typer.Typer(help="The record of every answer.", no_args_is_help=True)
feedback_app = typer.Typer(help="What became of the cards.", no_args_is_help=True)
retention_app = typer.Typer(help="How long things are kept.", no_args_is_help=True)
state_app = typer.Typer(help="The database of durable state.", no_args_is_help=True)


def mount(app: typer.Typer) -> None:
    app.add_typer(audit_app, name="audit")
    app.add_typer(feedback_app, name="feedback")
    app.add_typer(retention_app, name="retention")
    app.add_typer(state_app, name="state")
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("erase")(erase)


@audit_app.command("verify")
def audit_verify(
    file: Annotated[Path | None, typer.Option(help="Follow the chains of an exported file instead.")] = None,
) -> None:
    """Check that no audit row was altered, removed or put in; name the first that was, and exit 1."""
    with _told():
        if file is not None:
            with file.open("rb") as lines:
                verdict = chain.verify_export(lines)
        else:
            with _store() as store:
                verdict = store.verify_audit()
    _print_verdict(verdict)
    if verdict.broken is not None:
        raise typer.Exit(BROKEN)


def _print_verdict(verdict: AuditVerdict) -> None:
    console = Console()
    for tenant, (seq, hash_) in verdict.heads.items():
        console.print(f"{tenant or '(installation)'}: {seq} rows, ends in {hash_}", highlight=False, soft_wrap=True)
    if verdict.broken is None:
        console.print(f"{verdict.rows} rows hold")
    else:
        b = verdict.broken
        console.print(
            f"[red]broken[/] tenant {b.tenant or '(installation)'}, row {b.seq} {b.id}: {b.why}", soft_wrap=True
        )


@audit_app.command("export")
def audit_export(
    file: Path,
    tenant: Tenant = "",
    fhir: Annotated[bool, typer.Option("--fhir", help="As FHIR R4 AuditEvents instead.")] = False,
) -> None:
    """Write the audit rows as lines of JSON with their hashes."""
    with _told(), _store() as store, file.open("xb") as out:
        count = sum(1 for line in store.export_audit(tenant or None, fhir=fhir) if out.write(line))
    Console().print(f"{count} rows written to {file}")


@feedback_app.command("report")
def feedback_report(
    days: Annotated[int, typer.Option(min=1, help="How many days back.")] = 28,
    tenant: Tenant = "",
    service: Annotated[str, typer.Option(help="Only this service.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Per rule: cards shown, accepted, overridden and why, unanswered; and what was held back, by cause."""
    until = datetime.now(UTC)
    with _told(), _store() as store:
        report = store.feedback_report(
            until - timedelta(days=days), until, tenant=tenant or None, service=service or None
        )
    if as_json:
        rows = [{name: getattr(row, name) for name in row.__struct_fields__} for row in report.rows]
        whole = {
            "rows": rows,
            "unmatched": report.unmatched,
            "calls": report.calls,
            "interruptions": report.interruptions,
        }
        sys.stdout.write(orjson.dumps(whole).decode() + "\n")
        return
    table = Table(title=f"Cards of the last {days} days", title_justify="left")
    for column in (
        *("service", "rule", "tier", "shown", "accepted", "overridden", "no answer", "median s", "reasons"),
        *("suppressed", "capped", "shadow"),
    ):
        table.add_column(column, overflow="fold")
    for row in report.rows:
        counts = (str(n) for n in (row.shown, row.accepted, row.overridden, row.unanswered))
        median = "" if row.answer_s is None else f"{row.answer_s:.0f}"
        unsaid = _counted(row.suppressed), _counted(row.capped), str(row.shadow or "")
        table.add_row(row.service, row.rule, row.indicator, *counts, median, _counted(row.reasons), *unsaid)
    console = Console()
    console.print(table)
    signed = report.calls.get("order-sign", 0)
    share = f", {100 * report.interruptions / signed:.1f} in 100" if signed else ""
    console.print(
        f"{report.interruptions} warning and critical cards; {signed} calls at signing{share}", highlight=False
    )
    console.print(f"{report.unmatched} reports name a card we did not send; they count nowhere")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


@feedback_app.command("export")
def feedback_export(
    file: Path,
    tenant: Tenant = "",
    comments: Annotated[bool, typer.Option("--comments", help="Free text as well; it is health data.")] = False,
) -> None:
    """Write every feedback row as CSV."""
    with _told(), _store() as store, file.open("x", newline="", encoding="utf-8") as out:
        writer, count = None, 0
        for row in store.export_feedback(tenant or None, comments=comments):
            if writer is None:
                writer = csv.DictWriter(out, list(row))
                writer.writeheader()
            writer.writerow({name: _cell(value) for name, value in row.items()})
            count += 1
    Console().print(f"{count} rows written to {file}")


def _cell(value: Any) -> Any:
    """A spreadsheet runs a cell that begins with one of these; callers' text must not (CSV injection, CWE-1236)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def backup(target: Annotated[Path, typer.Argument(help="A new folder; it will hold the secret as well.")]) -> None:
    """Back up the state while the service runs."""
    with _told(), _store() as store:
        manifest = store.backup(target)
    Console().print(f"{sum(manifest.rows.values())} rows in {target}, sha256 {manifest.sha256}", soft_wrap=True)


def restore(source: Annotated[Path, typer.Argument(help="A folder that `backup` made.")]) -> None:
    """Fill an empty state from a backup, and check row counts and audit chains."""
    settings = Settings.from_env()
    with _told():
        manifest = Store.restore(source, settings.state_owner_url, settings.state_dir)
    Console().print(f"{sum(manifest.rows.values())} rows as of {manifest.made_at.isoformat()}; audit chains hold")


@retention_app.command("run")
def retention_run(dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False) -> None:
    """Remove what is past its term."""
    with _told(), _store() as store:
        removed = store.retention(datetime.now(UTC), dry_run=dry_run)
    for table, rows in sorted(removed.items()):
        Console().print(f"{table}: {rows} {'would go' if dry_run else 'removed'}", highlight=False)


def erase(
    patient: Annotated[str, typer.Option(help="The patient's id at the tenant's FHIR server, without `Patient/`.")],
    tenant: Annotated[str, typer.Option(help="The tenant whose patient it is.")],
) -> None:
    """Forget one patient: cards, predictions, feedback and silences go, audit rows stay under their keyed hash."""
    with _told(), _store() as store:
        erased = store.erase(tenant, store.key("patient", tenant, patient.removeprefix("Patient/")))
    console = Console()
    for table, rows in sorted(erased.removed.items()):
        console.print(f"{table}: {rows} removed", highlight=False)
    console.print(f"audit: {erased.audit_rows} rows stay, as the law on documentation wants it", highlight=False)


@state_app.command("upgrade")
def upgrade() -> None:
    """Bring the database to this release's schema. The release before this one keeps running on it."""
    settings = Settings.from_env()
    with _told():
        owner, service = read_url(settings.state_owner_url), read_url(settings.state_url)
        revision = schema.upgrade(owner)
        if service.username and service.username != owner.username:
            schema.grant(owner, service.username)
    Console().print(f"schema {revision}")


@state_app.command("isolate")
def isolate() -> None:
    """Let PostgreSQL itself keep tenants apart, once no release before 0.2 runs any more; new databases do already."""
    settings = Settings.from_env()
    with _told():
        schema.enforce_isolation(read_url(settings.state_owner_url))
    Console().print("every query sees the tenant it names alone")


@contextmanager
def _store() -> Iterator[Store]:
    settings = Settings.from_env()
    # No outbox: a command answers no calls.
    with Store.open(
        settings.state_url, settings.state_dir, outbox_bytes=0, owner_url=settings.state_owner_url
    ) as store:
        yield store


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except StateError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from None
