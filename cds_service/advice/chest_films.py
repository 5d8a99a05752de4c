"""The newest chest film, the one before it, its reports, and what the model makes of the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from cds_service.advice.estimates import answered, films_used
from fhir_mappers.codes import find_imaging_order
from fhir_mappers.record import Image, Report
from models.contract import Assessment, Estimate

if TYPE_CHECKING:
    from cds_service.consult import Case

REPORT_BEFORE_FILM = timedelta(hours=1)
"""Reports carry the time of the study or of the dictation, and clocks differ."""

Change = Literal["new", "worse", "better", "resolved", "same", "not compared"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding on the newest film that the model is sure enough to speak of.

    now     probability; None where the model abstains or straddles the threshold
    before  probability on the comparison film, None without one
    """

    estimate: Estimate
    now: float | None
    before: float | None
    change: Change

    @property
    def title(self) -> str:
        """As inside a sentence: `pleural effusion`; an abbreviation stays as it is."""
        title = self.estimate.target.title
        return title if title[1:2].isupper() else title[:1].lower() + title[1:]

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
        found.append(Finding(estimate, now, before, _change(estimate, prior, levels)))
    return tuple(sorted(found, key=lambda f: (-(f.now or 0.0), f.estimate.target.name)))


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
            return "better"
    return "same"
