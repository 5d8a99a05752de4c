"""What is noticed of every call once its answer is made: its metrics and, where traces are on, its spans."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request

from cds_service.cards import Card
from cds_service.consult import Stages
from cds_service.gauges import Gauges
from cds_service.metrics import Outcome, tenant_id
from cds_service.tracing import Told, open_tracing

if TYPE_CHECKING:
    from cds_service.app import House


log = logging.getLogger(__name__)


def begin() -> Stages:
    """The stages of the current call; what it waited for a thread is the first of them."""
    g.stages = stages = Stages(started=request.environ["ordersight.started"])
    stages.done("waited")
    return stages


def watch(app: Flask, house: House) -> None:
    """Connect the house to its metrics; the routes say in `g` how far a call came."""
    metrics = house.metrics
    metrics.registry.register(Gauges(house))
    house.means.thinking.took = metrics.assessed
    house.fetcher.fetched = metrics.fetched
    house.state.tell_commits(metrics.committed)
    house.tracing = open_tracing(house.settings)

    def observe(response: Response) -> Response:
        if request.endpoint == "feedback" and request.method == "POST":
            status = response.status_code
            metrics.answered(g.get("service"), "feedback", status, outcome_of(status))
        elif request.endpoint == "call_service" and "stages" in g:  # a preflight is no call
            _call(house, response.status_code)
        return response

    app.after_request(observe)
    if house.settings.metrics != "off":
        for tenant in sorted({client.tenant or client.name for client in house.clients.all}):
            log.info("tenant", extra={"fields": {"tenant": tenant, "label": tenant_id(tenant)}})


def _call(house: House, status: int) -> None:
    service, hook = g.get("service"), g.get("hook")
    stages: Stages = g.stages
    cards: list[Card] = g.get("cards", [])
    taken_on: bool = g.get("taken_on", False)
    turned_away = hook is not None and not taken_on
    outcome = outcome_of(status, turned_away=turned_away, cards=bool(cards), partial=bool(stages.missing))
    house.metrics.answered(service, hook, status, outcome)
    if taken_on:
        seconds = time.monotonic() - request.environ["ordersight.started"]
        house.metrics.took(service, hook, seconds, late=seconds > g.budget_s)
        for stage, began, ended in stages.spans:
            house.metrics.stage(stage, ended - began)
        house.metrics.missing(shortfall.key for shortfall in stages.missing)
        house.metrics.advised(service, cards)
        hook_request = g.entry.hook
        if house.ahead is not None and hook_request is not None:
            house.ahead.after(hook_request, g.client, stages.missing)
    if house.tracing is not None:
        entry = g.get("entry")
        house.tracing.tell(
            Told(
                service=house.metrics.service(service),
                hook=hook or "none",
                status=status,
                outcome=outcome,
                tenant=tenant_id(entry.tenant) if entry is not None else "",
                spans=tuple(stages.spans),
                missing=tuple(sorted({f"{s.key}:{s.reason}" for s in stages.missing})),
                hook_instance=g.get("hook_instance", ""),
                error=g.get("error", ""),
                traceparent=request.headers.get("traceparent", ""),
            )
        )


def outcome_of(status: int, *, turned_away: bool = False, cards: bool = False, partial: bool = False) -> Outcome:
    """What became of a call. A 503 is shedding where a call in order was not taken on, else a fault of ours."""
    if status < 400:
        return "partial" if partial else "advice" if cards else "empty"
    if status == 412:
        return "no_data"
    if status == 429 or (status == 503 and turned_away):
        return "shed"
    return "error" if status >= 500 else "refused"
