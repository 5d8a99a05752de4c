"""Opacities on both sides in radiology's own reports: by their codes, or in the words of their conclusion.

Words are read sentence by sentence and only to inform: a sentence that denies, or says better or unchanged, counts for
nothing, and the card quotes what was read. A coded conclusion may warn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from fhir_mappers.codes import condition_concepts, find_imaging_order
from fhir_mappers.record import ImagingOrder, PatientRecord, Report

CODED = frozenset({"drug_lung", "ild"})
"""Condition groups that mean diffuse disease of both lungs."""
ARDS = "J80"

_OPACITY = re.compile(
    r"(?i)\b(opacit\w+|opacification\w*|ground[- ]glass|infiltrat\w+|consolidation\w*|pneumonitis|interstitial)"
)
_DIFFUSE = re.compile(r"(?i)\b(bilateral\w*|diffuse\w*|both (?:lungs|sides|lower|upper)|widespread|multifocal)\b")
_SIDES = {"left": re.compile(r"(?i)\bleft\b"), "right": re.compile(r"(?i)\bright\b")}
_DENIED = re.compile(
    r"(?i)\b(no|not|without|clear|cleared|resolved|resolution|resolving|negative|absent|free of|improv\w+|decreas\w+"
    r"|unchanged|stable|chronic|old|previous\w*|rather than)\b"
)
_NEWER = re.compile(r"(?i)\b(new\w*|worse\w*|worsening|increas\w+|progress\w+|developed)\b")


@dataclass(frozen=True, slots=True)
class Words:
    """What a conclusion says: both sides or one, newly or worse in its own words, and the sentence that says so."""

    bilateral: bool
    newer: bool
    quote: str


def read_words(conclusion: str) -> Words:
    """Opacities in the sentences of a conclusion that affirm them. Right and left may stand in two sentences."""
    sides: set[str] = set()
    newer, quote = False, ""
    for sentence in re.split(r"(?<=[.;!?])\s+|\n+", conclusion):
        if not _OPACITY.search(sentence) or _DENIED.search(sentence):
            continue
        quote = quote or sentence.strip()
        newer = newer or bool(_NEWER.search(sentence))
        if _DIFFUSE.search(sentence):
            sides.update(_SIDES)
        sides.update(side for side, pattern in _SIDES.items() if pattern.search(sentence))
    return Words(len(sides) == len(_SIDES), newer, quote)


@dataclass(frozen=True, slots=True)
class Reported:
    """Opacities on both sides in the newest final chest report.

    change    new, worse: against the earlier report; "not compared" without one
    coded     by a code of the conclusion, not by its words
    """

    report: Report
    prior: Report | None
    change: Literal["new", "worse", "not compared"]
    coded: bool
    quote: str


def chest_reports(record: PatientRecord) -> tuple[Report, ...]:
    """Final reports of the chest with a date, newest first."""
    return tuple(
        r
        for r in record.reports
        if r.final and r.at is not None and (study := find_imaging_order(r.codes)) is not None and _shows_lungs(study)
    )


def reported_since(record: PatientRecord, at: datetime) -> bool:
    """Whether radiology has given a final report of the chest since: of a CT, say, after the film."""
    newest = next(iter(chest_reports(record)), None)
    return newest is not None and newest.at is not None and newest.at >= at


def _shows_lungs(study: ImagingOrder) -> bool:
    return study.modality in ("DX", "CT", "CTA") and study.region in ("chest", "pulmonary arteries", "chest vessels")


def diffuse(report: Report, extra: Iterable[str]) -> bool:
    """Whether the report codes diffuse disease of the lungs: `extra` are a site's own `system|code`."""
    wanted = frozenset(extra)
    if any(f"{system}|{code}" in wanted for system, code in report.findings):
        return True
    if any(code.replace(".", "").upper().startswith(ARDS) for _, code in report.findings):
        return True
    return bool(condition_concepts(report.findings) & CODED)


def reported(record: PatientRecord, within: timedelta, extra: Iterable[str] = ()) -> Reported | None:
    """New or worse opacities on both sides in a final report of the last `within`, or None."""
    reports = chest_reports(record)
    if not reports or reports[0].at is None or record.age_of(reports[0].at) > within:
        return None
    newest = reports[0]
    prior = next((r for r in reports[1:] if r.at is not None and newest.at is not None and r.at < newest.at), None)
    codes = tuple(extra)
    words = read_words(newest.conclusion)
    coded = diffuse(newest, codes)
    if not coded and not words.bilateral:
        return None
    if prior is None:
        return Reported(newest, None, "not compared", coded, words.quote)
    before = diffuse(prior, codes) or read_words(prior.conclusion).bilateral
    if before and not words.newer:
        return None
    return Reported(newest, prior, "worse" if before else "new", coded, words.quote)
