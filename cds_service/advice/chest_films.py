"""The newest chest film, the one before it, its reports, and what the model makes of the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from cds_service.advice.estimates import answered, films_used
from fhir_mappers.codes import find_imaging_order
from fhir_mappers.record import Image, Report
from fhir_mappers.report.terms import in_a_sentence, zone_words
from models.contract import Assessment, Course, Estimate, FilmReading, Zone

if TYPE_CHECKING:
    from cds_service.consult import Case

REPORT_BEFORE_FILM = timedelta(hours=1)
"""Reports carry the time of the study or of the dictation, and clocks differ."""

Change = Course | Literal["not compared"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding on the newest film that the model is sure enough to speak of.

    now      probability; None where the model abstains or straddles the threshold
    before   probability on the comparison film, None without one
    zone     where on the film the evidence lies, None where it has no one place or no network says
    changed  probability that it is new or worse, of the network that compares films; None where none did
    """

    estimate: Estimate
    now: float | None
    before: float | None
    change: Change
    zone: Zone | None = None
    changed: float | None = None

    @property
    def title(self) -> str:
        """As inside a sentence: `pleural effusion`."""
        return in_a_sentence(self.estimate.target.title)

    @property
    def where(self) -> str:
        """`right lower zone`, or "": what is not there any more is nowhere."""
        return zone_words(self.zone) if self.zone is not None and self.change != "resolved" else ""

    @property
    def placed(self) -> str:
        """`right lower zone pleural effusion`; without a place the title alone."""
        return f"{self.where} {self.title}".strip()

    @property
    def heading(self) -> str:
        return self.title[:1].upper() + self.title[1:]


@dataclass(frozen=True, slots=True)
class Films:
    """The newest film, the one it was compared with, and the reports of the newest."""

    newest: Image
    prior: Image | None
    reports: tuple[Report, ...]

    @property
    def final(self) -> Report | None:
        return next((r for r in self.reports if r.final), None)


def read_films(case: Case) -> Films | None:
    used = films_used(case)
    if not used:
        return None
    newest = used[0]
    return Films(newest, used[1] if len(used) > 1 else None, reports_of(case, newest))


def reports_of(case: Case, film: Image) -> tuple[Report, ...]:
    """Reports that name the film's study; without any link, a chest report from the film on counts as one."""
    studies = {s.source.reference for s in case.record.studies if s.uid == film.study_uid} | {film.source.reference}

    def concerns(report: Report) -> bool:
        if report.study_refs:
            return any(ref == s or ref.endswith(f"/{s}") for ref in report.study_refs for s in studies)
        study = find_imaging_order(report.codes)
        chest = study is None or study.region == "chest"
        return chest and report.at is not None and report.at >= film.at - REPORT_BEFORE_FILM

    return tuple(r for r in case.record.reports if concerns(r))


def read_findings(case: Case, assessment: Assessment, films: Films) -> tuple[Finding, ...]:
    """Every finding with a threshold, most probable first."""
    found = []
    for name, levels in case.service.thresholds.items():
        estimate = assessment.estimates.get(name)
        if estimate is None or "imaging" not in estimate.rested_on:
            continue
        prior = assessment.prior.get(name) if films.prior is not None else None
        now = answered(estimate, levels["high"])
        before = prior.probability if prior is not None else None
        change, changed = _course(name, assessment.reading) if films.prior is not None else (None, None)
        change = change or _change(estimate, prior, levels)
        found.append(Finding(estimate, now, before, change, zone_of(name, assessment.reading), changed))
    return tuple(sorted(found, key=lambda f: (-(f.now or 0.0), f.estimate.target.name)))


def zone_of(target: str, reading: FilmReading | None) -> Zone | None:
    place = reading.places.get(target.removeprefix("finding.")) if reading is not None else None
    return place.zone if place is not None else None


def _course(target: str, reading: FilmReading | None) -> tuple[Change | None, float | None]:
    """What the network that compares films says; (None, None) where none did. Its abstention is an answer."""
    seen = reading.changes.get(target.removeprefix("finding.")) if reading is not None else None
    if seen is None:
        return None, None
    return seen.course or "not compared", seen.probabilities.get("new", 0.0) + seen.probabilities.get("worse", 0.0)


def _change(now: Estimate, prior: Estimate | None, levels: Mapping[str, float]) -> Change:
    """Against the comparison film alone: across both thresholds, or with 90 % intervals that do not touch."""
    if prior is None or prior.probability is None or now.probability is None:
        return "not compared"
    if now.probability >= levels["high"] and prior.probability <= levels["low"]:
        return "new"
    if now.probability <= levels["low"] and prior.probability >= levels["high"]:
        return "resolved"
    if now.interval is not None and prior.interval is not None:
        if now.interval[0] > prior.interval[1]:
            return "worse"
        if now.interval[1] < prior.interval[0]:
            return "improved"
    return "stable"
