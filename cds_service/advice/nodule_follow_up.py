"""When a nodule found by chance is to be looked at again: TM-03 (ordered too early) and TM-04 (due, and not ordered).

A structured report decides; where there is none, the words of the report may propose, and the card quotes them.
Cancer, immune suppression, a screening programme, growth, and an age under 35 are none of this guideline's business.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cds_service.advice import drafts, ordering
from cds_service.advice.nodule_words import nodule_in
from cds_service.advice.packs import care
from cds_service.advice.packs.fleischner import YOUNGEST, Attenuation, Due, Plan, next_due, plan
from cds_service.advice.packs.pregnancy import pregnancy
from cds_service.advice.prior_studies import Prior, occurrence, planned, priors, reason_codes
from cds_service.advice.writing import (
    Fact,
    card,
    day,
    detail,
    fitting,
    missing_evidence,
    override_reasons,
    rule_line,
    rule_on,
    setting,
)
from cds_service.cards import Action, Card, Suggestion, new_uuid
from cds_service.markdown import escape_markdown
from fhir_mappers.codes import ICD10_SYSTEMS, condition_concepts
from fhir_mappers.record import Nodule, Order, PatientRecord

if TYPE_CHECKING:
    from cds_service.consult import Case

CHEST_CT = "29252-4"
FOLLOW_UP_GROUPS = frozenset({"ct_chest", "ct_chest_hr"})
CHEST_REGIONS = frozenset({"chest", "pulmonary arteries", "chest vessels"})
GROWTH_MM = 2.0
"""A change of 2 mm is growth, or shrinking (Bankier, Radiology 2017;285:584): a case for a person, not for a table."""
CANCERS = ("any_cancer", "mets", "lung_cancer", "lung_cancer_history", "lung_mets", "pleural_cancer")
CANCER_HISTORY = "Z85"
SCREENING = "Z122"
FAMILY_HISTORY = "Z801"
QUOTE_CHARS = 200
WORDS: dict[Attenuation, str] = {"solid": "solid", "part_solid": "part-solid", "ground_glass": "ground-glass"}
REASONS = override_reasons(
    (("new-question", "New clinical question"), ("prior-not-adequate", "Prior study not adequate")),
    without=("patient-contraindication", "patient-refuses"),
)
EVIDENCE = {
    "orders": "existing orders",
    "reports": "radiology reports",
    "studies": "imaging studies",
    "nodules": "structured nodule reports",
    "conditions": "problem list",
    "history": "past problems",
    "smoke": "smoking status",
}
KNOWN_BEFORE_SPEAKING = ("orders", "reports", "studies", "conditions", "history")
"""Without these, "no order found" or "no cancer known" would not be true."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A nodule, or the one of several that decides, and when it was first seen. `quote` where words proposed it."""

    size_mm: float
    attenuation: Attenuation
    multiple: bool
    first_seen: date
    risks: tuple[str, ...]
    source: str
    quote: str = ""

    @property
    def plan(self) -> Plan:
        return plan(self.attenuation, self.size_mm, multiple=self.multiple, high_risk=bool(self.risks))

    def __str__(self) -> str:
        several = "several nodules, " if self.multiple else ""
        return f"{several}{self.size_mm:g} mm {WORDS[self.attenuation]} nodule"


def early_card(case: Case, ordered: Sequence[Order]) -> Card | None:
    """TM-03: a follow-up CT drafted for a day before the guideline's window."""
    rule = rule_on(case.service, "TM-03")
    order = next((o for o in ordered if drafts.touched(case, [o]) and _is_follow_up(case.record, o)), None)
    if rule is None or order is None or not _applies(case):
        return None
    seen, due = _seen(case), None
    if seen is not None:
        due = next_due(seen.plan, seen.first_seen, _later(case.record, seen.first_seen))
    if seen is None or due is None or planned(order, case.record.as_of).date() >= due.first:
        return None
    asked = occurrence(order, case.record.as_of)
    move = _move(order, due.first)
    firm = due.step.firm and not seen.quote and not missing_evidence(case.shortfalls, EVIDENCE)
    label = f"Move the CT to {due.first.isoformat()}"
    return card(
        case.service,
        "TM-03",
        uuid=new_uuid(),
        orders=(order,),
        deciding=(f"due {due.first}",),
        indicator="info",
        summary=fitting(
            f"{_capital(seen)}: next CT due {due.first} to {due.last} ({due.step}).",
            f"Nodule {seen.size_mm:g} mm: next CT due {due.first} to {due.last} ({due.step}).",
        ),
        detail=_detail(
            case,
            seen,
            due,
            "TM-03",
            why="A CT of the chest was ordered before the window of the guideline"
            + (f", for {day(asked)}." if asked else "."),
            advice="Growth rarely shows earlier: a CT before the window adds dose and may have to be repeated."
            if not seen.plan.or_tissue
            else "Above 8 mm the guideline offers CT at 3 months, PET-CT or tissue sampling.",
        ),
        suggestions=(Suggestion(label, (move,), is_recommended=firm),) if move else (),
        reasons=REASONS,
        choose="at-most-one",
    )


def overdue_card(case: Case) -> Card | None:
    """TM-04: a recommended CT that is due within a month or was due, and no order for it."""
    rule, record = rule_on(case.service, "TM-04"), case.record
    if rule is None or not _applies(case) or _missing(case) or pregnancy(record).state == "pregnant":
        return None
    if case.request.hook == "patient-view" and record.encounter is not None and record.encounter.inpatient:
        return None
    seen = _seen(case)
    due = next_due(seen.plan, seen.first_seen, _later(record, seen.first_seen)) if seen is not None else None
    today, ahead = record.as_of.date(), timedelta(days=float(setting(case.service, "due_within_days")))
    if seen is None or due is None or not due.step.firm or due.first > today + ahead or _ordered(record):
        return None
    if today - due.last > timedelta(days=float(setting(case.service, "overdue_at_most_days"))):
        return None
    overdue = due.last < today
    when = f"was due {due.last}" if overdue else f"is due {due.first} to {due.last}"
    at = max(due.first, today)
    request = ordering.study(case, CHEST_CT, "CT chest without contrast", occurrenceDateTime=at.isoformat())
    if request is None:
        return None
    return card(
        case.service,
        "TM-04",
        uuid=new_uuid(),
        orders=(),
        deciding=(f"due {due.first}", "overdue" if overdue else "due"),
        indicator="info",
        summary=f"Nodule follow-up CT {when}; no order found.",
        detail=_detail(
            case,
            seen,
            due,
            "TM-04",
            why=f"The next CT of a nodule {when}; there is no order, and no CT of the chest has been done for it.",
            advice=f"The guideline asks for CT at {due.step} after the nodule was first seen.",
        ),
        suggestions=(
            Suggestion(
                f"Order CT chest without contrast for {at.isoformat()}",
                (request,),
                is_recommended=not seen.quote and not missing_evidence(case.shortfalls, EVIDENCE),
            ),
        ),
        reasons=REASONS,
        choose="at-most-one",
    )


def _detail(case: Case, seen: Seen, due: Due, rule: str, *, why: str, advice: str) -> str:
    facts = [
        Fact(_capital(seen), f"next CT at {due.step}", seen.first_seen.isoformat(), seen.source),
        Fact("Window", f"{due.first} to {due.last}", "", "Fleischner 2017"),
    ]
    if seen.risks:
        facts.append(Fact("Higher risk", ", ".join(seen.risks), "", "Chart"))
    quoted = ""
    if seen.quote:
        quoted = f' Read from the words of the report, to be checked: "{escape_markdown(seen.quote, QUOTE_CHARS)}"'
    unknown = list(missing_evidence(case.shortfalls, EVIDENCE))
    if seen.quote:
        unknown.insert(0, "a structured report of the nodule")
    if not seen.risks:
        unknown.append("a risk for lung cancer (none on record)")
    return detail(why=why, facts=facts, advice=advice + quoted, unknown=unknown, rule=rule_line(case.service, rule))


def _capital(seen: Seen) -> str:
    text = str(seen)
    return text[:1].upper() + text[1:]


def _applies(case: Case) -> bool:
    """Age from 35, no cancer, no immune suppression, no screening (Fleischner 2017, scope)."""
    record = case.record
    if care.under(record, YOUNGEST) is not False or record.ever(*CANCERS) or record.active("immunosuppressed"):
        return False
    return not _icd(record, CANCER_HISTORY) and not _icd(record, SCREENING)


def _missing(case: Case) -> bool:
    return any(s.key in KNOWN_BEFORE_SPEAKING for s in case.shortfalls)


def _icd(record: PatientRecord, prefix: str) -> bool:
    return any(
        system in ICD10_SYSTEMS and code.replace(".", "").upper().startswith(prefix)
        for event in record.events
        for system, code in event.codes
    )


def _is_follow_up(record: PatientRecord, order: Order) -> bool:
    """A CT of the chest for the nodule: by its coded reason, or with none, outside hospital."""
    if order.imaging is None or order.imaging.duplicate_group not in FOLLOW_UP_GROUPS:
        return False
    reasons = reason_codes(order)
    if reasons:
        return "lung_nodule" in condition_concepts(reasons)
    return record.encounter is None or not record.encounter.inpatient


def _seen(case: Case) -> Seen | None:
    """The nodule that decides, stable since it was first seen; from structured reports, else from words."""
    return _structured(case) or _worded(case)


def _structured(case: Case) -> Seen | None:
    """Of several nodules of the newest study the one that is due first."""
    record = case.record
    known = [n for n in record.nodules if n.attenuation != "unknown"]
    if not known:
        return None
    studies = {_study_day(record, n) for n in record.nodules}
    newest, first = max(studies), min(studies)
    now = [n for n in known if _study_day(record, n) == newest]
    before = [n for n in known if _study_day(record, n) == first]
    if not now or not before or _changed([n.size_mm for n in before], [n.size_mm for n in now]):
        return None
    several = len([n for n in record.nodules if _study_day(record, n) == newest]) > 1
    found = []
    for n in now:
        assert n.attenuation != "unknown"
        multiple = several or n.count == "multiple"
        risks = _risks(case, upper_lobe=n.upper_lobe, spiculated=n.spiculated)
        found.append(Seen(n.size_mm, n.attenuation, multiple, first, risks, "Structured report"))
    steps = [s for s in found if s.plan.steps]
    return min(steps, key=lambda s: (s.plan.steps[0].first, -s.size_mm, s.attenuation), default=found[0])


def _worded(case: Case) -> Seen | None:
    """Only where no structured report speaks of a nodule at all."""
    if case.record.nodules:
        return None
    reports = [p for p in priors(case.record) if _shows_the_lung(p) and p.final]
    found = [(p, w) for p in reports if (w := nodule_in(p.conclusion)) is not None]
    if not found:
        return None
    (_, now), (first, before) = found[0], found[-1]
    if now.attenuation != before.attenuation or _changed([before.size_mm], [now.size_mm]):
        return None
    risks = _risks(case, upper_lobe=now.upper_lobe, spiculated=now.spiculated)
    return Seen(now.size_mm, now.attenuation, now.multiple, first.at.date(), risks, "Report", now.sentence)


def _changed(before: Sequence[float], now: Sequence[float]) -> bool:
    return abs(max(now) - max(before)) >= GROWTH_MM


def _study_day(record: PatientRecord, nodule: Nodule) -> date:
    """The day of the CT it was seen on: the study's where the report names one, since reports are written later."""
    named = {ref.rpartition("ImagingStudy/")[2] for ref in nodule.study_refs}
    started: list[datetime] = [
        s.started for s in record.studies if s.started and s.source.reference.rpartition("/")[2] in named
    ]
    return min(started, default=nodule.at).date()


def _shows_the_lung(prior: Prior) -> bool:
    return prior.imaging.modality in ("CT", "CTA") and prior.imaging.region in CHEST_REGIONS


def _later(record: PatientRecord, first_seen: date) -> tuple[date, ...]:
    """The days of CTs of the chest after the first one."""
    return tuple(p.at.date() for p in priors(record) if _shows_the_lung(p) and p.at.date() > first_seen)


def _risks(case: Case, *, upper_lobe: bool, spiculated: bool) -> tuple[str, ...]:
    """What makes lung cancer likelier, of what is on record (MacMahon 2017, risk factors)."""
    record = case.record
    status = next((c.meaning for c in record.coded if c.name == "smoking_status" and c.meaning), "")
    ages = record.age_years()
    older = ages is not None and ages[0] >= float(setting(case.service, "older_age"))
    emphysema = _icd(record, "J43") or bool(record.active("ild"))
    named = (
        ("smoking", bool(record.ever("smoking")) or status in ("smoker", "former-smoker")),
        ("upper lobe", upper_lobe),
        ("spiculated", spiculated),
        ("emphysema or fibrosis", emphysema),
        ("family history", _icd(record, FAMILY_HISTORY)),
        ("age", older),
    )
    return tuple(name for name, holds in named if holds)


def _ordered(record: PatientRecord) -> bool:
    groups = FOLLOW_UP_GROUPS
    return any(o.imaging is not None and o.imaging.duplicate_group in groups for o in record.orders)


def _move(order: Order, to: date) -> Action | None:
    """The draft with another day and nothing else changed; None where the draft has no id."""
    if not order.resource.get("id"):
        return None
    moved: dict[str, Any] = copy.deepcopy(dict(order.resource))
    for other in ("occurrencePeriod", "occurrenceTiming", "_occurrenceDateTime"):
        moved.pop(other, None)
    moved["occurrenceDateTime"] = to.isoformat()
    return Action("update", f"Changes the date of the order to {to.isoformat()}", moved)
