"""pe-imaging: is CT pulmonary angiography the right next test? Rules PE-01, PE-02, PE-03 and PE-06, and every silence.

A rule fires only if it holds for the worst case of whatever nobody charted or answered. Pregnancy (PE-04) and scans
that contrast forbids (PE-05) are in `pe_alternatives`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cds_service.advice import drafts, ordering
from cds_service.advice.gate import closed
from cds_service.advice.packs import care
from cds_service.advice.packs.wells import UNLIKELY
from cds_service.advice.pe_alternatives import lung_scan_card, pregnancy_card
from cds_service.advice.pe_facts import Suspicion, long_stay, read_suspicion
from cds_service.advice.pe_wording import (
    D_DIMER_CODES,
    REASONS,
    d_dimer_fact,
    d_dimer_order,
    model_text,
    only_missing,
    scan_name,
    unknown,
    wells_facts,
)
from cds_service.advice.prior_studies import Prior, priors, sentences, since
from cds_service.advice.writing import (
    Fact,
    as_printed,
    card,
    detail,
    fitting,
    in_unit_of,
    moment,
    rule_line,
    rule_on,
    setting,
)
from cds_service.cards import Card, Suggestion, new_uuid
from cds_service.markdown import escape_markdown, plain_text
from fhir_mappers.record import Order

if TYPE_CHECKING:
    from cds_service.consult import Case

ADULT = 18
ANTICOAGULANTS = ("doac", "vka")
SCANNED = frozenset({"ctpa", "vq", "cta_chest"})
QUOTE_CHARS = 70


def advise(case: Case) -> list[Card]:
    """At most one card."""
    orders = _scans(case)
    if closed(case) or not drafts.touched(case, orders) or care.under(case.record, ADULT) is not False:
        return []
    if care.emergency(case.record, orders) or _known_or_treated(case):
        return []
    s = read_suspicion(case, orders)
    if s.ddimer.state == "unusable":
        return []
    found = _no_scan_card(s)
    if found is None and s.pregnant:
        # Wells is not made for pregnancy: its charted points silence nothing here, and PERC rules nothing out.
        found = pregnancy_card(s)
    elif found is None and s.wells.least <= UNLIKELY and s.ddimer.state not in ("above", "open"):
        found = _perc_card(s) or _d_dimer_first_card(s) or lung_scan_card(s) or _repeat_card(s)
    return [found] if found else []


def _scans(case: Case) -> tuple[Order, ...]:
    """The drafts the manifest takes for a scan for embolism."""
    concerned = case.service.applies_to.get(case.request.hook)
    return tuple(o for o in case.record.drafts() if concerned is not None and concerned.order(o))


def _known_or_treated(case: Case) -> bool:
    """Embolism is known, so the scan follows it; or it is treated already.

    Heparin counts whatever its dose, which is text: a treatment started on suspicion looks like prophylaxis. Tablets
    for atrial fibrillation were not started for embolism.
    """
    record = case.record
    tablets = record.active(*ANTICOAGULANTS) and not record.active("afib")
    return bool(record.active("pe_current") or record.active("heparin") or tablets)


# --- PE-01 -----------------------------------------------------------------------------------------------------------


def _no_scan_card(s: Suspicion) -> Card | None:
    """PE-01: D-dimer below the limit that holds whatever is open, and embolism unlikely whatever is open."""
    rule, lab, limit = rule_on(s.case.service, "PE-01"), s.ddimer.lab, s.ddimer.limit
    if rule is None or s.ddimer.state != "below" or lab is None or limit is None or s.wells.most > UNLIKELY:
        return None
    # With signs in the legs, or nobody having looked, ultrasound comes first in pregnancy (YEARS 2019).
    if s.pregnant and s.wells.leg_signs is not False:
        return None
    firm = not lab.preliminary
    value, upper = as_printed(lab), in_unit_of(lab, limit.value)
    number, score = upper.partition(" ")[0], f"{s.wells.most:g}"
    name = scan_name(s.orders)
    actions = drafts.remove(*s.orders)
    years = (
        f"The YEARS limit with {'no items' if s.wells.years[1] == 0 else f'up to {s.wells.years[1]} items'} is {upper}."
    )
    limits = {
        "age-adjusted": f"Above 50 years the limit is age x 10 ng/mL FEU, or x 5 DDU: {upper} here.",
        "YEARS": years,
        "fixed": f"Up to 50 years the limit is {upper}.",
    }
    low = f"Wells is at most {score}"
    rest = "Wells is 4 or less"
    if s.pregnant:
        low, rest = f"YEARS in pregnancy counts at most {s.wells.years[1]} items", "it is below the limit of YEARS"
    return card(
        s.case.service,
        "PE-01",
        uuid=new_uuid(),
        orders=s.orders,
        deciding=("D-dimer below", limit.rule),
        indicator=rule.tier if firm else "info",
        summary=fitting(
            f"D-dimer {value} is below the limit {number} for this patient and {low}: {name} not needed.",
            f"D-dimer {value} is below the limit {number} and {low}: {name} not needed.",
        ),
        detail=detail(
            why=f"Ordered: {name}. D-dimer rules embolism out where {rest}.",
            facts=[d_dimer_fact(s), *wells_facts(s)],
            advice=f"{limits[limit.rule]} Open items are counted as present.",
            unknown=unknown(s),
            model=model_text(s.case),
            rule=rule_line(s.case.service, "PE-01"),
        ),
        suggestions=(Suggestion(f"Remove the order: {name}", actions, is_recommended=firm and _certain(s)),)
        if actions
        else (),
        reasons=REASONS,
        choose="at-most-one",
    )


def _certain(s: Suspicion) -> bool:
    """Whether the removal may be recommended: nothing was out of reach, and the guideline is strong for this patient.

    In pregnancy it is not (ESC 2019: should be considered).
    """
    return not s.pregnant and not only_missing(s.case)


# --- PE-06, PE-02, PE-03 ---------------------------------------------------------------------------------------------


def _perc_card(s: Suspicion) -> Card | None:
    """PE-06: the clinician has stated a low suspicion, and all eight criteria are known to be absent."""
    rule = rule_on(s.case.service, "PE-06")
    if rule is None or s.low_suspicion is not True or not s.perc.negative or s.ddimer.state != "none":
        return None
    name, actions = scan_name(s.orders), drafts.remove(*s.orders)
    facts = [Fact("Suspicion", "low, as stated with the order", moment(s.case.record.as_of), "Order questions")]
    ages = s.case.record.age_years()
    if ages is not None:
        facts.append(Fact("Age", f"{ages[1]} years", "", "Patient"))
    facts.append(Fact("PERC", "none of the 8 criteria present", "", "Chart, order questions"))
    return card(
        s.case.service,
        "PE-06",
        uuid=new_uuid(),
        orders=s.orders,
        deciding=("PERC negative",),
        indicator="info",
        summary=f"Low suspicion stated and PERC negative: {name} and D-dimer not needed.",
        detail=detail(
            why=f"Ordered: {name}, with a low suspicion of embolism.",
            facts=[*facts, *wells_facts(s)[:2]],
            advice="With low suspicion and none of the eight PERC criteria, embolism is ruled out without a test.",
            unknown=unknown(s, d_dimer=False),
            model=model_text(s.case),
            rule=rule_line(s.case.service, "PE-06"),
        ),
        suggestions=(Suggestion(f"Remove the order: {name}", actions),) if actions else (),
        reasons=REASONS,
        choose="at-most-one",
    )


def _d_dimer_first_card(s: Suspicion) -> Card | None:
    """PE-02: no D-dimer of the day, embolism unlikely whatever is open, and a patient in whom D-dimer can help."""
    rule, record = rule_on(s.case.service, "PE-02"), s.case.record
    if rule is None or s.wells.most > UNLIKELY or s.ddimer.state != "none" or s.pregnancy.state != "not_pregnant":
        return None
    if s.wells.surgery_or_bedrest is not False or s.wells.active_cancer is not False:
        return None
    if long_stay(record) is not False or ordering.ordered(record.orders, D_DIMER_CODES):
        return None
    name, score = scan_name(s.orders), f"{s.wells.most:g}"
    removed = drafts.remove(*s.orders)
    label = f"Order D-dimer and remove {name}" if removed else "Order D-dimer"
    history = s.ddimer.history
    none = Fact("D-dimer", "none in 24 h", "", "Laboratory")
    if history is not None:
        none = Fact("D-dimer, older than 24 h", as_printed(history), moment(history.at), "Laboratory")
    return card(
        s.case.service,
        "PE-02",
        uuid=new_uuid(),
        orders=s.orders,
        deciding=("no D-dimer",),
        indicator=rule.tier,
        summary=f"Wells at most {score}, no D-dimer in 24 h: order D-dimer before {name}.",
        detail=detail(
            why=f"Ordered: {name}, without a D-dimer.",
            facts=[none, *wells_facts(s)],
            advice="Where Wells is 4 or less a D-dimer comes first; below its limit no scan is needed. "
            "Open items are counted as present.",
            unknown=unknown(s, d_dimer=False),
            model=model_text(s.case),
            rule=rule_line(s.case.service, "PE-02"),
        ),
        suggestions=(Suggestion(label, (d_dimer_order(s.case), *removed), is_recommended=not only_missing(s.case)),),
        reasons=REASONS,
        choose="at-most-one",
    )


def _repeat_card(s: Suspicion) -> Card | None:
    """PE-03: a scan for embolism of the last days with a final report, and nothing new since. Off where TM-01 is on."""
    rule, record = rule_on(s.case.service, "PE-03"), s.case.record
    days = timedelta(days=float(setting(s.case.service, "repeat_days")))
    done = next((p for p in priors(record) if p.imaging.duplicate_group in SCANNED and p.final), None)
    if rule is None or done is None or record.age_of(done.at) > days or since(record, done.at, s.orders[0]).event:
        return None
    return card(
        s.case.service,
        "PE-03",
        uuid=new_uuid(),
        orders=s.orders,
        deciding=(f"{done.name} {moment(done.at)}",),
        indicator="info",
        summary=fitting(f"{done.name} done {moment(done.at)}: {_quote(done)}."),
        detail=detail(
            why=f"A scan for embolism was done on {moment(done.at)}. Conclusion: "
            f"{escape_markdown(done.conclusion, 300) or 'none given'}",
            facts=[Fact(done.name, "final report", moment(done.at), "Radiology"), *wells_facts(s)[:2]],
            advice="Nothing on record since then makes it a new question.",
            unknown=unknown(s, d_dimer=False),
            rule=rule_line(s.case.service, "PE-03"),
        ),
        reasons=REASONS,
    )


def _quote(prior: Prior) -> str:
    said = sentences(prior.conclusion)
    return plain_text(said[0].rstrip("."), QUOTE_CHARS) if said else "the report has no conclusion"
