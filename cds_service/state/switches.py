"""Kill-switches, shadow mode and thresholds: the newest word per scope, in force in every process within a second."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal, get_args

import msgspec
import orjson
from sqlalchemy import Connection, func, insert, select

from cds_service.state import audit
from cds_service.state.errors import StateError
from cds_service.state.records import storable
from cds_service.state.tables import as_dict, dump, models_active, switches

Scope = Literal["product", "service", "rule"]
SwitchState = Literal["on", "shadow", "off"]
STRICTNESS: Mapping[str, int] = {"on": 0, "shadow": 1, "off": 2}


class Switch(msgspec.Struct, frozen=True):
    """One word of an administrator.

    tenant      "" for all tenants
    name        service or rule id; "" for the whole product
    thresholds  per target, the threshold in [0, 1] in place of the manifest's
    """

    tenant: str
    scope: Scope
    name: str
    state: SwitchState
    thresholds: Mapping[str, float]
    who: str
    why: str
    at: datetime
    seq: int = 0


class Switches:
    """What is in force at `version`. Immutable: one call never mixes two."""

    def __init__(self, version: int = 0, current: Mapping[tuple[str, str, str], Switch] | None = None) -> None:
        self.version = version
        self._current = current or {}

    def __iter__(self) -> Iterator[Switch]:
        return iter(self._current.values())

    def state(self, tenant: str, service: str, rule: str = "") -> SwitchState:
        """The strictest of product, service and rule, for all tenants and for this one: off over shadow over on."""
        found: list[SwitchState] = ["on"]
        for scope, name in (("product", ""), ("service", service), ("rule", rule)):
            if scope == "rule" and not rule:
                continue
            for owner in {"", tenant}:
                switch = self._current.get((owner, scope, name))
                if switch is not None:
                    found.append(switch.state)
        return max(found, key=STRICTNESS.__getitem__)

    def thresholds(self, tenant: str, service: str) -> Mapping[str, float]:
        """The thresholds set for a service; this tenant's own over those for all."""
        merged: dict[str, float] = {}
        for owner in ("", tenant):
            switch = self._current.get((owner, "service", service))
            if switch is not None:
                merged |= switch.thresholds
        return merged


class ModelWord(msgspec.Struct, frozen=True):
    """Somebody's word that these weights answer under this name, from then on."""

    seq: int
    name: str
    digest: str
    who: str
    why: str
    at: datetime


def version(conn: Connection) -> int:
    return conn.execute(select(func.max(switches.c.seq))).scalar() or 0


def load(conn: Connection) -> Switches:
    newest = select(func.max(switches.c.seq)).group_by(switches.c.tenant, switches.c.scope, switches.c.name)
    found = [
        _switch(as_dict(row)) for row in conn.execute(select(switches).where(switches.c.seq.in_(newest))).mappings()
    ]
    return Switches(max((s.seq for s in found), default=0), {(s.tenant, s.scope, s.name): s for s in found})


def history(conn: Connection) -> tuple[Switch, ...]:
    """Every word ever said, oldest first."""
    return tuple(_switch(as_dict(row)) for row in conn.execute(select(switches).order_by(switches.c.seq)).mappings())


def _switch(row: Mapping[str, object]) -> Switch:
    return msgspec.convert(dict(row) | {"thresholds": orjson.loads(str(row["thresholds"]))}, Switch)


def turn(
    conn: Connection,
    scope: Scope,
    name: str,
    state: SwitchState | None,
    thresholds: Mapping[str, float] | None,
    *,
    tenant: str,
    who: str,
    why: str,
    at: datetime,
) -> Switch:
    """Say a new word; what is None stays as it was. The change is audited in the same transaction.

    Raises StateError for a scope, state or threshold that cannot be, and without a name and a reason.
    """
    if scope not in get_args(Scope) or (state is not None and state not in STRICTNESS):
        raise StateError("a switch is on, shadow or off, for the product, a service or a rule")
    if bool(name) != (scope != "product"):
        raise StateError("a service or rule is switched by its id, the whole product without one")
    if not who.strip() or not why.strip():
        raise StateError("say who switches, and why")
    if thresholds and (scope != "service" or not all(math.isfinite(t) and 0 <= t <= 1 for t in thresholds.values())):
        raise StateError("thresholds are probabilities from 0 to 1, set for a service")
    before = load(conn)._current.get((tenant, scope, name))
    row = {
        "tenant": tenant,
        "scope": scope,
        "name": storable(name, 256),
        "state": state or (before.state if before else "on"),
        "thresholds": dump(dict(thresholds if thresholds is not None else before.thresholds if before else {})),
        "who": storable(who, 256),
        "why": storable(why, 4000),
        "at": at,
    }
    seq = conn.execute(insert(switches).values(row)).inserted_primary_key
    details = dump({key: value for key, value in row.items() if key not in ("tenant", "at")})
    audit.append(conn, tenant, str(uuid.uuid4()), at, "switch", details=details)
    return _switch(row | {"seq": seq[0] if seq else 0})


def activate_model(conn: Connection, name: str, digest: str, *, who: str, why: str, at: datetime) -> None:
    """Make this digest the model that answers under `name`; going back is activating the earlier one."""
    row = {"name": name, "digest": digest, "who": storable(who, 256), "why": storable(why, 4000), "at": at}
    conn.execute(insert(models_active).values(row))
    details = dump({key: value for key, value in row.items() if key != "at"})
    audit.append(conn, "", str(uuid.uuid4()), at, "model", model=name, model_digest=digest, details=details)


def active_models(conn: Connection) -> dict[str, str]:
    """The digest in force per model name."""
    newest = select(func.max(models_active.c.seq)).group_by(models_active.c.name)
    found = conn.execute(select(models_active.c.name, models_active.c.digest).where(models_active.c.seq.in_(newest)))
    return {row.name: row.digest for row in found}


def model_history(conn: Connection) -> tuple[ModelWord, ...]:
    """Every activation, oldest first."""
    found = conn.execute(select(models_active).order_by(models_active.c.seq)).mappings()
    return tuple(msgspec.convert(as_dict(row), ModelWord) for row in found)
