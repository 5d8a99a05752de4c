"""`evidence_blueprint`: the page behind a card's link.

GET of the link shows a page without any patient that reads the key behind the # and posts it; the post opens the link,
once, and sends the browser on with a cookie; only with that cookie is anything shown. A SMART launch (`launch.py`) is
another way to that cookie, and the only one where the EHR registered it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
from flask import Blueprint, Response, g, request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cds_service.advice.estimates import WORDS
from cds_service.advice.writing import day, moment, number, probability, unit
from cds_service.pages.access import Pass, Reason, Refused, knock, open_first, read_part
from cds_service.pages.links import EvidenceLinks
from cds_service.pages.plots import reference_range, scale, strip, trend
from cds_service.pages.snapshot import Series, Snapshot, decode
from cds_service.pages.words import HOOKS, odds_factor
from cds_service.settings import Settings
from cds_service.state.errors import StateUnavailable

log = logging.getLogger(__name__)

COOKIE = "evidence"
MOST_PLOTS, MOST_SINGLES = 12, 24
STATUS: dict[Reason, int] = {"unknown": 404, "opened": 410, "expired": 410}
LONG_HISTORY = 30

_TOGETHER = re.compile(r"(\d{4}-\d{2}-\d{2}(?: \d{2}:\d{2})?|\(\d+ (?:min|h|d) before\))")


def dated(text: str) -> Markup:
    """The text with each date and each age held together: one broken in two is hard to read in a narrow column."""
    held = Markup('<span class="nowrap">{}</span>')
    return Markup("").join(
        held.format(part) if number % 2 else escape(part) for number, part in enumerate(_TOGETHER.split(text))
    )


pages = Environment(
    loader=PackageLoader("cds_service.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
pages.filters |= {
    "moment": moment,
    "day": day,
    "number": number,
    "probability": probability,
    "unit": unit,
    "dated": dated,
    "odds_factor": odds_factor,
}
pages.globals |= {"reference_range": reference_range}


def evidence_blueprint(
    links: EvidenceLinks,
    settings: Settings,
    login: Callable[[str, str], Response | None],
    framed_by: Callable[[str | None], tuple[str, ...]],
) -> Blueprint:
    """`login` may answer in place of opening, for a link and its key, with the way to the EHR's login.

    `framed_by` says which origins may frame a tenant's pages, and without a tenant those that hold nobody's data.
    """
    blueprint = Blueprint("evidence", __name__, url_prefix="/evidence", static_folder="static")

    def held() -> Pass | None:
        return Pass.read(request.cookies.get(COOKIE, ""))

    @blueprint.get("/<link_id>")
    def page(link_id: str) -> Response:
        found, again = knock(links, link_id, held())
        g.framed_by = framed_by(found.tenant)
        if not again:
            return _html("pages/open.html", 200)
        snapshot = decode(read_part(links, link_id, held(), "page"))
        log.info("evidence shown", extra={"fields": {"service": snapshot.service_id, "card": snapshot.card}})
        return Response(render(snapshot, link_id), content_type="text/html; charset=utf-8")

    @blueprint.post("/<link_id>")
    def open_(link_id: str) -> Response:
        key = request.form.get("key", "")
        elsewhere = login(link_id, key)
        if elsewhere is not None:
            return elsewhere
        pass_, found = open_first(links, link_id, key, held())
        fields = {"service": found.service, "card": found.card, "tenant": found.tenant}
        log.info("evidence opened", extra={"fields": fields})
        response = Response(status=303, headers={"Location": link_id})
        g.framed_by = framed_by(found.tenant)
        give_pass(response, pass_, found.expires - links.now(), link_id, settings, framed=bool(g.framed_by))
        return response

    @blueprint.get("/<link_id>/films/<int:number>")
    def film(link_id: str, number: int) -> Response:
        films = msgspec.msgpack.decode(read_part(links, link_id, held(), "films"), type=list[bytes])
        if number >= len(films):
            raise Refused("unknown")
        return Response(films[number], content_type="image/jpeg")

    @blueprint.errorhandler(Refused)
    def refuse(error: Refused) -> Response:
        log.info("evidence refused", extra={"fields": {"why": error.reason}})
        return _html("pages/refused.html", STATUS[error.reason], reason=error.reason)

    @blueprint.errorhandler(StateUnavailable)
    def unavailable(_: StateUnavailable) -> Response:
        response = _html("pages/refused.html", 503, reason="unavailable")
        response.headers["Retry-After"] = "5"
        return response

    @blueprint.after_request
    def secure(response: Response) -> Response:
        response.headers.update(security_headers(g.framed_by if "framed_by" in g else framed_by(None)))
        return response

    return blueprint


def give_pass(
    response: Response, pass_: Pass, left: timedelta, link_id: str, settings: Settings, *, framed: bool
) -> None:
    """The cookie with which this browser sees the evidence, and no other page of ours, for the time that is left."""
    public = urlsplit(settings.base_url)
    response.set_cookie(
        COOKIE,
        str(pass_),
        max_age=max(1, round(left.total_seconds())),
        path=f"{public.path.rstrip('/')}/evidence/{link_id}",
        httponly=True,
        secure=framed or public.scheme == "https",
        # Inside a frame of the EHR no Strict cookie comes back; a partitioned one does, for that EHR's pages only.
        samesite="None" if framed else "Strict",
        partitioned=framed,
    )


def security_headers(frame_ancestors: tuple[str, ...]) -> dict[str, str]:
    """Nothing from elsewhere, nothing inline, nobody's frame but the EHR's, no trace in a cache or a Referer."""
    policy = (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        f"frame-ancestors {' '.join(frame_ancestors) or chr(39) + 'none' + chr(39)}",
        "require-trusted-types-for 'script'",
    )
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return headers if frame_ancestors else headers | {"X-Frame-Options": "DENY"}


def render(snapshot: Snapshot, link_id: str) -> str:
    """The whole page. `link_id` is where its films are, relative to the page."""
    near = [s for s in snapshot.series if s.mark]
    trends = [s for s in near if len(s.points) > 1][:MOST_PLOTS]
    singles = [s for s in near if len(s.points) == 1][:MOST_SINGLES]
    others = [s for s in snapshot.series if s not in trends and s not in singles]
    return pages.get_template("pages/evidence.html").render(
        s=snapshot,
        link_id=link_id,
        plots=[(series, trend(series)) for series in trends],
        strips=[(series, strip(series)) for series in singles],
        others=others,
        scales=[(estimate, scale(estimate)) for estimate in snapshot.estimates],
        hook=HOOKS.get(snapshot.hook, snapshot.hook),
        long_history=LONG_HISTORY,
        rests_on_film=any(WORDS["imaging"] in e.rested_on for e in snapshot.estimates),
        overdue={r.id for r in snapshot.rules if r.review_by < snapshot.made_at.date()},
    )


def _html(template: str, status: int, **values: Any) -> Response:
    return Response(pages.get_template(template).render(**values), status, content_type="text/html; charset=utf-8")


def out_of_range(series: Series) -> str:
    """`high`, `low` or "" for the newest result."""
    newest = series.points[0]
    if newest.low is not None and newest.value < newest.low:
        return "low"
    return "high" if newest.high is not None and newest.value > newest.high else ""


pages.filters["out_of_range"] = out_of_range
