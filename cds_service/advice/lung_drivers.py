"""Which drug for this tumour's genes: a checkpoint inhibitor before the driver is known (LC-01) or although one is
(LC-02), and drivers with options of their own (LC-03).

The card lists the options and never chooses between them; the one thing recommended is not to start the checkpoint
inhibitor first. Somatic results alone decide; what a report leaves open brings a card down to info.
"""

from __future__ import annotations

from cds_service.advice import drafts, ordering
from cds_service.advice.lung_question import (
    REASONS,
    Question,
    driver_row,
    goals_rows,
    ingredient,
    named,
    pdl1_rows,
    rxcui_of,
    staging_unknown,
    tumour_row,
)
from cds_service.advice.packs import nsclc
from cds_service.advice.packs.nsclc import CHECKPOINT, CHEMOTHERAPY, REQUIRED_GENES, TARGETED, Found
from cds_service.advice.packs.safe_to_offer import judge
from cds_service.advice.writing import Fact, card, day, detail, fitting, rule_line, rule_on, setting
from cds_service.cards import Card, Suggestion
from fhir_mappers.codes import LOINC_SYSTEMS
from fhir_mappers.record import Coded, Order
from fhir_mappers.tumours import GENETIC_REPORTS

MOST_OFFERS = 2
OPEN_DOSE = "dose to be entered"
SQUAMOUS = "squamous"


def _already_targeted(q: Question, found: Found | None = None) -> bool:
    """Driver therapy has been given or is being ordered: the driver was considered, or this is a later line."""
    classes = tuple(nsclc.classes_of(found.driver)) if found is not None else TARGETED
    ordered = any(o.concepts & frozenset(classes) for o in q.record.orders if o.kind == "medication")
    return bool(q.given(*classes)) or ordered


# --- LC-02 -----------------------------------------------------------------------------------------------------------


def driver_card(q: Question) -> Card | None:
    """LC-02: EGFR, ALK, ROS1 or RET driver, and a checkpoint inhibitor ordered before any matched drug was given."""
    service = q.case.service
    rule = rule_on(service, "LC-02")
    checkpoint = q.of(CHECKPOINT)
    found = next((f for f in q.drivers if f.driver.rule == "LC-02"), None)
    if rule is None or not checkpoint or found is None or q.tumour.advanced is False:
        return None
    if q.given(*TARGETED):
        return None
    earlier = q.given(CHECKPOINT)
    certain = not found.doubts and q.tumour.advanced is True and not earlier and not q.lacks("meds")
    name, drug = found.name, ingredient(checkpoint[0])
    first = " or ".join(" with ".join(option) for option in found.driver.options)
    when = f" ({day(found.result.at)})" if found.result.at is not None else ""
    lead = found.driver.options[0][0]
    do = "targeted therapy first" if certain else "targeted therapy comes first in advanced disease"
    facts = [driver_row(found), tumour_row(q), Fact("Ordered", checkpoint[0].text or drug, "", "Draft order")]
    facts += [Fact("Checkpoint inhibitor before", ingredient(e), day(e.start), "Medication list") for e in earlier[:1]]
    return card(
        service,
        "LC-02",
        uuid=q.uuid,
        orders=checkpoint,
        deciding=(found.name,),
        indicator=rule.tier if certain else "info",
        summary=fitting(
            f"{name}{when}: {do}; do not start {drug} before {first}.",
            f"{name}{when}: {do}; do not start {drug} before {lead}.",
            f"{found.driver.name}{when}: targeted therapy first; no checkpoint inhibitor before it.",
        ),
        detail=detail(
            why=f"A checkpoint inhibitor was ordered: {named(checkpoint)}.",
            facts=[*facts, *pdl1_rows(q.record), *goals_rows(q.record)],
            advice=_advice(found),
            unknown=q.unknown(*found.doubts, *staging_unknown(q)),
            rule=rule_line(service, "LC-02"),
        ),
        suggestions=(
            *_remove(checkpoint, drug, recommended=certain),
            *(() if found.doubts else _offers(q, found, checkpoint[0])),
        ),
        reasons=REASONS,
    )


def _advice(found: Found) -> str:
    pneumonitis = (
        " A checkpoint inhibitor given before osimertinib raises the risk of severe pneumonitis."
        if found.driver.gene == "EGFR"
        else ""
    )
    return (
        "Checkpoint inhibitors do little in tumours with this driver, whatever PD-L1 is. "
        f"Options, not a choice: {found.driver.note}. {found.driver.citation}.{pneumonitis}"
    )


def _remove(orders: tuple[Order, ...], drug: str, *, recommended: bool) -> tuple[Suggestion, ...]:
    actions = drafts.remove(*orders)
    return (Suggestion(f"Do not start {drug} first", actions, is_recommended=recommended),) if actions else ()


def _offers(q: Question, found: Found, replacing: Order | None) -> tuple[Suggestion, ...]:
    """Drafts of the first options that pass the safety check (L12), without a dose; regimens are offered whole."""
    offered = []
    for option in found.driver.options:
        codes = [rxcui_of(name) for name in option]
        judged = [judge(q.record, code, replacing=replacing) for code in codes if code]
        if not all(codes) or not all(offer.safe for offer in judged):
            continue
        actions = tuple(
            ordering.medication(
                q.case, o, f"{o.name.capitalize()}; dose to be entered", f"{o.name}, dose to be entered"
            )
            for o in judged
        )
        offered.append(Suggestion(f"Add a draft of {' and '.join(option)}", actions))
    return tuple(offered[:MOST_OFFERS])


# --- LC-01 -----------------------------------------------------------------------------------------------------------


def testing_card(q: Question) -> Card | None:
    """LC-01: a checkpoint inhibitor in advanced disease before EGFR and ALK are known, or on negative plasma."""
    service = q.case.service
    rule = rule_on(service, "LC-01")
    checkpoint = q.of(CHECKPOINT)
    if rule is None or not checkpoint or q.drivers or q.tumour.advanced is False or q.lacks("genes", "variants"):
        return None
    if q.given(*TARGETED) or q.given(CHECKPOINT) or not _histology_concerned(q):
        return None
    states = {gene: nsclc.gene_status(q.record, gene) for gene in REQUIRED_GENES}
    absent = [gene for gene, state in states.items() if state == "not tested"]
    plasma = [gene for gene, state in states.items() if state == "negative in plasma"]
    if not absent and not plasma:
        return None
    pending = _pending(q)
    report = next((c for c in q.record.coded if c.name == "genetic_report" and c.meaning == "final"), None)
    certain = q.tumour.advanced is True and bool(q.tumour.histology) and report is None and not q.lacks("meds")
    what = _incomplete(absent, plasma, pending=bool(pending))
    rows = [Fact(gene, state, _tested_on(q, gene), "Genomic result") for gene, state in states.items()]
    rows += [Fact("Genetic report, not coded", report.text or "final", day(report.at), "Report")] if report else []
    rows += [Fact("Testing", words, when, "Orders") for words, when in pending[:1]]
    seen = ("what the genetic report says: its results are not coded",) if report else ()
    return card(
        service,
        "LC-01",
        uuid=q.uuid,
        orders=checkpoint,
        deciding=tuple(f"{gene} {state}" for gene, state in states.items()),
        indicator=rule.tier if certain else "info",
        summary=fitting(
            f"Driver testing incomplete ({what}): hold checkpoint inhibitor this cycle.",
            "Driver testing incomplete: hold checkpoint inhibitor this cycle.",
        ),
        detail=detail(
            why=f"A checkpoint inhibitor was ordered: {named(checkpoint)}.",
            facts=[*rows, tumour_row(q), *pdl1_rows(q.record), *goals_rows(q.record)],
            advice="In advanced non-squamous lung cancer EGFR and ALK are known before a checkpoint inhibitor starts. "
            "A negative plasma test does not exclude a driver; tissue does. Chemotherapy need not wait.",
            unknown=q.unknown(*seen, *staging_unknown(q)),
            rule=rule_line(service, "LC-01"),
        ),
        suggestions=(*_hold(checkpoint), *(() if pending or report else order_sequencing(q, tissue_only=bool(plasma)))),
        reasons=REASONS,
    )


def _histology_concerned(q: Question) -> bool:
    return q.tumour.histology != SQUAMOUS or nsclc.never_smoked(q.record)


def _incomplete(absent: list[str], plasma: list[str], *, pending: bool) -> str:
    tissue = "tissue pending" if pending else "tissue not done"
    if plasma and not absent:
        return f"plasma negative, {tissue}"
    left = f"{' and '.join(absent)} {'pending' if pending else 'not tested'}"
    return f"{left}, {' and '.join(plasma)} negative in plasma only" if plasma else left


def _tested_on(q: Question, gene: str) -> str:
    return next((day(r.at) for r in q.record.genes if r.gene == gene and r.origin != "germline"), "")


def _pending(q: Question) -> tuple[tuple[str, str], ...]:
    """Sequencing that is ordered or under way: (what, when)."""
    codes = frozenset(str(setting(q.case.service, s)) for s in ("sequencing_tissue_code", "sequencing_plasma_code"))
    found: list[tuple[str, str]] = [
        (o.text or "sequencing ordered", day(o.authored))
        for o in q.record.orders
        if any(f"{s}|{c}" in codes or (s in LOINC_SYSTEMS and c in GENETIC_REPORTS) for s, c in o.codes)
    ]
    under_way: tuple[Coded, ...] = tuple(
        c for c in q.record.coded if c.name == "genetic_report" and c.meaning == "pending"
    )
    return (*found, *((c.text or "genetic report pending", day(c.at)) for c in under_way))


def sequencing_pending(q: Question) -> bool:
    return bool(_pending(q))


def order_sequencing(q: Question, *, tissue_only: bool = False) -> tuple[Suggestion, ...]:
    """Draft orders of sequencing under the site's own codes."""
    kinds = [("tissue", "sequencing_tissue_code")] + ([] if tissue_only else [("plasma", "sequencing_plasma_code")])
    found = []
    for kind, name in kinds:
        system, _, code = str(setting(q.case.service, name)).partition("|")
        text = f"next-generation sequencing of tumour {kind}" if kind == "tissue" else "plasma tumour sequencing"
        request = ordering.service_request(q.case, ordering.concept(system, code, text), priority="urgent")
        found.append(Suggestion(f"Order sequencing of {kind}", (request,)))
    return tuple(found)


def _hold(orders: tuple[Order, ...]) -> tuple[Suggestion, ...]:
    why = "Driver testing incomplete: held this cycle"
    actions = tuple(a for o in orders if (a := drafts.hold(o, why)) is not None)
    return (Suggestion("Hold the checkpoint inhibitor this cycle", actions),) if actions else ()


# --- LC-03 -----------------------------------------------------------------------------------------------------------


def options_card(q: Question) -> Card | None:
    """LC-03: another driver, chemotherapy or a checkpoint inhibitor ordered, and no matched drug on record."""
    service = q.case.service
    rule = rule_on(service, "LC-03")
    ordered = q.of(CHECKPOINT, *CHEMOTHERAPY)
    found = next((f for f in q.drivers if f.driver.rule == "LC-03"), None)
    if rule is None or not ordered or found is None or q.tumour.advanced is False or q.lacks("meds"):
        return None
    if _already_targeted(q, found) or any(f.driver.rule == "LC-02" for f in q.drivers):
        return None
    treated = q.given(CHECKPOINT, *CHEMOTHERAPY)
    now = found.driver.line == "first" or bool(treated)
    when = f" ({day(found.result.at)})" if found.result.at is not None else ""
    options = " or ".join(" with ".join(option) for option in found.driver.options)
    line = "matched therapy is an option" if now else "matched therapy is an option after first line"
    return card(
        service,
        "LC-03",
        uuid=q.uuid,
        orders=ordered,
        deciding=(found.name,),
        indicator="info",
        summary=fitting(
            f"{found.name}{when}: {line} ({options}).",
            f"{found.name}{when}: {line}.",
            f"{found.driver.name}{when}: {line}.",
        ),
        detail=detail(
            why=f"Treatment of lung cancer was ordered: {named(ordered)}; no matched drug is on record.",
            facts=[
                driver_row(found),
                tumour_row(q),
                *(Fact("Treated before", ingredient(e), day(e.start), "Medication list") for e in treated[:2]),
                *pdl1_rows(q.record),
                *goals_rows(q.record),
            ],
            advice=f"Options, not a choice: {found.driver.note}. {found.driver.citation}.",
            unknown=q.unknown(*found.doubts, *staging_unknown(q)),
            rule=rule_line(service, "LC-03"),
        ),
        suggestions=_offers(q, found, None) if now and not found.doubts else (),
        reasons=REASONS,
    )
