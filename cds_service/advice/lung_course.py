"""Under treatment: progression that asks for another look at the genes (LC-05), and drugs that do not go together
(LC-06)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cds_service.advice import drafts, ordering
from cds_service.advice.lung_drivers import order_sequencing, sequencing_pending
from cds_service.advice.lung_question import (
    REASONS,
    Question,
    driver_row,
    goals_rows,
    ingredient,
    named,
    staging_unknown,
    tumour_row,
)
from cds_service.advice.packs.nsclc import KINASE_INHIBITORS, ingredients
from cds_service.advice.packs.qt import HIGH_MS, rhythm
from cds_service.advice.packs.recist import Progression, progression
from cds_service.advice.writing import (
    Fact,
    as_printed,
    band,
    card,
    day,
    detail,
    fitting,
    hours,
    number,
    rule_line,
    rule_on,
    setting,
    shown,
    taken,
)
from cds_service.cards import Action, Card, Suggestion
from cds_service.markdown import plain_text
from fhir_mappers.record import Coded, Event, Order

# --- LC-05 -----------------------------------------------------------------------------------------------------------


def progression_card(q: Question) -> Card | None:
    """LC-05: on a kinase inhibitor, measured or imaged progression, and no sequencing since."""
    service, record = q.case.service, q.record
    rule = rule_on(service, "LC-05")
    drafted = {o.ref for o in record.drafts()}
    taken_now = [
        e for e in record.active(*KINASE_INHIBITORS) if e.kind == "medication" and e.source.reference not in drafted
    ]
    if rule is None or not taken_now or q.lacks("genes", "variants", "orders") or sequencing_pending(q):
        return None
    window = hours(service, "progression_h")
    grown = progression(record.lesions)
    grown = grown if grown is not None and record.age_of(grown.now.at) <= window else None
    trend = next((c for c in record.coded if c.name == "disease_status"), None)
    worse = trend if trend is not None and trend.meaning == "worse, imaging" else None
    worse = worse if worse is not None and worse.at is not None and record.age_of(worse.at) <= window else None
    at = grown.now.at if grown is not None else worse.at if worse is not None else None
    drug = taken_now[0]
    if at is None or (drug.start is not None and drug.start >= at):
        return None
    if any(g.origin != "germline" and g.at is not None and g.at >= at for g in record.genes):
        return None
    name = ingredient(drug)
    said = f"target sum +{grown.percent} % since {day(grown.nadir.at)}" if grown is not None else "worse on imaging"
    return card(
        service,
        "LC-05",
        uuid=q.uuid,
        deciding=(name, day(at)),
        indicator="info",
        summary=fitting(
            f"Progression on {name} ({said}, {day(at)}): repeat tissue or plasma sequencing for resistance.",
            f"Progression on a kinase inhibitor ({day(at)}): repeat tissue or plasma sequencing.",
        ),
        detail=detail(
            why=f"Imaging of {day(at)} shows progression under {plain_text(name, 60)}.",
            facts=[
                *_grown_rows(grown),
                *_trend_rows(worse),
                Fact(name.capitalize(), drug.text or name, day(drug.start), "Medication list"),
                *(driver_row(f) for f in q.drivers[:1]),
                tumour_row(q),
                *goals_rows(record),
            ],
            advice="Resistance (EGFR T790M or C797S, MET amplification, change to small cell) decides the next line. "
            "Tissue shows a change of type that plasma cannot.",
            unknown=q.unknown(*staging_unknown(q)),
            rule=rule_line(service, "LC-05"),
        ),
        suggestions=order_sequencing(q),
        reasons=REASONS,
    )


def _grown_rows(grown: Progression | None) -> list[Fact]:
    if grown is None:
        return []
    count = len(grown.now.lesions)
    value = f"{number(grown.now.total_mm)} mm, {count} tumour{'s' if count > 1 else ''}"
    return [
        Fact("Sum of diameters", value, day(grown.now.at), "Radiology"),
        Fact("Smallest sum before", f"{number(grown.nadir.total_mm)} mm", day(grown.nadir.at), "Radiology"),
    ]


def _trend_rows(worse: Coded | None) -> list[Fact]:
    return [] if worse is None else [Fact("Disease status", "worse, judged on imaging", day(worse.at), "Oncology")]


# --- LC-06 -----------------------------------------------------------------------------------------------------------

ACID_DEPENDENT = frozenset({"erlotinib", "gefitinib"})
STRONG_INDUCERS = frozenset({"rifampin", "carbamazepine", "phenytoin", "fosphenytoin"})
"""Strong CYP3A inducers among the drugs of the tables (FDA table of inducers)."""

Kind = Literal["acid", "inducer"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A tumour drug and what it does not go together with; at least one of them is a draft just touched."""

    kind: Kind
    drug: Order | Event
    other: Order | Event

    @property
    def names(self) -> tuple[str, str]:
        return ingredient(self.drug), ingredient(self.other)


def interaction_card(q: Question) -> Card | None:
    """LC-06: a pair of drugs, or osimertinib with a long QTc."""
    service = q.case.service
    rule = rule_on(service, "LC-06")
    if rule is None:
        return None
    pair = _pair(q)
    if pair is None:
        return _rhythm_card(q)
    drug, other = pair.names
    if pair.kind == "acid":
        does = "absorption falls and treatment may fail"
        summary = f"{drug.capitalize()} with {other}: less is absorbed; stop {other} or use an antacid hours apart."
        advice = (
            f"Without stomach acid less {drug} is absorbed. The label advises against proton pump inhibitors; an "
            "antacid some hours apart is the alternative."
        )
    else:
        does = "levels fall and liver injury is severe"
        summary = f"{drug.capitalize()} with {other}: contraindicated, severe liver injury; do not combine."
        advice = (
            f"Strong CYP3A inducers with {drug} caused severe liver injury in most volunteers, and its label "
            f"contraindicates them: {other} is stopped for three plasma half-lives first."
        )
    return card(
        service,
        "LC-06",
        uuid=q.uuid,
        deciding=(pair.kind, drug, other),
        indicator=rule.tier,
        summary=fitting(summary, f"{drug.capitalize()} with {other}: do not combine."),
        detail=detail(
            why=f"Both are ordered or taken: {does}.",
            facts=[_drug_row(pair.drug), _drug_row(pair.other), tumour_row(q), *goals_rows(q.record)],
            advice=advice,
            unknown=q.unknown(),
            rule=rule_line(service, "LC-06"),
        ),
        suggestions=_separate(q, pair),
        reasons=REASONS,
    )


def _pair(q: Question) -> Pair | None:
    drafted = {o.ref for o in q.record.drafts()}
    taken_now: list[Order | Event] = [
        e for e in q.record.events if e.kind == "medication" and e.active and e.source.reference not in drafted
    ]
    items: list[Order | Event] = [*(o for o in q.record.drafts() if o.kind == "medication"), *taken_now]
    for drug in items:
        for other in items:
            if drug is other or not any(x is y for x in (drug, other) for y in q.drugs):
                continue
            names, others = set(ingredients(drug.codes)), set(ingredients(other.codes))
            if names & ACID_DEPENDENT and "ppi" in other.concepts:
                return Pair("acid", drug, other)
            if "lorlatinib" in names and others & STRONG_INDUCERS:
                return Pair("inducer", drug, other)
    return None


def _drug_row(item: Order | Event) -> Fact:
    draft = isinstance(item, Order)
    start = item.authored if isinstance(item, Order) else item.start
    return Fact(
        ingredient(item).capitalize(), item.text or "ordered", day(start), "Draft order" if draft else "Medication list"
    )


def _separate(q: Question, pair: Pair) -> tuple[Suggestion, ...]:
    """What is only a draft is removed; of two standing side by side, the one that is not the tumour drug."""
    drug, other = pair.names
    if isinstance(pair.other, Order):
        actions = drafts.remove(pair.other)
        return (Suggestion(f"Remove the {other} draft", actions),) if actions else ()
    update = setting(q.case.service, "update_signed_orders") is True
    found = [
        Suggestion(
            f"Set {other} on hold",
            (ordering.hold(q.case, pair.other, f"Not together with {drug}", update_allowed=update),),
        )
    ]
    if isinstance(pair.drug, Order) and pair.kind == "inducer":
        held: Action | None = drafts.hold(pair.drug, f"Not before {other} is stopped for three half-lives")
        if held is not None:
            found.append(Suggestion(f"Hold the {drug} draft", (held,)))
    return tuple(found)


def _rhythm_card(q: Question) -> Card | None:
    """Osimertinib ordered although QTc is long by rule QT-01, where no other service of the site says so."""
    service = q.case.service
    if setting(service, "osimertinib_qtc_here") is not True:
        return None
    order = next((o for o in q.drugs if "osimertinib" in ingredients(o.codes)), None)
    if order is None:
        return None
    state = rhythm(q.record, order)
    qtc = state.qtc.lab
    if qtc is None or not state.sets or qtc.preliminary:
        return None
    why = f"QTc {as_printed(qtc)} ({day(qtc.at)})"
    held = drafts.hold(order, f"{why}: held until QTc is below {HIGH_MS:.0f} ms")
    rows = [Fact("QTc", shown(qtc), taken(qtc), "Electrocardiogram")]
    rows += [Fact("Earlier QTc", shown(state.lead), taken(state.lead), "Electrocardiogram")] if state.lead else []
    rows += [
        Fact(lab.name, shown(lab), taken(lab), "Laboratory")
        for lab in (state.potassium.lab, state.magnesium.lab)
        if lab is not None
    ]
    return card(
        service,
        "LC-06",
        uuid=q.uuid,
        orders=(order,),
        deciding=(f"QTc {band(qtc.value, 481, 501, 550)}",),
        indicator=service.rules["LC-06"].tier,
        summary=fitting(f"{why}: osimertinib prolongs it; correct and repeat the ECG before starting."),
        detail=detail(
            why=f"Osimertinib was ordered: {named((order,))}. {state.sets[0]}.",
            facts=[*rows, tumour_row(q), *goals_rows(q.record)],
            advice="The label withholds osimertinib at a QTc above 500 ms until it is below 481 ms or at baseline. "
            "Potassium, magnesium and other drugs that prolong it come first.",
            unknown=q.unknown(),
            rule=rule_line(service, "LC-06"),
        ),
        suggestions=(Suggestion("Hold the osimertinib draft", (held,)),) if held is not None else (),
        reasons=REASONS,
    )
