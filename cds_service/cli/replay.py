"""`cds-service replay`: what other manifests would have answered to calls that were kept as files.

    cds-service replay calls/ --against changed/services --at 2026-03-10T14:00:00Z
    cds-service replay calls/ --against changed/services --site general-hospital

Each file is one hook request with its prefetch. Both answers are made here: nothing is fetched, nothing is kept, and
no earlier card holds a later one back, so what differs is what the manifests differ in.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cds_service.cards import Card
from cds_service.cli.errors import CommandError
from cds_service.cli.serve import load_engines
from cds_service.consult import Means, consult
from cds_service.deadline import Deadline
from cds_service.errors import BadRequest, MissingEvidence
from cds_service.fhir_client import FhirClient
from cds_service.hooks import HookRequest, parse_hook_request
from cds_service.manifest import Services, load_services
from cds_service.settings import Settings
from cds_service.sites import ANY_SITE, Site, load_sites, rule_names
from models.rollout import ServedModels

PATIENCE_S = 60.0
"""No answer differs because the machine was slow."""
FILES_NAMED = 5
Said = Mapping[tuple[str, str], Card]
"""(service, rules) -> the card: what one call was answered."""


@dataclass(slots=True)
class Change:
    """What became of one service's rules over all calls: cards under each side, and the calls that differ by name."""

    before: int = 0
    after: int = 0
    gained: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    tier: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


def replay(
    requests: Annotated[Path, typer.Argument(help="A hook request with its prefetch (.json), or a folder of them.")],
    against: Annotated[Path, typer.Option(help="Folder of the changed manifests (imaging-safety.yaml, ...).")],
    at: Annotated[str, typer.Option(help="The moment of the calls, ISO 8601 with its zone; now, without it.")] = "",
    site: Annotated[str, typer.Option(help="Tenant whose site file is used; changed, the one in ../sites.")] = "",
) -> None:
    """Answer kept requests under the manifests in force and under changed ones, and say which cards differ."""
    settings = Settings.from_env()
    calls = dict(read_calls(requests, _moment(at)))
    folders = ((settings.manifests / "services", settings.sites), (against, against.parent / "sites"))
    sides = [_side(services, sites, site, settings) for services, sites in folders]
    means, client, refused = Means(), FhirClient(), Counter[str]()
    said: list[dict[str, Said]] = []
    try:
        for services, local in sides:
            engines = load_engines(services, settings)
            said.append({n: _answer(c, services, local, engines, means, client, refused) for n, c in calls.items()})
    finally:
        client.close()
        means.close()
    before, after = said
    print_changes(Console(), before, after)
    for service, count in sorted(refused.items()):
        Console().print(f"[yellow]not answered[/] {service}: {count} answers lack required prefetch", highlight=False)


def _side(services: Path, sites: Path, tenant: str, settings: Settings) -> tuple[Services, Site]:
    """The services of one side with what this site sets; a changed side without a file of it has the one in force."""
    loaded = load_services(services, settings.profile)
    if not tenant:
        return loaded, ANY_SITE
    folder = sites if (sites / f"{tenant}.yaml").is_file() else settings.sites
    found = load_sites(folder, rule_names(loaded))
    if tenant not in found.by_tenant:
        raise CommandError(f"--site is {tenant!r}; {folder} has no {tenant}.yaml")
    return found.asked_of(loaded), found.of(tenant)


def _moment(text: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise CommandError(f"--at is {text!r}; write a moment with its zone, such as 2026-03-10T14:00:00Z")
    return at


def read_calls(requests: Path, at: datetime) -> Iterator[tuple[str, HookRequest]]:
    """File name -> the request, without the address and token to fetch more with. Raises CommandError."""
    files = sorted(requests.glob("*.json")) if requests.is_dir() else [requests]
    if not files:
        raise CommandError(f"{requests}: holds no .json file")
    for file in files:
        try:
            call = parse_hook_request(file.read_bytes(), at)
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from None
        except BadRequest as error:
            raise CommandError(f"{file}: {error}") from None
        yield file.name, dataclasses.replace(call, fhir_server=None, fhir_authorization=None)


def _answer(
    call: HookRequest,
    services: Services,
    site: Site,
    engines: ServedModels,
    means: Means,
    client: FhirClient,
    refused: Counter[str],
) -> Said:
    said: dict[tuple[str, str], Card] = {}
    for service in services.on:
        if call.hook not in service.hooks:
            continue
        try:
            cards = consult(
                service,
                call,
                Deadline.after(PATIENCE_S),
                fhir=client.for_request(call, None),
                engine=engines.get(service.model or ""),
                means=means,
                profile=services.profile,
                site=site,
            )
        except MissingEvidence:
            refused[service.id] += 1
            continue
        said |= {(service.id, "+".join(card.basis.rules) if card.basis else ""): card for card in cards}
    return said


def compare(before: Mapping[str, Said], after: Mapping[str, Said]) -> dict[tuple[str, str], Change]:
    """(service, rules) -> what changed, over the calls, which both sides answered."""
    found: defaultdict[tuple[str, str], Change] = defaultdict(Change)
    for name, old in before.items():
        new = after[name]
        for key in old.keys() | new.keys():
            change, was, now = found[key], old.get(key), new.get(key)
            change.before += was is not None
            change.after += now is not None
            if was is None:
                change.gained.append(name)
            elif now is None:
                change.lost.append(name)
            elif was.indicator != now.indicator:
                change.tier.append(name)
            elif _words(was) != _words(now):
                change.words.append(name)
    return dict(sorted(found.items()))


def _words(card: Card) -> tuple[str, str | None, tuple[str, ...]]:
    return card.summary, card.detail, tuple(s.label for s in card.suggestions)


def interrupting(answers: Iterable[Said]) -> int:
    """Calls that got a warning or critical card."""
    return sum(any(card.indicator != "info" for card in said.values()) for said in answers)


def print_changes(console: Console, before: Mapping[str, Said], after: Mapping[str, Said]) -> None:
    table = Table("service", "rule", "before", "after", "gained", "lost", "other tier", "other words", "calls")
    for (service, rule), change in compare(before, after).items():
        lists = change.gained, change.lost, change.tier, change.words
        differing = [name for names in lists for name in names]
        named = ", ".join(differing[:FILES_NAMED]) + (" ..." if len(differing) > FILES_NAMED else "")
        table.add_row(
            service, rule or "-", str(change.before), str(change.after), *(str(len(names)) for names in lists), named
        )
    console.print(table)
    console.print(
        f"{len(before)} calls; with a warning or critical card: {interrupting(before.values())} before, "
        f"{interrupting(after.values())} after",
        highlight=False,
    )
