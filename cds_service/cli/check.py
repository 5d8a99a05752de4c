"""`cds-service check`: everything an administrator wrote, read as the server would read it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated

import typer
from rich.console import Console

from cds_service.advice import load_advice
from cds_service.advice.film_report import places_of
from cds_service.manifest import Service, load_services
from cds_service.settings import Settings
from cds_service.sites import load_sites, rule_names
from cds_service.trust.clients import load_clients
from fhir_mappers import codes
from models.checkpoint import read_card
from models.contract import InputSpec


def check(today: Annotated[str, typer.Option(help="Judge review dates as of this day (YYYY-MM-DD).")] = "") -> None:
    """Check manifests, tables, clients and models; list every fault, and exit 1 if there is one."""
    console = Console()
    settings = Settings.from_env()
    services = load_services(settings.manifests / "services", "research_imaging")
    faults = [f"{service.id}: {fault}" for service in services.all for fault in service_faults(service, settings)]
    faults += [f"tables: {fault}" for fault in table_faults()]
    due = date.fromisoformat(today) if today else date.today()
    late = [
        f"{s.id}: rule {id_} was to be reviewed by {rule.review_by.isoformat()} (owner {rule.owner})"
        for s in services.all
        for id_, rule in s.rules.items()
        if rule.review_by < due
    ]
    clients = load_clients(settings.clients)
    sites = load_sites(settings.sites, rule_names(services))
    known = {client.tenant or client.name for client in clients.all}
    faults += [f"sites: {name}: no client has this tenant" for name in sites.by_tenant if name not in known]
    console.print(
        f"{len(services.all)} services, {sum(len(s.rules) for s in services.all)} rules, "
        f"{len(clients.all)} registered clients, {len(sites.by_tenant)} sites, profile {settings.profile}"
    )
    for line in late:
        console.print(f"[yellow]review[/] {line}", highlight=False)
    for service in services.all:
        for line in service_notes(service, settings):
            console.print(f"[yellow]note[/]   {service.id}: {line}", highlight=False)
    for line in faults:
        console.print(f"[red]fault[/]  {line}", highlight=False)
    if faults:
        raise typer.Exit(1)
    console.print("no fault found")


def service_faults(service: Service, settings: Settings) -> Iterator[str]:
    """What a service refers to and is not there: its advice, its model, targets and thresholds of that model."""
    load_advice(service.advice)
    places_of(service)
    if service.model is None:
        return
    folder = settings.models / service.model
    if not folder.is_dir():
        yield f"model {service.model!r} is not under {settings.models}"
        return
    yield from spec_faults(read_card(folder).spec)


def service_notes(service: Service, settings: Settings) -> Iterator[str]:
    """What is allowed and worth knowing: a service may name targets of several models it can run on."""
    folder = settings.models / (service.model or "")
    if not service.targets or service.model is None or not folder.is_dir():
        return
    if not set(service.targets) & set(read_card(folder).spec.target_names()):
        yield f"model {service.model} answers none of its targets ({', '.join(service.targets)}): rules alone speak"


def spec_faults(spec: InputSpec) -> Iterator[str]:
    """A checkpoint that names a feature the tables lack could never be fed it."""
    known = codes.analytes()
    for feature in spec.labs:
        if feature.name not in known:
            yield f"the model reads {feature.name!r}, which no table has"
        elif known[feature.name].unit != feature.unit:
            yield f"the model reads {feature.name} in {feature.unit}, the tables in {known[feature.name].unit}"


def table_faults() -> Iterator[str]:
    for code in codes.lab_codes():
        if not codes.check_digit_ok(code):
            yield f"{code} fails the LOINC check digit"
    for code in codes.imaging_orders():
        if not codes.check_digit_ok(code):
            yield f"{code} fails the LOINC check digit"
