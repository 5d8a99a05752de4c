"""`cds-service register`: the registration sheet for an EHR, as the console's onboarding page has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from cds_service.cli.errors import CommandError
from cds_service.manifest import load_services
from cds_service.registration_sheet import EHRS, RegistrationSheet, registration_sheet
from cds_service.settings import Settings
from cds_service.sites import load_sites, rule_names


def register(
    ehr: Annotated[str, typer.Argument(help="generic, epic, oracle-health or medplum.")] = "generic",
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here instead.")] = None,
) -> None:
    """Print what to hand to whoever registers this service at an EHR."""
    known = next((name for name in EHRS if name == ehr), None)
    if known is None:
        raise CommandError(f"there is no sheet for {ehr!r}; there are {', '.join(EHRS)}")
    settings = Settings.from_env()
    services = load_services(settings.manifests / "services", settings.profile)
    asked = load_sites(settings.sites, rule_names(services)).asked_of(services)
    sheet = registration_sheet(settings, asked, known)
    text = msgspec.json.format(msgspec.json.encode(sheet), indent=2).decode()
    if out is not None:
        out.write_text(f"{text}\n", encoding="utf-8")
    elif json:
        typer.echo(text)
    else:
        _print(sheet)


def _print(sheet: RegistrationSheet) -> None:
    console = Console()

    def table(title: str) -> Table:
        made = Table(title=title, title_justify="left", show_header=False)
        made.add_column()
        made.add_column(overflow="fold")
        return made

    pairs = table(f"Registration sheet for {sheet.title}")
    for name, value in (
        ("discovery", sheet.discovery),
        ("our keys", sheet.jwks),
        ("launch URL", sheet.launch),
        ("redirect URI", sheet.redirect_uri),
        ("tokens signed with", ", ".join(sheet.algorithms)),
        ("longest body, bytes", str(sheet.longest_body_bytes)),
        ("scopes of a call's token", "\n".join(sheet.scopes)),
        ("links to allow", "\n".join(sheet.links)),
    ):
        pairs.add_row(name, value)
    console.print(pairs)
    for service in sheet.services:
        one = table(f"{service.title} ({service.id})")
        one.add_row("URL, and `aud` of its tokens", service.url)
        one.add_row("feedback", service.feedback)
        one.add_row("hooks", ", ".join(service.hooks) or "none this EHR sends")
        for key, query in service.prefetch.items():
            one.add_row(f"prefetch {key}{' (required)' if key in service.required else ''}", query)
        console.print(one)
    for title, lines in (("What differs here", sheet.notes), ("What we need from you", sheet.needed)):
        console.print(f"[bold]{title}[/]")
        for line in lines:
            console.print(f"- {line}", highlight=False)
