"""`cds-service switch`: turn a service, a rule or everything off, on, or to shadow; in force within a second."""

from __future__ import annotations

import getpass
from contextlib import suppress
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cds_service.cli.errors import CommandError
from cds_service.manifest import Service, load_services
from cds_service.settings import Settings
from cds_service.state.errors import StateError
from cds_service.state.store import Store
from cds_service.state.switches import Scope, Switch

ALL = "all"
FAMILY = "-"


class State(StrEnum):
    """off: says nothing. shadow: works everything out, keeps it for the report, and says nothing."""

    on = "on"
    off = "off"
    shadow = "shadow"


def switch(
    what: Annotated[str, typer.Argument(help="SERVICE, SERVICE/RULE, or `all` for the whole product.")],
    state: Annotated[State | None, typer.Argument(help="May be left out where only thresholds are set.")] = None,
    why: Annotated[str, typer.Option(help="The reason; it is kept with the switch, and audited.")] = "",
    who: Annotated[str, typer.Option(help="Who decided; the name of the account, if left out.")] = "",
    tenant: Annotated[str, typer.Option(help="Only for this tenant.")] = "",
    threshold: Annotated[
        list[str] | None, typer.Option(help="TARGET.LEVEL=VALUE in place of the manifest's; may be repeated.")
    ] = None,
) -> None:
    """Say a new word on a service or rule. Every running process obeys within a second."""
    if not why.strip():
        raise CommandError("say why: --why 'false alarms since the new analyser'")
    if state is None and not threshold:
        raise CommandError("say on, off or shadow")
    settings = Settings.from_env()
    scope, name, service = _place(what, settings)
    thresholds = _thresholds(threshold or (), service) if threshold else None
    try:
        with Store.open(
            settings.state_url, settings.state_dir, outbox_bytes=0, owner_url=settings.state_owner_url
        ) as store:
            if thresholds is not None:
                known = next(
                    (s for s in store.switches() if (s.tenant, s.scope, s.name) == (tenant, scope, name)), None
                )
                thresholds = {**(known.thresholds if known else {}), **thresholds}
            said = store.switch(
                scope,
                name,
                state.value if state is not None else None,
                who=who or _account(),
                why=why,
                tenant=tenant,
                thresholds=thresholds,
            )
    except StateError as error:
        raise CommandError(str(error)) from None
    Console().print(_words(said), highlight=False, soft_wrap=True)


def switches(
    history: Annotated[bool, typer.Option("--history", help="Every word ever said, oldest first.")] = False,
) -> None:
    """Show what is switched, by whom and why."""
    settings = Settings.from_env()
    try:
        with Store.open(
            settings.state_url, settings.state_dir, outbox_bytes=0, owner_url=settings.state_owner_url
        ) as store:
            found = store.switch_history() if history else tuple(sorted(store.switches(), key=lambda s: s.seq))
    except StateError as error:
        raise CommandError(str(error)) from None
    table = Table(title="Switches", title_justify="left")
    for column in ("what", "tenant", "state", "thresholds", "who", "when", "why"):
        table.add_column(column, overflow="fold")
    for s in found:
        set_ = ", ".join(f"{target} {value:g}" for target, value in s.thresholds.items())
        table.add_row(s.name or ALL, s.tenant or "all", s.state, set_, s.who, f"{s.at:%Y-%m-%d %H:%M} UTC", s.why)
    Console().print(table)


def _place(what: str, settings: Settings) -> tuple[Scope, str, Service | None]:
    """Which switch is meant. Raises CommandError for what no manifest knows: a typing error would switch nothing."""
    if what == ALL:
        return "product", "", None
    services = {s.id: s for s in load_services(settings.manifests / "services", settings.profile).all}
    id_, _, rule = what.partition("/")
    if id_ not in services:
        raise CommandError(f"there is no service {id_!r}; there are {', '.join(sorted(services))}, and `all`")
    service = services[id_]
    if not rule:
        return "service", id_, service
    # A rule of a table (PGX-010) has its family's entry (PGX) in the manifest.
    if rule not in service.rules and rule.rpartition(FAMILY)[0] not in service.rules:
        raise CommandError(f"{id_} has no rule {rule!r}; it has {', '.join(service.rules)}")
    return "rule", rule, None


def _thresholds(given: list[str] | tuple[()], service: Service | None) -> dict[str, float]:
    if service is None:
        raise CommandError("thresholds are set for a service")
    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        value = None
        with suppress(ValueError):
            value = float(number)
        if value is None or name not in service.levels():
            known = ", ".join(service.levels()) or "none"
            raise CommandError(f"{text!r}: write TARGET.LEVEL=VALUE; {service.id} has {known}")
        found[name] = value
    return found


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "command line"


def _words(said: Switch) -> str:
    where = f" for {said.tenant}" if said.tenant else ""
    set_ = "".join(f", {target} {value:g}" for target, value in said.thresholds.items())
    return f"{said.name or 'the whole product'} is {said.state}{where}{set_}; in force within a second"
