"""Search of the audit: by time, hook instance, service, patient and user. Each search says why, and is audited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest

from cds_service.pages.console_page import Console, admin, reason
from cds_service.state.desk import MOST, Search

FIELDS = ("since", "until", "hook_instance", "service", "tenant", "patient", "user", "kind")
KINDS = ("answer", "feedback", "switch", "model", "evidence", "write-back", "admin", "retention", "erasure")


def add_audit(blueprint: Blueprint, console: Console) -> None:
    house, desk = console.house, console.desk
    services = [s.id for s in house.services.all]

    @blueprint.get("/audit")
    def audit() -> Response:
        now = house.clock()
        asked = dict.fromkeys(FIELDS, "") | {"since": _typed(now - timedelta(days=1)), "until": _typed(now)}
        return console.page("audit", asked=asked, rows=None, services=services, kinds=KINDS, most=MOST)

    @blueprint.post("/audit")
    def search() -> Response:
        asked = {field: request.form.get(field, "").strip()[:256] for field in FIELDS}
        why = reason()
        wanted = _search(console, asked)
        # Said before it is done: a search that was seen is never unsaid. Of a patient only the keyed hash stays.
        named = {
            name: v
            for name in ("hook_instance", "service", "kind", "patient_key", "user_key")
            if (v := getattr(wanted, name))
        }
        span = {"since": asked["since"], "until": asked["until"]}
        desk.note(admin().name, "audit searched", house.clock(), why=why, **span, **named)
        rows = desk.search(wanted)
        return console.page("audit", asked=asked, rows=rows, services=services, kinds=KINDS, most=MOST)


def _search(console: Console, asked: dict[str, str]) -> Search:
    tenant, key = asked["tenant"], console.house.state.key
    if (asked["patient"] or asked["user"]) and not tenant:
        raise BadRequest("A patient or user is found by the tenant as well: ids of two hospitals may be the same.")
    return Search(
        since=_moment(asked["since"]),
        # The minute that was typed counts to its end.
        until=_moment(asked["until"]) + timedelta(minutes=1),
        hook_instance=asked["hook_instance"],
        service=asked["service"],
        kind=asked["kind"],
        patient_key=key("patient", tenant, asked["patient"].removeprefix("Patient/")),
        user_key=key("user", tenant, asked["user"]),
    )


def _typed(moment: datetime) -> str:
    """As an input of type datetime-local takes it, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(text[:16], "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
    except ValueError:
        raise BadRequest("A time is written as 2026-03-10T14:00, in UTC.") from None
