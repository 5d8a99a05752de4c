"""What shows opacities in the lungs, and against which earlier picture: radiology's report, or the model on films.

The order of trust: a coded conclusion, the model's reading of a film that has no final report, the words of a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cds_service.advice.chest_films import Films, Finding, read_films, read_findings
from cds_service.advice.lung_question import Question
from cds_service.advice.packs.lung_reports import Reported, reported, reported_since
from cds_service.advice.writing import Fact, day, hours, moment, probability, words
from cds_service.cards import Indicator
from cds_service.markdown import plain_text

OPACITY = "finding.opacity"
FRONTAL = frozenset({"PA", "AP", "unknown"})
ADULT = 18


@dataclass(frozen=True, slots=True)
class Picture:
    """What shows the opacities, and against which earlier picture.

    tier  warning where coded or estimated against an earlier picture; info from words, or without one
    """

    source: Literal["coded report", "film", "report"]
    at: datetime
    prior: datetime | None
    change: Literal["new", "worse", "not compared"]
    tier: Indicator
    row: Fact
    summary: str
    finding: Finding | None = None


def find_picture(q: Question) -> Picture | None:
    """The most trusted picture of new or worse opacities, or None."""
    return _coded(q) or _film(q) or _words(q)


def _reported(q: Question) -> Reported | None:
    return reported(q.record, hours(q.case.service, "picture_h"), words(q.case.service, "diffuse_opacity_codes"))


def _coded(q: Question) -> Picture | None:
    found = _reported(q)
    return _from_report(found, "coded report") if found is not None and found.coded else None


def _words(q: Question) -> Picture | None:
    """Words of a report inform, whatever they say."""
    found = _reported(q)
    return _from_report(found, "report") if found is not None and not found.coded else None


def _from_report(found: Reported, source: Literal["coded report", "report"]) -> Picture | None:
    at = found.report.at
    if at is None:
        return None
    compared = found.change != "not compared"
    quote = plain_text(found.quote or "diffuse opacities, coded", 70)
    state = {"new": "New", "worse": "Worse", "not compared": "Reported"}[found.change]
    return Picture(
        source,
        at,
        found.prior.at if found.prior is not None else None,
        found.change,
        "warning" if source == "coded report" and compared else "info",
        Fact("Final report", quote, moment(at), "Radiology"),
        f"{state} bilateral opacities",
    )


def _film(q: Question) -> Picture | None:
    """The model's reading of the newest film, where it is switched on and no final report of the film exists."""
    case = q.case
    if case.assessment is None or case.profile != "research_imaging" or q.lacks("reports") or may_be_a_child(q):
        return None
    films = read_films(case)
    if films is None or films.final is not None or films.newest.view not in FRONTAL:
        return None
    if reported_since(case.record, films.newest.at):
        return None
    if case.record.age_of(films.newest.at) > hours(case.service, "picture_h"):
        return None
    found = next((f for f in read_findings(case, case.assessment, films) if f.estimate.target.name == OPACITY), None)
    if found is None or found.now is None or found.now < case.service.thresholds[OPACITY]["high"]:
        return None
    if found.change not in ("new", "worse", "not compared"):
        return None
    state = {"new": "New", "worse": "Worse", "not compared": "Possible"}[found.change]
    compared = found.change != "not compared" and films.prior is not None
    return Picture(
        "film",
        films.newest.at,
        films.prior.at if films.prior is not None and compared else None,
        found.change,
        "warning" if compared else "info",
        _film_row(found, films),
        f"{state} opacity on film ({probability(found.now)})",
        found,
    )


def _film_row(found: Finding, films: Films) -> Fact:
    value = probability(found.now or 0.0)
    if found.estimate.interval is not None:
        value += f" ({probability(found.estimate.interval[0])} to {probability(found.estimate.interval[1])})"
    if found.before is not None and films.prior is not None:
        value += f"; {probability(found.before)} on {day(films.prior.at)}"
    return Fact(f"{found.heading} on film", value, moment(films.newest.at), "Model")


def may_be_a_child(q: Question) -> bool:
    ages = q.record.age_years()
    return ages is not None and ages[0] < ADULT
