"""Services, rules, their switches and thresholds, with who said what when; a change holds everywhere in a second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple, get_args

from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.wrappers import Response as AnyResponse

from cds_service.manifest import Service
from cds_service.pages.console_page import Console, admin, reason
from cds_service.state.switches import Scope, Switch, SwitchState
from cds_service.switched import state_of

STATES: tuple[SwitchState, ...] = get_args(SwitchState)
MEANS: Mapping[SwitchState, str] = {
    "on": "answers with cards",
    "shadow": "computes and stores, shows nothing",
    "off": "answers with no cards",
}
RECENT = 50


class ServiceRow(NamedTuple):
    service: Service
    state: SwitchState
    served: bool
    owners: tuple[str, ...]
    review_by: date | None


def add_services(blueprint: Blueprint, console: Console) -> None:
    house = console.house

    def named(service_id: str) -> Service:
        found = next((s for s in house.services.all if s.id == service_id), None)
        if found is None:
            raise NotFound("There is no such service here.")
        return found

    def history(*, service: Service | None = None) -> list[Switch]:
        """Newest first; of one service with its rules, or of everything."""
        said = reversed(house.state.switch_history())
        names = {service.id, *service.rules} if service else set()
        return [s for s in said if service is None or s.name in names][:RECENT]

    @blueprint.get("")
    def services() -> Response:
        switches, today = house.state.switches(), house.clock().date()
        rows = [_row(s, switches.state("", s.id), s in house.services.on) for s in house.services.all]
        return console.page(
            "services",
            rows=rows,
            product=next((s for s in switches if s.scope == "product" and not s.tenant), None),
            elsewhere=[s for s in switches if s.tenant],
            history=history(),
            states=STATES,
            means=MEANS,
            profile=house.settings.profile,
            today=today,
        )

    @blueprint.get("/services/<service_id>")
    def service(service_id: str) -> Response:
        found, switches = named(service_id), house.state.switches()
        own = {(s.scope, s.name): s.state for s in switches if not s.tenant}
        set_, rules = switches.thresholds("", found.id), found.rules
        return console.page(
            "service",
            row=_row(found, switches.state("", found.id), found in house.services.on),
            s=found,
            own=own.get(("service", found.id), "on"),
            product=own.get(("product", ""), "on"),
            rules=[(n, r, own.get(("rule", n), "on"), state_of(found, switches, "", n)) for n, r in rules.items()],
            thresholds=[(name, value, set_.get(name)) for name, value in found.levels().items()],
            history=history(service=found),
            states=STATES,
            means=MEANS,
            today=house.clock().date(),
        )

    @blueprint.post("/switch")
    def switch() -> AnyResponse:
        scope, name, state = (request.form.get(field, "") for field in ("scope", "name", "state"))
        owner = _owner(console, scope, name)
        said = next((s for s in STATES if s == state), None)
        if said is None:
            raise BadRequest("A switch is on, shadow or off.")
        house.state.switch(_scope(scope), name, said, who=admin().name, why=reason())
        return console.to(f"services/{owner.id}" if owner else "")

    @blueprint.post("/thresholds/<service_id>")
    def thresholds(service_id: str) -> AnyResponse:
        found = named(service_id)
        said = {name: _probability(name, request.form.get(name, "").strip()) for name in found.levels()}
        changed = {name: value for name, value in said.items() if value is not None}
        house.state.switch("service", found.id, who=admin().name, why=reason(), thresholds=changed)
        return console.to(f"services/{found.id}")


def _row(service: Service, state: SwitchState, served: bool) -> ServiceRow:
    rules = service.rules.values()
    owners = tuple(dict.fromkeys(r.owner for r in rules))
    return ServiceRow(service, state, served, owners, min((r.review_by for r in rules), default=None))


def _owner(console: Console, scope: str, name: str) -> Service | None:
    """The service a switch belongs to, None for the product's. Raises BadRequest for what is not there."""
    services = console.house.services.all
    if scope == "product" and not name:
        return None
    for service in services:
        if (scope == "service" and service.id == name) or (scope == "rule" and name in service.rules):
            return service
    raise BadRequest("There is no such service or rule.")


def _scope(text: str) -> Scope:
    return next(s for s in get_args(Scope) if s == text)


def _probability(name: str, text: str) -> float | None:
    """None for an empty field: the manifest's value."""
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value <= 1:
        raise BadRequest(f"{name} is a probability from 0 to 1.")
    return value
