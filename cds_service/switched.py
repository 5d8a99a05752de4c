"""A service as the switches leave it at one moment: what is off is off, what is in shadow is worked out apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from cds_service.manifest import Rule, Service
from cds_service.state.switches import Switches, SwitchState


@dataclass(frozen=True, slots=True)
class InForce:
    """`service` is what answers; `shadow` the same with its shadow rules on, None where there are none to try."""

    service: Service
    state: SwitchState
    shadow: Service | None = None

    def of_rules(self, switches: Switches, tenant: str, rules: tuple[str, ...]) -> SwitchState:
        """The strictest state of a card's rules, those of a table among them, which no manifest lists."""
        states = [state_of(self.service, switches, tenant, rule) for rule in rules]
        return "off" if "off" in states else "shadow" if "shadow" in states else "on"


def in_force(service: Service, switches: Switches, tenant: str) -> InForce:
    """The manifest with this tenant's thresholds and without the rules that are switched off or in shadow."""
    service = service.under(switches.thresholds(tenant, service.id))
    state = switches.state(tenant, service.id)
    if state != "on":
        return InForce(service, state)
    said = {name: state_of(service, switches, tenant, name) for name in service.rules}
    answering = _without(service, {name for name, word in said.items() if word != "on"})
    trying = _without(service, {name for name, word in said.items() if word == "off"})
    return InForce(answering, state, trying if "shadow" in said.values() else None)


def state_of(service: Service, switches: Switches, tenant: str, name: str) -> SwitchState:
    """A rule's state; no switch makes a rule speak whose share of right cards nobody has measured."""
    said = switches.state(tenant, service.id, name)
    rule = service.rules.get(name)
    return "shadow" if said == "on" and rule is not None and rule.on and rule.unproven else said


def _without(service: Service, names: set[str]) -> Service:
    if not names:
        return service
    rules: Mapping[str, Rule] = {
        name: msgspec.structs.replace(rule, on=False) if name in names else rule for name, rule in service.rules.items()
    }
    return msgspec.structs.replace(service, rules=dict(rules))
