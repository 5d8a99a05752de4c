"""The sections of a film's report in plain words, from its statements and from nothing else.

The same report always gives the same text. A word about change or an earlier film stands only where there was one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fhir_mappers.record import Image
from fhir_mappers.report.statements import FilmReport, Statement
from fhir_mappers.report.terms import in_a_sentence, spoken, zone_words

RESEARCH = "Research use: not cleared, not for diagnosis."
TRAINED_ON = {
    "open": "trained on open data sets",
    "generated": "trained on generated patients: demonstration only",
    "credentialed": "trained on credentialed data sets",
}
_COURSES = {
    "new": "new since {}",
    "worse": "worse than on {}",
    "stable": "unchanged since {}",
    "improved": "improved since {}",
    "resolved": "no longer there, unlike on {}",
}


@dataclass(frozen=True, slots=True)
class Sections:
    """The five sections, each of whole sentences."""

    technique: str
    comparison: str
    findings: str
    impression: str
    limits: str

    def text(self) -> str:
        named = (
            ("Technique", self.technique),
            ("Comparison", self.comparison),
            ("Findings", self.findings),
            ("Impression", self.impression),
            ("Limits", self.limits),
        )
        return "\n\n".join(f"{name}: {words}" for name, words in named)


def write_report(report: FilmReport) -> Sections:
    """Render a film's report. Times are in the zone they were recorded in."""
    return Sections(_technique(report), _comparison(report), _findings(report), _impression(report), _limits(report))


def number(value: float) -> str:
    """A probability as printed: two decimals, never a flat 0 or 1."""
    return f"{min(0.99, max(0.01, value)):.2f}"


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M")


def _day(at: datetime) -> str:
    return at.strftime("%Y-%m-%d")


def _view(film: Image) -> str:
    view = f"{film.view} view" if film.view != "unknown" else "view not stated"
    return f"{view}, rendered by the archive and not as it was taken" if film.rendered else view


def _technique(report: FilmReport) -> str:
    film = report.film
    return (
        f"Chest film of {_moment(film.at)}, {_view(film)}. Read by the model {report.model} "
        f"({TRAINED_ON[report.tier]}), not by a person.{_laterals(film)}"
    )


def _laterals(film: Image) -> str:
    if not film.laterals:
        return ""
    views = "A lateral view" if film.laterals == 1 else f"{film.laterals} lateral views"
    return f" {views} of the same study {'was' if film.laterals == 1 else 'were'} not read."


def _comparison(report: FilmReport) -> str:
    if report.prior is None or report.unusable is not None:
        return "No earlier frontal film was available."
    return f"Chest film of {_moment(report.prior.at)}, {_view(report.prior)}."


def where(statement: Statement) -> str:
    """`right lower zone`; empty where the finding has no one place."""
    return zone_words(statement.zone) if statement.zone is not None else statement.side or ""


def _sentence(statement: Statement, prior: Image | None) -> str:
    """`Probable pleural effusion, right lower zone (0.81, 90% interval 0.74 to 0.87), new since 2026-03-07.`"""
    place = f", {where(statement)}" if where(statement) else ""
    found = number(statement.probability or 0.0)
    if statement.interval is not None:
        found += f", 90% interval {number(statement.interval[0])} to {number(statement.interval[1])}"
    change = ""
    if statement.change is not None and prior is not None:
        change = f", {_COURSES[statement.change].format(_day(prior.at))}"
    return f"{spoken(statement.certainty)} {in_a_sentence(statement.term.title)}{place} ({found}){change}."


def _findings(report: FilmReport) -> str:
    if report.unusable is not None:
        return f"None stated: {report.unusable.rstrip('.')}."
    if report.final is not None:
        return f"None stated beside the final radiology report{_of(report.final.at)}."
    assessed = [s for s in report.statements if s.probability is not None]
    if not assessed:
        return "None stated: no finding could be assessed on this film."
    said = [_sentence(s, report.prior) for s in assessed]
    if report.ctr is not None:
        why = f" ({report.ctr_why.rstrip('.')})" if report.ctr_why else ""
        said.append(f"Cardiothoracic ratio {report.ctr:.2f}, measured on this film{why}.")
    elif report.ctr_why:
        said.append(f"Cardiothoracic ratio not measured: {report.ctr_why.rstrip('.')}.")
    return " ".join(said)


def _of(at: datetime | None) -> str:
    return f" of {_day(at)}" if at is not None else ""


def _impression(report: FilmReport) -> str:
    if report.final is not None:
        return f"The final radiology report{_of(report.final.at)} stands."
    if report.unusable is not None:
        return "None, since this film was not read."
    assessed = [s for s in report.statements if s.probability is not None]
    leading = [s for s in assessed if s.there]
    if leading:
        return " ".join(f"{i}. {_short(s, report.prior)}" for i, s in enumerate(leading, start=1))
    if not assessed:
        return "None, since no finding could be assessed on this film."
    return (
        f"None of the {len(assessed)} findings assessed is possible or more. Others were not looked for: this "
        "does not say that the film is normal."
    )


def _short(statement: Statement, prior: Image | None) -> str:
    place = f", {where(statement)}" if where(statement) else ""
    change = ""
    if statement.change is not None and prior is not None:
        change = f", {_COURSES[statement.change].format(_day(prior.at))}"
    return f"{spoken(statement.certainty)} {in_a_sentence(statement.term.title)}{place}{change}."


def _limits(report: FilmReport) -> str:
    said = []
    if report.final is None and report.unusable is None:
        missing = [s for s in report.statements if s.probability is None]
        said += [f"Not assessed: {in_a_sentence(s.term.title)} ({(s.why or '').rstrip('.')})." for s in missing]
        if report.prior is not None and any(s.there and s.change is None for s in report.statements):
            said.append("Where no course is named, the two films could not be told apart or were not compared.")
        said.append("Severity: not graded. Tubes and lines, their tips, bones and soft tissue: not assessed.")
    said.append("These are estimates of a model; a radiologist's report decides.")
    return " ".join([*said, RESEARCH])
