"""How long and whether: courses longer than needed (CT-04), a virus found (CT-05), MRSA cover to stop (CT-07)."""

from __future__ import annotations

from datetime import datetime, timedelta

from cds_service.advice import ordering
from cds_service.advice.chest_film_treatment import septic
from cds_service.advice.chest_question import (
    REASONS,
    Question,
    coded_row,
    criterion_rows,
    curb_row,
    diagnosis_row,
    goals_row,
    named,
    severity_row,
)
from cds_service.advice.chest_severity import NOT_ADMITTED
from cds_service.advice.drafts import name_of, remove, touched
from cds_service.advice.packs import pneumonia
from cds_service.advice.packs.curb65 import SEVERE, Criterion
from cds_service.advice.writing import (
    Fact,
    card,
    day,
    detail,
    fitting,
    moment,
    number,
    rule_line,
    rule_on,
    setting,
    span,
)
from cds_service.cards import Action, Card, Suggestion
from fhir_mappers.courses import course_of, shortened, taken_at_home
from fhir_mappers.record import Event, Order

ENOUGH_DAYS = 5
"""ATS 2025: less than 5 days, at least 3, once a patient with non-severe pneumonia is stable; more is not needed."""
LONGER_COURSE = ("bronchiectasis_cf", "aspiration", "sepsis")
LONGER_CODES = (
    "A481",
    "J150",
    "J151",
    "J152",
    "A411",
    "A490",
    "R7881",
    "I33",
    "I38",
    "M86",
    "G00",
    "A15",
    "A31",
    "B37",
)
"""ICD-10 of what needs longer: Legionella, Klebsiella, Pseudomonas and Staphylococcus pneumonia, bacteraemia,
endocarditis, bone and brain infection, mycobacteria, fungi."""
MRSA_COVER = frozenset({"glycopeptide", "oxazolidinone"})
MRSA_HOURS = timedelta(hours=48)
MRSA_ELSEWHERE = ("A4102", "B9562", "J15212", "A4902", "R7881", "I33", "M86", "M00", "L03", "L02", "G00", "T80", "T81",
                  "T82", "T83", "T84")  # fmt: skip
"""ICD-10: MRSA found, or an infection of blood, valve, bone, joint, skin, brain or device that MRSA cover may treat."""


# --- CT-04 -----------------------------------------------------------------------------------------------------------


def course_card(q: Question) -> Card | None:
    """CT-04: more than five days for pneumonia that is not severe, in a patient stable in every sign."""
    service, record = q.case.service, q.record
    rule = rule_on(service, "CT-04")
    long = [
        (order, course)
        for order in q.for_pneumonia
        if (course := course_of(order.resource)) is not None and course.days > ENOUGH_DAYS
    ]
    if rule is None or not long or not touched(q.case, [o for o, _ in long]) or not q.non_severe:
        return None
    signs = pneumonia.stability(record)
    if not all(sign.met for sign in signs) or _needs_longer(q):
        return None
    days = number_of_days(max(course.days for _, course in long))
    rows = [row for sign in signs for row in criterion_rows(sign)]
    return card(
        service,
        "CT-04",
        uuid=q.uuid,
        orders=[o for o, _ in long],
        deciding=(f"{days} days",),
        indicator="info",
        summary=fitting(f"Stable non-severe pneumonia: 3 to 5 days is enough; {days} days ordered."),
        detail=detail(
            why=f"A long course was ordered: {named(tuple(o for o, _ in long))}, {days} days.",
            facts=[
                curb_row(q),
                severity_row(q),
                Fact("Stable", f"{len(signs)} of {len(signs)} signs", moment(_latest(signs)), "Vital signs"),
                *rows[:2],
                *diagnosis_row(q),
                *goals_row(q),
            ],
            advice="Less than 5 days, at least 3, is suggested once non-severe pneumonia is clinically stable "
            "(conditional). Days already taken count.",
            unknown=q.unknown(*_untested(q)),
            rule=rule_line(service, "CT-04"),
        ),
        suggestions=_shorten([o for o, _ in long]),
        reasons=REASONS,
    )


def number_of_days(days: float) -> str:
    return f"{days:g}" if days == int(days) else number(days)


def _latest(signs: tuple[Criterion, ...]) -> datetime | None:
    times = [b.at for sign in signs for b in sign.because if b.at is not None]
    return max(times, default=None)


def _needs_longer(q: Question) -> bool:
    """Complications, organisms and neighbours of pneumonia for which the short course was not tried."""
    record = q.record
    return (
        bool(record.active(*LONGER_COURSE))
        or any(pneumonia.coded(e, LONGER_CODES) for e in record.events)
        or any(c.name in pneumonia.BACTERIAL_TESTS and c.meaning == "positive" for c in record.coded)
        or any(not pneumonia.sterile(c) for c in pneumonia.cultures(record))
        or bool({s.key for s in q.case.shortfalls} & {"conditions"})
    )


def _untested(q: Question) -> tuple[str, ...]:
    return () if pneumonia.cultures(q.record) else ("culture results (none found)",)


def _shorten(orders: list[Order]) -> tuple[Suggestion, ...]:
    actions = []
    for order in orders:
        changed = shortened(order.resource, ENOUGH_DAYS) if order.resource.get("id") else None
        if changed is not None:
            supply = " and the supply with it" if "dispenseRequest" in changed else ""
            actions.append(
                Action("update", f"Changes the duration of {name_of(order)} to {ENOUGH_DAYS} days{supply}", changed)
            )
    return (Suggestion(f"Shorten to {ENOUGH_DAYS} days", tuple(actions)),) if actions else ()


# --- CT-05 -----------------------------------------------------------------------------------------------------------


def virus_card(q: Question) -> Card | None:
    """CT-05: an outpatient without comorbidity, a virus found, and an antibiotic for pneumonia ordered."""
    service, record = q.case.service, q.record
    rule = rule_on(service, "CT-05")
    found = pneumonia.virus(record)
    if rule is None or not q.for_pneumonia or not touched(q.case, q.for_pneumonia) or found is None:
        return None
    # Nobody is without comorbidity whose problem list did not arrive; nor without bacteria whose results did not.
    if {s.key for s in q.case.shortfalls} & {"conditions", "labs", "meds"}:
        return None
    if (
        not _outpatient(q)
        or pneumonia.comorbidity(record) is not None
        or pneumonia.bacteria(record) is not None
        or record.active("pulmonary_toxicity")
        or septic(q)
        or q.curb.low >= SEVERE
        or q.severity.severe is True
    ):
        return None
    name = pneumonia.VIRUSES[found.name]
    return card(
        service,
        "CT-05",
        uuid=q.uuid,
        orders=q.for_pneumonia,
        deciding=(name, day(found.at)),
        indicator="info",
        summary=fitting(
            f"{name[:1].upper()}{name[1:]} positive ({day(found.at)}), outpatient without comorbidity: "
            "pneumonia may need no antibiotic.",
            f"Respiratory virus positive ({day(found.at)}): pneumonia may need no antibiotic.",
        ),
        detail=detail(
            why=f"An antibiotic was ordered for pneumonia: {named(q.for_pneumonia)}.",
            facts=[
                coded_row(f"{name[:1].upper()}{name[1:]} test", found, "positive"),
                Fact("Comorbidity", "none on the problem list", "", "Problem list"),
                curb_row(q),
                *diagnosis_row(q),
                *goals_row(q),
            ],
            advice="For adult outpatients without comorbidity and with a positive virus test, withholding empiric "
            "antibiotics is suggested (conditional, very low certainty). With comorbidity, or in hospital, treat.",
            unknown=q.unknown(*_unmeasured(q)),
            rule=rule_line(service, "CT-05"),
        ),
        suggestions=_removal(q.for_pneumonia),
        reasons=REASONS,
    )


def _outpatient(q: Question) -> bool:
    """Seen in a clinic, or in the emergency department with the antibiotic to be taken at home."""
    visit = q.record.encounter
    if visit is None:
        return False
    home = any(taken_at_home(o.resource) for o in q.for_pneumonia)
    return not visit.inpatient or (visit.class_ in NOT_ADMITTED and home)


def _unmeasured(q: Question) -> tuple[str, ...]:
    missing = [f"CURB-65 item {name}" for name in q.curb.missing]
    if not any(lab.analyte == "procalcitonin" for lab in q.record.labs):
        missing.append("procalcitonin (none found)")
    return tuple(missing)


def _removal(orders: tuple[Order, ...]) -> tuple[Suggestion, ...]:
    actions = remove(*orders)
    plural = "s" if len(actions) > 1 else ""
    return (Suggestion(f"Remove the antibiotic draft{plural}", actions),) if actions else ()


# --- CT-07 -----------------------------------------------------------------------------------------------------------


def mrsa_card(q: Question) -> Card | None:
    """CT-07: vancomycin or linezolid for two days, the MRSA screen negative and no culture positive."""
    service, record = q.case.service, q.record
    rule = rule_on(service, "CT-07")
    drafts = tuple(o for o in q.for_pneumonia if o.concepts & MRSA_COVER)
    running = _running(q)
    screen = pneumonia.newest(record, ("mrsa_screen",))
    if rule is None or running is None or running.start is None or not touched(q.case, drafts or q.for_pneumonia):
        return None
    if screen is None or screen.meaning != "negative":
        return None
    if any(not pneumonia.sterile(c) for c in pneumonia.cultures(record)) or any(
        pneumonia.coded(e, MRSA_ELSEWHERE) for e in record.events
    ):
        return None
    if {s.key for s in q.case.shortfalls} & {"conditions", "labs"}:
        return None
    grown = pneumonia.cultures(record)
    name = _drug_name(running)
    return card(
        service,
        "CT-07",
        uuid=q.uuid,
        orders=drafts,
        deciding=(name, f"screen {day(screen.at)}"),
        indicator="info",
        summary=fitting(
            f"MRSA screen negative ({day(screen.at)}), {name} for {span(record.age_of(running.start))}, no positive "
            f"culture: stop {name}.",
            f"MRSA screen negative ({day(screen.at)}), no positive culture: stop MRSA cover.",
        ),
        detail=detail(
            why=f"MRSA cover for pneumonia has been running since {moment(running.start)}.",
            facts=[
                coded_row("MRSA screen", screen, "negative"),
                Fact(name.capitalize(), running.text or name, moment(running.start), "Medication list"),
                *(coded_row("Culture", c, "no growth") for c in grown[:2]),
                *diagnosis_row(q),
                *goals_row(q),
            ],
            advice="With a negative screen and no positive culture, MRSA cover started for pneumonia is stopped.",
            unknown=q.unknown(*(() if grown else ("culture results (none found)",))),
            rule=rule_line(service, "CT-07"),
        ),
        suggestions=_stop(q, running, drafts, name),
        reasons=REASONS,
    )


def _running(q: Question) -> Event | None:
    """An active order of vancomycin or linezolid for more than two days that gives no other reason than pneumonia."""
    drafted = {o.ref for o in q.antibiotics}
    for event in q.record.events:
        if event.kind != "medication" or not event.active or event.source.reference in drafted:
            continue
        if not event.concepts & MRSA_COVER or event.start is None or q.record.age_of(event.start) <= MRSA_HOURS:
            continue
        if pneumonia.for_pneumonia(q.record, event):
            return event
    return None


def _drug_name(event: Event) -> str:
    return "vancomycin" if "glycopeptide" in event.concepts else "linezolid"


def _stop(q: Question, running: Event, drafts: tuple[Order, ...], name: str) -> tuple[Suggestion, ...]:
    found = []
    actions = remove(*drafts)
    if actions:
        found.append(Suggestion(f"Remove the {name} draft", actions))
    update = setting(q.case.service, "update_signed_orders") is True
    why = "MRSA screen negative, no positive culture: MRSA cover no longer needed"
    held = ordering.hold(q.case, running, why, update_allowed=update)
    found.append(Suggestion(f"Set {name} on hold", (held,)))
    return tuple(found)
