"""Studies already done, and whether anything has happened since that makes another one a new question.

A study is known by the code of its report or of the procedure performed; a film that carries neither, as imports from
elsewhere often do, repeats nothing here. What cannot be told apart counts as different, and what cannot be ordered in
time counts as later: both make the rules silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cds_service.advice.packs import care
from cds_service.advice.packs.news2 import News2, news2
from fhir_mappers import fhir
from fhir_mappers.codes import find_imaging_order
from fhir_mappers.record import Event, ImagingOrder, Order, PatientRecord, Report, Study
from fhir_mappers.studies import sides

NAMES = {
    "cxr": "Chest film",
    "ct_chest": "CT chest",
    "ct_chest_hr": "High-resolution CT chest",
    "ctpa": "CT pulmonary angiogram",
    "cta_chest": "CT angiogram of the chest",
    "vq": "Lung scan",
    "leg_duplex": "Leg vein ultrasound",
    "ct_ap": "CT abdomen",
    "ct_head": "CT head",
    "cta_head": "CT angiogram of the head",
    "mr_brain": "MRI brain",
    "mr_abdomen": "MRI abdomen",
    "mra_pulm": "MRI pulmonary vessels",
}
SIDED = frozenset({"leg_duplex"})
"""Groups that exist on the left and on the right."""
NOT_A_PROCEDURE_ON_THE_BODY = frozenset({"103693007", "363679005", "409063005", "409073007", "24642003", "108252007"})
"""SNOMED CT categories: diagnostic, imaging, counselling, education, psychiatry, laboratory."""
WORSE_BY, NEWS2_AGE = 2, 16
BASELINE = timedelta(hours=24)
"""How long before a study the vital signs were measured that it is compared with."""

# A report is clear when each of its sentences says so in these words, and says nothing else.
_CLEAR = re.compile(
    r"(?i)(?:there is )?no (?:evidence of )?(?:acute )?(?:cardiopulmonary|intrathoracic|pulmonary|chest|focal lung)?\s*"
    r"(?:process|abnormality|abnormalities|disease|finding|findings|consolidation)"
    r"|(?:the )?lungs (?:are )?clear|clear lungs|normal chest(?: x-?ray| film| radiograph)?"
    r"|(?:the )?(?:cardiac silhouette|heart size|heart|mediastinum) is normal|heart size normal"
    r"|no (?:pleural )?effusion(?: or pneumothorax)?|no pneumothorax|no (?:focal )?consolidation"
)
# A report that asks for another study, or calls itself insufficient, is no reason to remove one.
_ASKS_FOR_MORE = re.compile(
    r"(?i)\b(recommend|repeat|follow.?up|further (?:imaging|evaluation)|limited|non.?diagnostic|suboptimal|incomplete"
    r"|inadequate|motion|poor quality|rotated|correlat)"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True, slots=True)
class Prior:
    """A study that was done. `report` is the best there is: final before preliminary; None where there is none."""

    imaging: ImagingOrder
    at: datetime
    report: Report | None
    study: Study | None
    sides: frozenset[str]

    @property
    def name(self) -> str:
        return study_name(self.imaging)

    @property
    def final(self) -> bool:
        return self.report is not None and self.report.final

    @property
    def conclusion(self) -> str:
        return "" if self.report is None else " ".join(self.report.conclusion.split())


@dataclass(frozen=True, slots=True)
class Since:
    """What is on record since a study: `event` makes another one a new question; `unknown` is what nobody measured."""

    event: str = ""
    unknown: tuple[str, ...] = ()


def study_name(imaging: ImagingOrder) -> str:
    return NAMES.get(imaging.duplicate_group, f"{imaging.modality} {imaging.region}")


def window(record: PatientRecord, imaging: ImagingOrder) -> timedelta:
    """How long another study of this group counts as the same: the table's hours, in hospital and outside."""
    inpatient = record.encounter is not None and record.encounter.inpatient
    return imaging.window_acute if inpatient else imaging.window_outpatient


def priors(record: PatientRecord) -> tuple[Prior, ...]:
    """Every study done whose code is known, newest first."""
    found = [*_reported(record), *_unreported(record)]
    return tuple(sorted(found, key=lambda p: (-p.at.timestamp(), p.imaging.loinc)))


def _reported(record: PatientRecord) -> Iterator[Prior]:
    best: dict[object, Prior] = {}
    for report in record.reports:
        study = _study_of(record, report)
        imaging = find_imaging_order(report.codes) or (find_imaging_order(study.codes) if study else None)
        at = (study.started if study else None) or report.at
        if imaging is None or at is None:
            continue
        prior = Prior(imaging, at, report, study, study.sides if study else frozenset())
        key = study.uid if study else (imaging.duplicate_group, at)
        held = best.get(key)
        if held is None or (prior.final and not held.final):
            best[key] = prior
    yield from best.values()


def _unreported(record: PatientRecord) -> Iterator[Prior]:
    reported = {s.uid for r in record.reports if (s := _study_of(record, r)) is not None}
    for study in record.studies:
        imaging = find_imaging_order(study.codes)
        if imaging is not None and study.started is not None and study.complete and study.uid not in reported:
            yield Prior(imaging, study.started, None, study, study.sides)


def _study_of(record: PatientRecord, report: Report) -> Study | None:
    names = {f"ImagingStudy/{fhir.last_segment(ref)}" for ref in report.study_refs if "ImagingStudy/" in ref}
    return next((s for s in record.studies if s.source.reference in names), None)


def sides_of(order: Order) -> frozenset[str]:
    """The side an order names in its body site or order detail."""
    return sides([*fhir.codes_of(order.resource.get("bodySite")), *fhir.codes_of(order.resource.get("orderDetail"))])


def same(imaging: ImagingOrder, on: frozenset[str], other: ImagingOrder, other_on: frozenset[str]) -> bool:
    """Whether the second study shows what the first would: same group, and no side it leaves out or does not name."""
    if imaging.duplicate_group != other.duplicate_group:
        return False
    return imaging.duplicate_group not in SIDED or (bool(on) and on <= other_on)


def planned(order: Order, as_of: datetime) -> datetime:
    """When an order is to be carried out: its occurrence, else now. A date without a time is that day's end."""
    return occurrence(order, as_of) or as_of


def occurrence(order: Order, as_of: datetime) -> datetime | None:
    period, timing = order.resource.get("occurrencePeriod"), order.resource.get("occurrenceTiming")
    times: list[Any] = [order.resource.get("occurrenceDateTime")]
    times += [period.get("start")] if isinstance(period, dict) else []
    times += list(fhir.each(timing.get("event"))) if isinstance(timing, dict) else []
    return next((at for t in times if isinstance(t, str) and (at := fhir.read_start(t, as_of)) is not None), None)


def since(record: PatientRecord, at: datetime, order: Order) -> Since:
    """What happened after a study at `at` that makes `order` a new question (rule TM-01)."""
    if record.encounter is not None and record.encounter.start is not None and record.encounter.start > at:
        return Since("admitted or arrived since")
    if any(on_the_body(e) and (e.start > at if e.start else e.active) for e in record.events if e.kind == "procedure"):
        return Since("procedure since")
    if any(e.kind == "condition" and e.start is not None and e.start > at for e in record.events):
        return Since("new problem since")
    if _new_reason(record, at, order):
        return Since("new reason for the order")
    return _vital_signs(record, at)


def on_the_body(event: Event) -> bool:
    """Whether a procedure may have changed what a study shows: anything but imaging, laboratory and talk."""
    return not event.category & NOT_A_PROCEDURE_ON_THE_BODY and find_imaging_order(event.codes) is None


def reason_codes(order: Order) -> fhir.Codes:
    return fhir.codes_of(order.resource.get("reasonCode"))


def _new_reason(record: PatientRecord, at: datetime, order: Order) -> bool:
    """A coded reason, or one that is a Condition, which was not on record before the study."""
    before = [e for e in record.events if e.kind == "condition" and (e.start is None or e.start <= at)]
    known = {code for e in before for code in e.codes}
    reasons = (fhir.codes_of(concept) for concept in fhir.each(order.resource.get("reasonCode")))
    if any(codes and not known & set(codes) for codes in reasons):
        return True
    named = [r.get("reference") for r in fhir.each(order.resource.get("reasonReference")) if isinstance(r, dict)]
    held = {fhir.last_segment(e.source.reference) for e in before}
    return any(isinstance(n, str) and "Condition/" in n and fhir.last_segment(n) not in held for n in named)


def _vital_signs(record: PatientRecord, at: datetime) -> Since:
    """Oxygen newly needed, or NEWS2 higher by two or more; what was not measured before counts as normal before."""
    if care.under(record, NEWS2_AGE) is not False:
        return Since(unknown=("whether vital signs changed (NEWS2 is for 16 and over)",))
    after = record.as_of - at - timedelta(seconds=1)
    now = news2(record, after) if after > timedelta(0) else None
    if now is None:
        return Since(unknown=("vital signs since then",))
    earlier = replace(
        record,
        as_of=at,
        labs=tuple(x for x in record.labs if x.at <= at),
        coded=tuple(x for x in record.coded if x.at is not None and x.at <= at),
    )
    before = _points(news2(earlier, BASELINE))
    points = _points(now)
    if points.get("oxygen", 0) > before.get("oxygen", 0):
        return Since("oxygen newly needed")
    if sum(p - before.get(name, 0) for name, p in points.items()) >= WORSE_BY:
        return Since("vital signs worse")
    return Since()


def _points(score: News2 | None) -> dict[str, int]:
    return {item.name: item.points for item in score.items} if score is not None else {}


def sentences(text: str) -> tuple[str, ...]:
    return tuple(s.strip() for s in _SENTENCE.split(text) if s.strip())


def says_clear(conclusion: str) -> bool:
    """Whether a chest report says in every sentence, in words this house knows, that there is nothing."""
    said = [s.rstrip(".! ") for s in sentences(conclusion)]
    return bool(said) and all(_CLEAR.fullmatch(s) for s in said)


def asks_for_more(conclusion: str) -> bool:
    """Whether a report recommends another study or calls itself limited."""
    return _ASKS_FOR_MORE.search(conclusion) is not None
