"""`cds-service clients`: who may call. What is added or removed holds from the next call on, without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from cds_service.cli.errors import CommandError
from cds_service.settings import Settings
from cds_service.trust import registering
from cds_service.trust.clients import Client, FhirServer, load_clients

clients_app = typer.Typer(help="Who may call, and which servers belong to them.", no_args_is_help=True)


@clients_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What we call the client.")],
    issuer: Annotated[str, typer.Option(help="`iss` of its tokens.")],
    fhir: Annotated[
        list[str] | None, typer.Option(help="Base URL of a FHIR server of its own; may be repeated.")
    ] = None,
    dicomweb: Annotated[
        list[str] | None, typer.Option(help="DICOMweb root beside these FHIR servers; may be repeated.")
    ] = None,
    jwks_url: Annotated[str, typer.Option(help="Where its public keys are.")] = "",
    jwks_file: Annotated[Path | None, typer.Option(help="Or the file they are in.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose patients these are; the name, if left out.")] = "",
    audience: Annotated[str, typer.Option(help="Our base URL as this client calls it, if it has one of its own.")] = "",
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Its servers' names lead to addresses inside the hospital.")
    ] = False,
) -> None:
    """Register a CDS client."""
    if bool(jwks_url) == (jwks_file is not None):
        raise CommandError("a client has its keys at --jwks-url or in --jwks-file, one of the two")
    if jwks_file is not None and not jwks_file.is_file():
        raise CommandError(f"{jwks_file}: there is no such file")
    if not fhir and dicomweb:
        raise CommandError("a DICOMweb root stands beside a FHIR server: give --fhir as well")
    roots = tuple(dicomweb or ())
    entry = {
        "name": name,
        "issuer": issuer,
        "tenant": tenant,
        "jwks_url": jwks_url,
        "jwks_file": str(jwks_file.absolute()) if jwks_file else "",
        "audience": audience,
        "fhir": [{"base": base, "dicomweb": roots, "allow_private": allow_private} for base in fhir or ()],
    }
    try:
        # Read as the service reads the file, so that what is written is what will hold.
        client = msgspec.convert(entry, Client)
    except (msgspec.ValidationError, ValueError) as error:
        raise CommandError(str(error)) from None
    settings = Settings.from_env()
    registering.add(settings.clients, client)
    Console().print(f"{name} may call; written to {settings.clients}", highlight=False, soft_wrap=True)


@clients_app.command("remove")
def remove(name: str) -> None:
    """Take a client out: its next call is refused."""
    settings = Settings.from_env()
    registering.remove(settings.clients, name)
    Console().print(f"{name} may no longer call; written to {settings.clients}", highlight=False, soft_wrap=True)


@clients_app.command("list")
def list_() -> None:
    """Show who is registered."""
    settings = Settings.from_env()
    table = Table(title=str(settings.clients), title_justify="left")
    for column in ("name", "tenant", "issuer", "keys", "FHIR servers", "archives"):
        table.add_column(column, overflow="fold")
    for client in load_clients(settings.clients).all:
        table.add_row(
            client.name,
            client.tenant or client.name,
            client.issuer,
            client.jwks_url or client.jwks_file,
            "\n".join(_words(server) for server in client.fhir),
            "\n".join(root for server in client.fhir for root in server.dicomweb),
        )
    Console().print(table)


def _words(server: FhirServer) -> str:
    return f"{server.base} (private)" if server.allow_private else server.base
