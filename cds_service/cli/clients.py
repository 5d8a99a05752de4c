"""`cds-service clients`: who may call. What is added or removed holds from the next call on, without a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from cds_service.cli.errors import CommandError
from cds_service.settings import Settings
from cds_service.trust import private_keys, registering
from cds_service.trust.clients import Client, FhirServer, load_clients
from cds_service.trust.registrations import Smart

clients_app = typer.Typer(help="Who may call, and which servers belong to them.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys we sign with at EHRs' authorization servers.", no_args_is_help=True)
clients_app.add_typer(keys_app, name="keys")


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
    jwks_file: Annotated[
        Path | None, typer.Option(help="The file they are in; beside --jwks-url, read instead of it.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose patients these are; the name, if left out.")] = "",
    audience: Annotated[str, typer.Option(help="Our base URL as this client calls it, if it has one of its own.")] = "",
    framed_by: Annotated[
        list[str] | None, typer.Option(help="Origin of its pages that show our evidence in a frame; may be repeated.")
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Its servers' names lead to addresses inside the hospital.")
    ] = False,
) -> None:
    """Register a CDS client."""
    if not jwks_url and jwks_file is None:
        raise CommandError("a client has its keys at --jwks-url or in --jwks-file: give one, or both")
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
        "framed_by": tuple(framed_by or ()),
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


@clients_app.command("smart")
def smart(
    name: Annotated[str, typer.Argument(help="A client that is registered.")],
    fhir: Annotated[str, typer.Option(help="Which of its FHIR servers.")],
    origin: Annotated[
        list[str] | None, typer.Option(help="Origin its SMART configuration may name besides its own; repeatable.")
    ] = None,
    token_url: Annotated[str, typer.Option(help="The token endpoint, to pin it.")] = "",
    backend_id: Annotated[str, typer.Option(help="client_id for reads outside a hook.")] = "",
    backend_key: Annotated[Path | None, typer.Option(help="Key file it signs with.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="What it may read, e.g. system/Patient.rs.")] = None,
    launch_id: Annotated[str, typer.Option(help="client_id of the evidence page.")] = "",
    launch_key: Annotated[Path | None, typer.Option(help="Its key file; none for a public client.")] = None,
    link: Annotated[str, typer.Option(help="`smart`, or `absolute` for an EHR that only opens addresses.")] = "smart",
) -> None:
    """Say how we are registered at the authorization server of a client's FHIR server, instead of what was said."""
    entry: dict[str, object] = {"origins": origin or (), "token_url": token_url}
    if backend_id:
        entry["backend"] = {"client_id": backend_id, "key_file": _file(backend_key), "scopes": scope or ()}
    if launch_id:
        entry["launch"] = {"client_id": launch_id, "key_file": _file(launch_key), "link": link}
    try:
        registered = msgspec.convert(entry, Smart)
    except (msgspec.ValidationError, ValueError) as error:
        raise CommandError(str(error)) from None

    def changed(client: Client) -> Client:
        server = client.server(fhir)
        if server is None:
            raise CommandError(f"{name} has no FHIR server {fhir}; it has {', '.join(s.base for s in client.fhir)}")
        new = msgspec.structs.replace(server, smart=registered if backend_id or launch_id else None)
        return msgspec.structs.replace(client, fhir=tuple(new if s is server else s for s in client.fhir))

    settings = Settings.from_env()
    registering.change(settings.clients, name, changed)
    Console().print(f"written to {settings.clients}", highlight=False, soft_wrap=True)
    if launch_id:
        Console().print(f"launch URL    {settings.base_url}/launch", highlight=False, soft_wrap=True)
        Console().print(f"redirect URI  {settings.base_url}/launch/callback", highlight=False, soft_wrap=True)
    Console().print(f"our keys      {settings.base_url}/.well-known/jwks.json", highlight=False, soft_wrap=True)


@keys_app.command("new")
def new_key(
    file: Annotated[Path, typer.Argument(help="Where it is kept, for its owner alone.")],
    algorithm: Annotated[str, typer.Option(help="ES384 or RS384.")] = "ES384",
    rotate: Annotated[bool, typer.Option("--rotate", help="Put it before the key there is.")] = False,
) -> None:
    """Make a key we sign with at EHRs' authorization servers; prints its id, never the key."""
    made = private_keys.new_key(file, algorithm, rotate=rotate)
    Console().print(f"{made.algorithm} key {made.kid} in {file}", highlight=False, soft_wrap=True)


@keys_app.command("show")
def show_keys(file: Annotated[Path, typer.Argument(help="A key file of ours.")]) -> None:
    """Print the public keys of a file, for an EHR that wants them typed in rather than a URL."""
    print(json.dumps(private_keys.public_set(private_keys.load_keys(file)), indent=2))


def _file(path: Path | None) -> str:
    return str(path.absolute()) if path is not None else ""


def _words(server: FhirServer) -> str:
    return f"{server.base} (private)" if server.allow_private else server.base
