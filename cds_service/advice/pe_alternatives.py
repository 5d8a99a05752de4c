"""Another test than CT pulmonary angiography: in pregnancy (PE-04), and where contrast cannot be given (PE-05)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice import drafts, ordering
from cds_service.advice.packs.kidney import kidney
from cds_service.advice.packs.quality import below
from cds_service.advice.packs.safe_to_image import contrast_allergies
from cds_service.advice.packs.wells import YEARS_LIMIT, in_kind
from cds_service.advice.pe_facts import Suspicion, clear_film, weeks_pregnant
from cds_service.advice.pe_wording import (
    D_DIMER_CODES,
    REASONS,
    d_dimer_fact,
    d_dimer_order,
    full_name,
    leg_ultrasound_order,
    lung_scan_order,
    model_text,
    scan_name,
    unknown,
    wells_facts,
)
from cds_service.advice.writing import (
    Fact,
    as_printed,
    card,
    day,
    detail,
    fitting,
    in_unit_of,
    rule_line,
    rule_on,
    shown,
    taken,
)
from cds_service.cards import Card, Suggestion, new_uuid

if TYPE_CHECKING:
    from cds_service.consult import Case


# --- PE-04: pregnancy ------------------------------------------------------------------------------------------------


def pregnancy_card(s: Suspicion) -> Card | None:
    """PE-04: leg signs, no D-dimer, or a D-dimer below 1000 with open YEARS items."""
    rule = rule_on(s.case.service, "PE-04")
    legs, lab = s.wells.leg_signs is True, s.ddimer.lab
    items_open = s.wells.years[0] != s.wells.years[1]
    low = lab is not None and below(lab, in_kind(YEARS_LIMIT, s.ddimer.kind)) is True
    if rule is None or not (legs or s.ddimer.state == "none" or (low and items_open)):
        return None
    weeks = weeks_pregnant(s.case.record)
    who = "Pregnant" if weeks is None else f"Pregnant {weeks} weeks"
    name = scan_name(s.orders)
    if legs:
        summary = f"{who} with leg signs: leg vein ultrasound comes before {name}."
    elif lab is None:
        summary = f"{who}, no D-dimer in 24 h: YEARS needs D-dimer and three answers before {name}."
    else:
        limit = in_unit_of(lab, in_kind(YEARS_LIMIT, s.ddimer.kind)).partition(" ")[0]
        summary = f"{who}, D-dimer {as_printed(lab)}: YEARS limit is {limit} with no items; answer items before {name}."
    film = clear_film(s.case)
    because = s.pregnancy.because
    facts = [Fact("Pregnancy", because if weeks is None else f"{weeks} weeks, {because}", day(s.pregnancy.at), "Chart")]
    facts += [d_dimer_fact(s), *([film.fact] if film else []), *wells_facts(s)[:2]]
    return card(
        s.case.service,
        "PE-04",
        uuid=new_uuid(),
        orders=s.orders,
        deciding=("leg signs" if legs else "no leg signs", f"D-dimer {s.ddimer.state}"),
        indicator="info",
        summary=fitting(summary),
        detail=detail(
            why=f"Ordered in pregnancy: {name}.",
            facts=facts,
            advice="Pregnancy-adapted YEARS: leg signs ask for ultrasound first. Then embolism is ruled out by D-dimer "
            "below 1000 ng/mL FEU with no items, or below 500 with one or more.",
            unknown=unknown(s),
            model=model_text(s.case) or (film.model if film else ""),
            rule=rule_line(s.case.service, "PE-04"),
        ),
        suggestions=_in_pregnancy(s, legs=legs, clear=film is not None),
        reasons=REASONS,
        choose="at-most-one",
    )


def _in_pregnancy(s: Suspicion, *, legs: bool, clear: bool) -> tuple[Suggestion, ...]:
    """None is recommended: the evidence asks to consider, and the choice is the clinician's and the patient's."""
    case, removed = s.case, drafts.remove(*s.orders)
    orders = case.record.orders
    found = []
    legs_seen = leg_ultrasound_order(case) if legs else None
    if legs_seen is not None:
        found.append(Suggestion("Order leg vein ultrasound", (legs_seen,)))
    if not legs and s.ddimer.lab is None and not ordering.ordered(orders, D_DIMER_CODES):
        found.append(Suggestion("Order D-dimer", (d_dimer_order(case),)))
    scan = lung_scan_order(case) if clear and removed else None
    if scan is not None:
        found.append(Suggestion("Order a lung scan in place of CTPA", (scan, *removed)))
    if removed:
        found.append(Suggestion(f"Remove the order: {scan_name(s.orders)}", removed))
    return tuple(found)


# --- PE-05: contrast cannot be given ---------------------------------------------------------------------------------


def lung_scan_card(s: Suspicion) -> Card | None:
    """PE-05: acute kidney injury or a severe contrast allergy, and a last chest film that is clear."""
    rule, record = rule_on(s.case.service, "PE-05"), s.case.record
    angiogram = next((o for o in s.orders if o.imaging is not None and o.imaging.contrast == "iodinated_iv"), None)
    if rule is None or angiogram is None or ordering.ordered(record.orders, frozenset({ordering.LUNG_SCAN})):
        return None
    against = _against_contrast(s.case)
    film = clear_film(s.case)
    if against is None or film is None:
        return None
    words, fact = against
    uuid = new_uuid()
    change = ordering.change_study(s.case, angiogram, ordering.LUNG_SCAN, "Lung ventilation-perfusion scan", uuid)
    return card(
        s.case.service,
        "PE-05",
        uuid=uuid,
        orders=(angiogram,),
        deciding=(words,),
        indicator="info",
        summary=fitting(f"{words}, {film.words}: a lung scan can replace CTPA."),
        detail=detail(
            why=f"{full_name(angiogram)} needs iodinated contrast.",
            facts=[fact, film.fact, *wells_facts(s)[:2]],
            advice="With a clear chest film a ventilation-perfusion scan answers the question without contrast.",
            unknown=unknown(s),
            model=film.model or model_text(s.case),
            rule=rule_line(s.case.service, "PE-05"),
        ),
        suggestions=(Suggestion("Change to a lung ventilation-perfusion scan", (change,)),) if change else (),
        reasons=REASONS,
        choose="at-most-one",
    )


def _against_contrast(case: Case) -> tuple[str, Fact] | None:
    """What speaks against contrast, in words for a summary and as a fact."""
    allergy = next((a for a in contrast_allergies(case.record) if a.severity == "severe"), None)
    if allergy is not None:
        name = allergy.text or "iodinated contrast"
        return "Severe contrast allergy", Fact("Allergy, severe", name, day(allergy.onset), "Allergy list")
    state = kidney(case.record)
    if state.aki is None:
        return None
    words = f"Creatinine {as_printed(state.aki.now)} (acute kidney injury)"
    fact = Fact(f"Creatinine, injury stage {state.aki.stage}", shown(state.aki.now), taken(state.aki.now), "Laboratory")
    return words, fact
