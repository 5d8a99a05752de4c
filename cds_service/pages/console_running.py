"""How the service runs: stages, evidence per EHR, roles, codes nobody mapped, shadow, drift, incidents."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response as AnyResponse

from cds_service.pages.console_feedback import csv_of
from cds_service.pages.console_page import Console, admin
from cds_service.pages.words import REASONS, STAGES
from cds_service.state.watching import MOST_ROWS, Watching, watching
from cds_service.unmapped import to_map
from fhir_mappers.code_map import COLUMNS

PERIODS = (1, 7, 28)


def add_running(blueprint: Blueprint, console: Console) -> None:
    house = console.house

    def period() -> tuple[int, Watching]:
        asked = request.args.get("days", "")
        days = int(asked) if asked.isascii() and asked.isdigit() and int(asked) in PERIODS else 7
        until = house.clock() + timedelta(seconds=1)
        return days, watching(house.state, until - timedelta(days=days), until)

    @blueprint.get("/running")
    def running() -> Response:
        days, found = period()
        missed = sorted({why for key in found.keys for why in key.missing})
        return console.page(
            "running",
            days=days,
            periods=PERIODS,
            w=found,
            most=MOST_ROWS,
            ahead=house.ahead,
            stages=STAGES,
            silent=[s.id for s in house.services.all if house.state.switches().state("", s.id) != "on"],
            reasons=[(why, REASONS[why]) for why in missed if why in REASONS],
        )

    @blueprint.post("/running/incident")
    def incident() -> AnyResponse:
        what = request.form.get("what", "").strip()[:1000]
        if not what:
            raise BadRequest("Say what happened.")
        console.desk.note(admin().name, "incident", house.clock(), what=what)
        return console.to("running#incidents")

    @blueprint.get("/running/<table>.csv")
    def table(table: str) -> Response:
        days, found = period()
        console.desk.note(admin().name, "table exported", house.clock(), table=table[:32], days=days)
        if table == "roles":
            rows = [(r.role, r.shown, r.accepted, r.overridden) for r in found.roles]
            return csv_of("roles.csv", ("role", "shown", "accepted", "overridden"), iter(rows))
        if table == "unmapped":
            lines = [(u.tenant, u.what, u.calls, u.latest.isoformat()) for u in found.unmapped]
            return csv_of("unmapped.csv", ("tenant", "what", "calls", "latest"), iter(lines))
        if table == "code-map":
            tenant = request.args.get("ehr", "")
            wanted = dict.fromkeys(to_map(u.what) for u in found.unmapped if u.tenant == tenant)
            return csv_of("code-map.csv", COLUMNS, (row for row in wanted if row is not None))
        raise BadRequest("There is a table of roles, one of unmapped codes, and one of rows to map them.")
