"""What is said when contrast meets a kidney known to be weak: IS-01 (prophylaxis) and IS-03 (metformin), one card.

Necessary CT is not withheld: the card offers fluids, a study without contrast and the metformin hold, and never
says that contrast is forbidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from cds_service.advice import ordering
from cds_service.advice.contrast_question import REASONS, Question, code_status
from cds_service.advice.packs import care
from cds_service.advice.writing import (
    Fact,
    as_printed,
    band,
    card,
    day,
    detail,
    fitting,
    in_unit_of,
    rule_line,
    rule_on,
    setting,
    shown,
    span,
    taken,
)
from cds_service.cards import Action, Card, Suggestion
from fhir_mappers.record import Event, Lab

EGFR_LIMIT = 30.0
"""ACR-NKF 2020: prophylaxis is indicated below this, or in acute kidney injury, off dialysis."""
FDA_EGFR_LIMIT = 60.0
FDA_RISKS = ("liver_disease", "alcohol", "heart_failure")
HOLD = timedelta(hours=48)
FLUID_RISKS = ("heart_failure", "chf", "pulmonary_oedema")
ANURIA = "R34"
Concern = Literal["acute", "low", "changing", "fda"]
"""Acute kidney injury; stable eGFR below 30; below 30 but creatinine still changing; the FDA label's wider hold."""


def kidney_card(q: Question) -> Card | None:
    """The card of IS-01 and IS-03, whichever apply and are switched on."""
    service = q.case.service
    concern = _concern(q)
    if concern is None:
        return None
    prophylaxis = concern != "fda" and rule_on(service, "IS-01") is not None
    metformin = q.case.record.active("metformin") if rule_on(service, "IS-03") is not None else ()
    rules = [name for name, applies in (("IS-01", prophylaxis), ("IS-03", bool(metformin))) if applies]
    now = q.kidney.creatinine.lab
    if not rules or now is None:
        return None
    # A preliminary or unsteady value informs; it does not warn (DQ-1).
    firm = prophylaxis and concern != "changing" and not now.preliminary
    wording = _Wording(q, concern, now, prophylaxis, metformin)
    return card(
        service,
        *rules,
        uuid=q.uuid,
        orders=q.orders,
        deciding=_bands(q, concern),
        indicator=service.rules["IS-01"].tier if firm else "info",
        summary=wording.summary(),
        detail=detail(
            why=q.why,
            facts=wording.facts(),
            advice=wording.advice(),
            unknown=wording.unknown(),
            rule=rule_line(service, *rules),
        ),
        suggestions=_suggestions(wording, firm),
        reasons=REASONS,
    )


def _bands(q: Question, concern: Concern) -> tuple[str, ...]:
    """KDIGO 2012: the category of eGFR, the stage of an acute injury."""
    state = q.kidney
    egfr = state.egfr or state.calculated
    stage = f"injury stage {state.aki.stage}" if state.aki is not None else ""
    return concern, stage or (f"eGFR {band(egfr.high, 15, 30, 45, 60)}" if egfr is not None else "")


def _concern(q: Question) -> Concern | None:
    state = q.kidney
    if state.aki is not None:
        return "acute"
    if state.why_no_egfr == "creatinine changing":
        return "changing" if state.calculated is not None and state.calculated.below(EGFR_LIMIT) else None
    if state.egfr is None:
        return None
    if state.egfr.below(EGFR_LIMIT):
        return "low"
    if (
        setting(q.case.service, "metformin_policy") == "FDA"
        and state.egfr.below(EGFR_LIMIT) is False
        and state.egfr.below(FDA_EGFR_LIMIT)
        and q.case.record.active(*FDA_RISKS)
    ):
        return "fda"
    return None


@dataclass(frozen=True, slots=True)
class _Wording:
    """The sentences of one card."""

    q: Question
    concern: Concern
    now: Lab
    prophylaxis: bool
    metformin: tuple[Event, ...]

    @property
    def against_fluids(self) -> str:
        """What speaks against offering saline; under 18, or of unknown age, its volume is a specialist's."""
        record = self.q.case.record
        if record.active(*FLUID_RISKS):
            return "heart failure"
        if any(e.active and c.replace(".", "").startswith(ANURIA) for e in record.events for _, c in e.codes):
            return "anuria"
        return "" if care.under(record, 18) is False else "age under 18 or not known"

    def summary(self) -> str:
        egfr = self.q.kidney.egfr
        if egfr is not None:
            head = f"eGFR {egfr} ({day(self.now.at)})"
        else:
            state = "acute kidney injury" if self.concern == "acute" else "still changing"
            head = f"Creatinine {self._change()} ({state})"
        if not self.prophylaxis:
            return fitting(f"{head}, on metformin: hold metformin from the scan for 48 h.")
        fluids, other = not self.against_fluids, self.q.alternative
        if self.concern == "low":
            words = "fluids" if self.metformin else "plan fluid prophylaxis"
            plan = " or ".join(filter(None, (words, other))) if fluids else f"{other} is an option" if other else ""
            if self.metformin:
                return fitting(f"{head}, on metformin: hold metformin 48 h; {plan or 'contrast is not forbidden'}.")
            return fitting(f"{head}: {plan + '; ' if plan else ''}contrast is not forbidden.")
        hold = "hold metformin, " if self.metformin else ""
        do = (
            "recheck before contrast"
            if self.concern == "changing"
            else "give fluids and recheck"
            if fluids
            else "recheck"
        )
        use = f", or use {other}" if other else ""
        return fitting(f"{head}: {hold}{do}{use}.", f"{head}: {hold}{do}.")

    def _change(self) -> str:
        """`1.1 to 2.0 mg/dL in 2 d`, or against the median of the last year."""
        aki, last = self.q.kidney.aki, as_printed(self.now)
        earlier = self._earlier()
        if earlier is None:
            return f"{last}, usually {in_unit_of(self.now, aki.baseline)}" if aki is not None else last
        first = as_printed(earlier)
        if first.partition(" ")[2] == last.partition(" ")[2]:
            first = first.partition(" ")[0]
        return f"{first} to {last} in {span(self.now.at - earlier.at)}"

    def _earlier(self) -> Lab | None:
        """The result to show beside the newest: the one it rose from, else the one before it."""
        if self.q.kidney.aki is not None:
            return self.q.kidney.aki.before
        return next((x for x in self.q.kidney.creatinine.trend if x.at < self.now.at), None)

    def facts(self) -> list[Fact]:
        state, record = self.q.kidney, self.q.case.record
        sex = record.person.sex if record.person.sex != "unknown" else "sex not known"
        facts = []
        if state.egfr is not None:
            rounded_up = state.egfr.high < EGFR_LIMIT <= round(state.egfr.high)
            exact = f"{state.egfr.high:.1f} before rounding, " if rounded_up else ""
            value = f"{exact}creatinine {shown(self.now)} ({sex}, {self._age()})"
            facts.append(Fact(f"eGFR {state.egfr} mL/min/1.73 m2", value, taken(self.now), "Laboratory"))
        else:
            stage = f", injury stage {state.aki.stage}" if state.aki is not None else ""
            facts.append(Fact(f"Creatinine{stage}", shown(self.now), taken(self.now), "Laboratory"))
        earlier = self._earlier()
        if earlier is not None:
            facts.append(Fact("Earlier creatinine", shown(earlier), taken(earlier), "Laboratory"))
        elif state.aki is not None:
            usual = in_unit_of(self.now, state.aki.baseline)
            facts.append(Fact("Usual creatinine, median", usual, "8 to 365 days before", "Laboratory"))
        for event in self.metformin[:2]:
            dose = f"{event.dose}, " if event.dose and event.dose not in event.text else ""
            value = f"{event.text or 'metformin'}, {dose}active"
            facts.append(Fact("Metformin", value, day(event.start), "Medication list"))
        against = record.active(*FLUID_RISKS)[:1]
        facts += [Fact("Against fluids", e.text or "heart failure", day(e.start), "Problem list") for e in against]
        return [*facts, *code_status(record)]

    def _age(self) -> str:
        ages = self.q.case.record.age_years()
        if ages is None:
            return "age not known"
        return f"{ages[0]} y" if ages[0] == ages[1] else f"{ages[0]} to {ages[1]} y"

    def advice(self) -> str:
        parts = ["Contrast CT is acceptable if needed."]
        if self.prophylaxis:
            if self.concern == "changing":
                parts.append(
                    "While creatinine changes no eGFR is valid; this level would give one below 30. "
                    "Repeat creatinine first if the scan can wait."
                )
            fluids = "saline prophylaxis is advised" if not self.against_fluids else "contrast adds risk to the kidney"
            when = {"low": "Below eGFR 30", "acute": "In acute kidney injury"}.get(self.concern, "If it is below 30")
            parts.append(f"{when}, {fluids}.")
            if self.against_fluids:
                parts.append(f"Saline is not offered: {self.against_fluids}.")
        if self.metformin:
            parts.append("Metformin is held from the scan for 48 h, then restarted if creatinine is stable.")
        return " ".join(parts)

    def unknown(self) -> tuple[str, ...]:
        found = []
        if self.q.kidney.steady is None and self.q.kidney.aki is None:
            found.append("creatinine in the week before, so whether this is new")
        if self.now.preliminary:
            found.append("final creatinine (this one is preliminary)")
        return (*found, *self.q.unasked())


def _suggestions(w: _Wording, firm: bool) -> tuple[Suggestion, ...]:
    """At most three: another study; the metformin hold; fluids and the creatinine after contrast."""
    case = w.q.case
    found = [w.q.other_study()] if w.prophylaxis else []
    if w.metformin:
        update = setting(case.service, "update_signed_orders") is True
        why = "Iodinated contrast: held from the scan; restart after 48 h if creatinine is stable"
        actions = tuple(ordering.hold(case, event, why, update_allowed=update) for event in w.metformin)
        found.append(Suggestion("Hold metformin for 48 h", actions, is_recommended=firm))
    found.append(_fluids_and_recheck(w))
    return tuple(s for s in found if s is not None)


def _fluids_and_recheck(w: _Wording) -> Suggestion | None:
    case, record = w.q.case, w.q.case.record
    after = w.q.scan_at + HOLD
    actions: list[Action] = []
    labels = []
    running = record.active("fluid") or [o for o in record.orders if "fluid" in o.concepts]
    if w.prophylaxis and w.concern != "changing" and not w.against_fluids and not running:
        saline = ordering.saline(case)
        if saline is not None:
            actions.append(saline)
            labels.append("saline before contrast")
    creatinine = ordering.ordered(record.orders, ordering.CREATININE_CODES)
    if w.concern == "changing":
        if not any(ordering.due(o) is None for o in creatinine):
            actions.append(ordering.creatinine(case, priority="urgent"))
            labels.append("creatinine now")
    elif not any((at := ordering.due(o)) is not None and abs(at - after) <= HOLD / 2 for o in creatinine):
        actions.append(ordering.creatinine(case, after))
        labels.append("creatinine 48 h after contrast")
    return Suggestion(f"Order {' and '.join(labels)}", tuple(actions)) if actions else None
