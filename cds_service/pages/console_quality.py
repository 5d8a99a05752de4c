"""The queue of data and image quality: what clinicians called wrong, where model and report disagree, who looked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from cds_service.pages.console_feedback import PERIODS
from cds_service.pages.console_page import Console, admin, reason
from cds_service.state.quality import CLOSED, MOST, Kind, QualityItem, queue

WORDS: Mapping[Kind, str] = {
    "finding-wrong": "Clinician: image finding wrong",
    "cds-not-applicable": "Clinician: data shown is wrong or does not apply",
    "disagrees": "Model and final report disagree",
}


def add_quality(blueprint: Blueprint, console: Console) -> None:
    house, desk = console.house, console.desk

    def asked() -> tuple[int, tuple[QualityItem, ...]]:
        given = request.values.get("days", "")
        days = int(given) if given.isascii() and given.isdigit() and int(given) in PERIODS else 28
        until: datetime = house.clock() + timedelta(seconds=1)
        return days, queue(house.state, until - timedelta(days=days), until)

    @blueprint.get("/quality")
    def quality() -> Response:
        days, items = asked()
        return console.page("quality", days=days, periods=PERIODS, items=items, words=WORDS, most=MOST)

    @blueprint.post("/quality")
    def quality_close() -> AnyResponse:
        days, items = asked()
        item = request.form.get("item", "")
        if item not in {i.id for i in items}:
            raise NotFound("There is no such item in the queue.")
        desk.note(admin().name, CLOSED, house.clock(), item=item, why=reason())
        return console.to(f"quality?days={days}")
