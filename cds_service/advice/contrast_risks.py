"""IS-02: a stable eGFR from 30 to 44 and a circumstance that makes contrast weigh more (off until a site wants it).

ACR-NKF 2020: between 30 and 44 prophylaxis may be considered in individual patients; it is no rule of ours by default.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from cds_service.advice import ordering
from cds_service.advice.contrast_question import REASONS, Question, code_status
from cds_service.advice.packs.kidney import WEEK, kidney
from cds_service.advice.packs.nephrotoxin import direct_nephrotoxins
from cds_service.advice.prior_studies import priors
from cds_service.advice.writing import Fact, card, day, detail, fitting, moment, rule_line, rule_on, shown, taken
from cds_service.cards import Card, Suggestion
from fhir_mappers.record import PatientRecord

LOW, HIGH = 30.0, 45.0
RECENT = timedelta(hours=48)


def risk_card(q: Question) -> Card | None:
    service, record = q.case.service, q.case.record
    rule, now, egfr = rule_on(service, "IS-02"), q.kidney.creatinine.lab, q.kidney.egfr
    if rule is None or now is None or egfr is None or egfr.below(LOW) is not False or egfr.below(HIGH) is not True:
        return None
    risks = [*_second_contrast(record), *_new_nephrotoxin(record), *_recent_injury(record)]
    if not risks:
        return None
    suggestions = [q.other_study()]
    saline = ordering.saline(q.case) if not record.active("fluid") else None
    if saline is not None:
        suggestions.append(Suggestion("Order saline before contrast", (saline,)))
    return card(
        service,
        "IS-02",
        uuid=q.uuid,
        orders=q.orders,
        deciding=("eGFR 30 to 45", *(risk.fact for risk in risks)),
        indicator="info",
        summary=fitting(
            f"eGFR {egfr} ({day(now.at)}) and {risks[0].fact.lower()}: fluids may be considered.",
            f"eGFR {egfr} ({day(now.at)}) with a further kidney risk: fluids may be considered.",
        ),
        detail=detail(
            why=q.why,
            facts=[
                Fact(f"eGFR {egfr} mL/min/1.73 m2", f"creatinine {shown(now)}", taken(now), "Laboratory"),
                *risks,
                *code_status(record),
            ],
            advice="Contrast CT is acceptable. From eGFR 30 to 44 saline prophylaxis may be considered where there is "
            "a further risk.",
            unknown=q.unasked(),
            rule=rule_line(service, "IS-02"),
        ),
        suggestions=tuple(s for s in suggestions if s is not None),
        reasons=REASONS,
    )


def _second_contrast(record: PatientRecord) -> list[Fact]:
    """Iodinated contrast in the last 48 hours, by a study done or a contrast agent ordered."""
    found = [
        Fact("Contrast within 48 h", p.name, moment(p.at), "Imaging archive")
        for p in priors(record)
        if p.imaging.contrast == "iodinated_iv" and record.age_of(p.at) <= RECENT
    ]
    found += [
        Fact("Contrast within 48 h", e.text or "contrast agent", moment(e.start), "Medication list")
        for e in record.ever("iodinated_contrast")
        if e.kind == "medication" and e.start is not None and record.age_of(e.start) <= RECENT
    ]
    return found[:1]


def _new_nephrotoxin(record: PatientRecord) -> list[Fact]:
    return [
        Fact("Nephrotoxic drug begun", e.text or "drug without a name", moment(e.start), "Medication list")
        for e in record.events
        if e.kind == "medication"
        and e.active
        and e.start is not None
        and record.age_of(e.start) <= RECENT
        # Contrast itself is counted above.
        and "iodinated_contrast" not in e.concepts
        and direct_nephrotoxins(e.codes)
    ][:1]


def _recent_injury(record: PatientRecord) -> list[Fact]:
    """Acute kidney injury at an earlier creatinine of the last week; the caller knows that there is none now."""
    for lab in record.results("creatinine", within=WEEK)[1:]:
        then = replace(record, as_of=lab.at, labs=tuple(x for x in record.labs if x.at <= lab.at))
        aki = kidney(then).aki
        if aki is not None:
            return [Fact(f"Kidney injury stage {aki.stage}, resolved", shown(aki.now), taken(aki.now), "Laboratory")]
    return []
