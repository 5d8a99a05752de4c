"""LC-04: is a cancer drug harming the lungs? Film or report, drug, laboratory and genes on one card.

New or worse opacities come from radiology's coded conclusion (warning), from the model's reading of the newest film
against the one before (warning; research use), or from the words of a final report (info, quoted). A final report of
the film outranks the model. Without an earlier picture nothing is new: the card says so and informs. Antibiotics are
never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cds_service.advice import drafts, ordering
from cds_service.advice.estimates import answered, model_line
from cds_service.advice.lung_pictures import Picture, find_picture, may_be_a_child
from cds_service.advice.lung_question import REASONS, Question, driver_row, goals_rows, ingredient
from cds_service.advice.packs.quality import above, below, reading
from cds_service.advice.writing import (
    Fact,
    card,
    day,
    detail,
    fitting,
    hours,
    moment,
    rule_line,
    rule_on,
    setting,
    shown,
    span,
    taken,
)
from cds_service.cards import Action, Card, Suggestion
from cds_service.markdown import plain_text
from fhir_mappers.codes import find_imaging_order
from fhir_mappers.record import Event, Lab, Order
from models.contract import Estimate

TOXIC = "pulmonary_toxicity"
PNEUMONITIS = "drug_pneumonitis"
PROCALCITONIN, FEVER = 0.25, 38.0
CT_CHEST = "29252-4"
CT_WINDOW = timedelta(days=7)
DYSPNOEA_WINDOW = timedelta(days=30)


def injury_card(q: Question) -> Card | None:
    """LC-04, or None."""
    service = q.case.service
    rule = rule_on(service, "LC-04")
    picture = find_picture(q) if rule is not None else None
    if rule is None or picture is None:
        return None
    suspects = _suspects(q, picture.at)
    held = _held_drafts(q, suspects)
    estimate = _pneumonitis(q, picture)
    signs = _signs(q)
    likely = estimate is not None and _likely(q, estimate)
    if not suspects or not (signs.quiet or signs.breathless or likely):
        return None
    names = " and ".join(dict.fromkeys(ingredient(e) for e in suspects[:2]))
    # The model may stand in for the signs of the rule, but then it informs: nothing else says so.
    firm = bool(signs.quiet or signs.breathless) and not any(lab.preliminary for lab in signs.labs)
    loud = picture.tier == rule.tier and firm
    on = "on" if suspects and suspects[0].active else "after"
    against = f" vs {day(picture.prior)}" if picture.prior is not None else ", no comparison"
    facts = [picture.row, *(_drug_row(q, e) for e in suspects[:2]), *signs.rows]
    facts[4:4] = [driver_row(found) for found in q.drivers[:1]]
    return card(
        service,
        "LC-04",
        uuid=q.uuid,
        deciding=(f"{picture.source} {moment(picture.at)}", names),
        indicator=rule.tier if loud else "info",
        summary=fitting(
            f"{picture.summary}{against} {on} {names}: possible drug pneumonitis; CT and hold drug.",
            f"{picture.summary}{against} {on} a lung-toxic drug: possible drug pneumonitis; CT and hold drug.",
        ),
        detail=detail(
            why=_why(picture),
            facts=[*facts, *goals_rows(q.record)],
            advice=_advice(signs),
            unknown=_unknown(q, picture, signs, estimate),
            model=_model(q, picture, estimate),
            rule=rule_line(service, "LC-04"),
        ),
        suggestions=_suggestions(q, suspects, held, picture),
        reasons=REASONS,
    )


def _why(picture: Picture) -> str:
    what = {
        "coded report": f"The final report of {day(picture.at)} codes diffuse opacities",
        "film": f"The chest film of {moment(picture.at)}, which has no final report, shows opacity by the model",
        "report": f"The final report of {day(picture.at)} names opacities on both sides",
    }[picture.source]
    return f"{what}, under treatment with a drug that can injure the lungs."


# --- the drug --------------------------------------------------------------------------------------------------------


def _suspects(q: Question, at: datetime) -> tuple[Event, ...]:
    """Drugs with known lung toxicity that were there when the picture was taken: those still taken, then the newest.

    A completed order counts for a while: checkpoint inhibitors are written cycle by cycle and harm for months. A
    stopped one, or one on hold, is what this card would ask for.
    """
    window = hours(q.case.service, "exposure_h")

    def exposed(event: Event) -> bool:
        if event.kind != "medication" or event.source.reference in _draft_refs(q):
            return False
        if event.active:
            return event.start is None or event.start <= at
        recent = event.start is not None and event.start <= at and q.record.age_of(event.start) <= window
        return event.status == "completed" and recent

    return tuple(sorted((e for e in q.record.ever(TOXIC) if exposed(e)), key=lambda e: not e.active))


def _draft_refs(q: Question) -> frozenset[str]:
    return frozenset(o.ref for o in q.record.drafts())


def _held_drafts(q: Question, suspects: tuple[Event, ...]) -> tuple[Order, ...]:
    """Drafts that would give one of the suspects again."""
    names = {ingredient(e) for e in suspects}
    return tuple(o for o in q.drugs if TOXIC in o.concepts and ingredient(o) in names)


def _drug_row(q: Question, event: Event) -> Fact:
    name = ingredient(event)
    state = "on it for" if event.active else "order completed, written"
    since = f"{state} {span(q.record.age_of(event.start))}" if event.start is not None else "start not recorded"
    since += "" if event.active else " ago"
    dose = f"{event.dose}, " if event.dose else ""
    return Fact(name.capitalize(), f"{dose}{since}", day(event.start), "Medication list")


# --- infection, breath -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signs:
    """quiet: what speaks against infection; loud: what speaks for it all the same; breathless: what speaks of harm.

    labs are the results that decide.
    """

    quiet: str
    loud: tuple[str, ...]
    breathless: str
    rows: tuple[Fact, ...]
    labs: tuple[Lab, ...]
    missing: tuple[str, ...]


def _signs(q: Question) -> Signs:
    record = q.record
    procalcitonin, heat = reading(record, "procalcitonin").lab, reading(record, "temperature").lab
    cells, oxygen = reading(record, "wbc").lab, reading(record, "spo2").lab
    low_pct = procalcitonin is not None and below(procalcitonin, PROCALCITONIN) is True
    cool = heat is not None and below(heat, FEVER) is True
    normal = cells is not None and _in_range(cells)
    quiet = "low procalcitonin" if low_pct else "no fever and normal white cells" if cool and normal else ""
    limit = float(setting(q.case.service, "hypoxaemia_spo2"))
    short = oxygen is not None and below(oxygen, limit) is True
    felt = _breathless(q)
    breathless = "low oxygen saturation" if short else "breathlessness" if felt is not None else ""
    hot = heat is not None and below(heat, FEVER) is not True
    high = cells is not None and cells.high is not None and above(cells, cells.high) is not False
    raised = procalcitonin is not None and not low_pct
    loud = tuple(n for n, there in (("procalcitonin", raised), ("fever", hot), ("white cells", high)) if there)
    # What speaks for infection is shown even where the procalcitonin decides.
    used = [procalcitonin, heat if hot or not low_pct else None, cells if high or not low_pct else None, oxygen]
    rows = [_lab_fact(lab) for lab in used if lab is not None]
    if felt is not None:
        rows.append(Fact("Problem", felt.text or "breathlessness", day(felt.start), "Problem list"))
    given = {"procalcitonin": procalcitonin, "temperature": heat, "white cells": cells, "oxygen saturation": oxygen}
    missing = tuple(name for name, lab in given.items() if lab is None and not (low_pct and name in ("white cells",)))
    deciding = [procalcitonin] if low_pct else [heat, cells] if quiet else []
    deciding += [oxygen] if short and not quiet else []
    return Signs(quiet, loud, breathless, tuple(rows), tuple(lab for lab in deciding if lab is not None), missing)


def _in_range(lab: Lab) -> bool:
    if lab.low is None or lab.high is None or lab.comparator:
        return False
    return below(lab, lab.low) is False and above(lab, lab.high) is False


def _lab_fact(lab: Lab) -> Fact:
    return Fact(lab.name, shown(lab), taken(lab), "Vital signs" if lab.kind == "vital" else "Laboratory")


def _breathless(q: Question) -> Event | None:
    """Breathlessness or respiratory failure on the problem list, of the last month or without a date."""
    return next(
        (
            e
            for e in q.record.active("dyspnoea", "resp_failure")
            if e.kind == "condition" and (e.start is None or q.record.age_of(e.start) <= DYSPNOEA_WINDOW)
        ),
        None,
    )


# --- the model -------------------------------------------------------------------------------------------------------


def _pneumonitis(q: Question, picture: Picture) -> Estimate | None:
    """The fused estimate of drug lung injury; where it may rest on a film, only beside one it may speak of."""
    if q.case.assessment is None or may_be_a_child(q):
        return None
    estimate = q.case.assessment.estimates.get(PNEUMONITIS)
    if estimate is None or estimate.probability is None:
        return None
    # A final report of the film outranks the model, so its line is left out beside one.
    return estimate if picture.source == "film" or "imaging" not in estimate.rested_on else None


def _likely(q: Question, estimate: Estimate) -> bool:
    limit = q.case.service.thresholds[PNEUMONITIS]["high"]
    p = answered(estimate, limit)
    return p is not None and p >= limit


def _model(q: Question, picture: Picture, estimate: Estimate | None) -> str:
    if q.case.assessment is None:
        return ""
    if estimate is not None:
        return model_line(q.case.assessment, estimate)
    return model_line(q.case.assessment, picture.finding.estimate) if picture.finding is not None else ""


def _unknown(q: Question, picture: Picture, signs: Signs, estimate: Estimate | None) -> tuple[str, ...]:
    found = []
    if picture.prior is None:
        found.append("an earlier picture to compare with")
    if picture.source == "film":
        found.append("a final report of the film")
    found += signs.missing
    if not q.drivers:
        found.append("a driver variant of the tumour (none found)")
    if q.record.age_years() is None and estimate is not None:
        found.append("age")
    return q.unknown(*found)


def _advice(signs: Signs) -> str:
    signal = "Little speaks for infection. " if signs.quiet else ""
    if signs.loud:
        verb = "speaks" if len(signs.loud) == 1 and signs.loud[0] != "white cells" else "speak"
        signal = f"{' and '.join(signs.loud).capitalize()} {verb} for infection. "
    breath = "The patient is breathless or short of oxygen. " if signs.breathless else ""
    return (
        f"{signal}{breath}Infection, fluid and progression remain possible: CT of the chest tells them apart "
        "better, and the suspected drug is held until then. Antibiotics stay as ordered."
    )


# --- what can be done ------------------------------------------------------------------------------------------------


def _suggestions(
    q: Question, suspects: tuple[Event, ...], held: tuple[Order, ...], picture: Picture
) -> tuple[Suggestion, ...]:
    found = []
    ct = None if _ct_known(q) else ordering.study(q.case, CT_CHEST, "CT chest without contrast", priority="urgent")
    if ct is not None:
        found.append(Suggestion("Order CT chest", (ct,)))
    names = " and ".join(dict.fromkeys(ingredient(e) for e in suspects[:2]))
    why = f"Possible drug pneumonitis ({picture.source} {day(picture.at)}): held until CT chest"
    update = setting(q.case.service, "update_signed_orders") is True
    taken_now = [e for e in suspects[:2] if e.active]
    actions: list[Action] = [ordering.hold(q.case, e, why, update_allowed=update) for e in taken_now]
    actions += [a for o in held if (a := drafts.hold(o, why)) is not None]
    if actions:
        found.append(Suggestion(f"Hold {plain_text(names, 60)}", tuple(actions)))
    return tuple(found)


def _ct_known(q: Question) -> bool:
    """A chest CT is being ordered, is on order, or was reported within the last days."""
    if any(o.imaging is not None and _is_ct(o.codes) for o in q.record.orders):
        return True
    return any(
        _is_ct(r.codes) and r.at is not None and q.record.age_of(r.at) <= CT_WINDOW and r.final
        for r in q.record.reports
    )


def _is_ct(codes: tuple[tuple[str, str], ...]) -> bool:
    study = find_imaging_order(codes)
    return (
        study is not None and study.modality in ("CT", "CTA") and study.duplicate_group.startswith(("ct_chest", "ctpa"))
    )
