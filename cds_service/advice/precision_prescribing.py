"""precision-prescribing: will this drug work, and is it safe, in this patient's genes, rhythm and kidney?

Rules PGX (one for each row of tables/pgx.csv), PGX-TEST, QT-01, QT-02 and NEPH-01. No model takes part. Findings about
one drug share a card; findings about other drugs of the same call are named on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from cds_service.advice.gate import closed
from cds_service.advice.packs import care
from cds_service.advice.packs.genes import GeneState, gene_states
from cds_service.advice.prescribing import MAX_SUGGESTIONS, Finding, Ordered, order_words, ordered_drugs
from cds_service.advice.prescribing_genes import gene_finding
from cds_service.advice.prescribing_kidney import kidney_finding
from cds_service.advice.prescribing_rhythm import rhythm_finding
from cds_service.advice.writing import Fact, card, detail, fitting, override_reasons, rule_line
from cds_service.cards import Card, Suggestion, new_uuid
from cds_service.markdown import escape_markdown
from fhir_mappers.codes import ICD10_SYSTEMS, RXNORM, find_drugs

if TYPE_CHECKING:
    from cds_service.consult import Case

REASONS = override_reasons(
    (("tolerated", "Tolerated before at this dose"), ("specialist", "Specialist decision")),
    without=("action-completed", "patient-refuses"),
)
RESEARCH = "Z006"
"""ICD-10-CM Z00.6: participant in a clinical research program, whose protocol decides."""
LOUDEST_FIRST = {"critical": 0, "warning": 1, "info": 2}
FIRST_RULES = ("QT-02", "PGX", "QT-01", "NEPH-01")
SAID_LIMIT = 560
"""Characters of a card's sentences: what is left of 1,200 holds the table, what is not known, and the rule."""


def advise(case: Case) -> list[Card]:
    """At most one card."""
    if closed(case) or _in_research(case):
        return []
    drugs = ordered_drugs(case)
    if not drugs:
        return []
    states = gene_states(case.record)
    found = [finding for drug in drugs for finding in _findings(case, drug, states)]
    return [_card(case, sorted(found, key=_rank))] if found else []


def _findings(case: Case, drug: Ordered, states: Mapping[str, GeneState]) -> Sequence[Finding]:
    if _statin_in_palliative_care(case, drug):
        return []
    judged = (rule(case, drug, states) for rule in (gene_finding, rhythm_finding, kidney_finding))
    return [finding for finding in judged if finding is not None]


def _in_research(case: Case) -> bool:
    return any(
        event.active and any(s in ICD10_SYSTEMS and c.replace(".", "").upper() == RESEARCH for s, c in event.codes)
        for event in case.record.events
    )


def _statin_in_palliative_care(case: Case, drug: Ordered) -> bool:
    """The harm of a statin, and its benefit, come later than the care is about."""
    classes = {d.class_id for d in find_drugs(((RXNORM, drug.rxcui),))}
    return "statin" in classes and bool(case.record.active("palliative"))


def _rank(finding: Finding) -> tuple[int, int, str]:
    kind = "PGX" if finding.rule_id.startswith("PGX") else finding.rule_id
    return LOUDEST_FIRST[finding.indicator], FIRST_RULES.index(kind), finding.rule_id


def _card(case: Case, findings: Sequence[Finding]) -> Card:
    first = findings[0]
    same = [f for f in findings if f.drug.rxcui == first.drug.rxcui]
    other = [f for f in findings if f.drug.rxcui != first.drug.rxcui]
    named = [*same, *other[:2]]
    service = msgspec.structs.replace(case.service, rules={f.rule_id: f.rule for f in named})
    rules = tuple(dict.fromkeys(f.rule_id for f in named))
    made = card(
        service,
        *rules,
        uuid=new_uuid(),
        orders=[order for name in {f.drug.rxcui: f.drug for f in named}.values() for order in name.orders],
        deciding=[" ".join((f.rule_id, f.drug.name, *f.deciding)) for f in named],
        indicator=first.indicator,
        summary=fitting(*first.summaries),
        detail=detail(
            why=_why(first.drug),
            facts=[*_facts(case, same), *(fact for f in other[:2] for fact in f.facts[:1])],
            advice=_said(same, other),
            unknown=tuple(dict.fromkeys(text for f in named for text in f.unknown)),
            rule=rule_line(service, *rules),
        ),
        suggestions=_suggestions(same, other),
        reasons=REASONS,
    )
    links = {link.url: link for link in (*made.links, *(link for f in named for link in f.links))}
    # Two ways to replace one draft exclude each other; a replacement and an electrolyte do not.
    removed = [a.resource_id for s in made.suggestions for a in s.actions if a.type == "delete"]
    behaviour = "at-most-one" if len(removed) > len(set(removed)) else made.selection_behavior
    return msgspec.structs.replace(made, links=tuple(links.values()), selection_behavior=behaviour)


def _why(drug: Ordered) -> str:
    more = len(drug.orders) - 1
    return f"Ordered: {order_words(drug.first)}" + (
        f", and {more} more order{'s' if more > 1 else ''} of it." if more else "."
    )


def _facts(case: Case, same: Sequence[Finding]) -> list[Fact]:
    found = list(dict.fromkeys(fact for finding in same for fact in finding.facts))
    if care.not_for_resuscitation(case.record):
        found.append(Fact("Code status", "do not resuscitate", "", "Goals of care"))
    return found


def _said(same: Sequence[Finding], other: Sequence[Finding]) -> str:
    """The sentences that fit, the most important first; what concerns other drugs keeps its place at the end."""
    also = [f"Also: {escape_markdown(fitting(f.summaries[-1]), 139)}" for f in other[:2]]
    if len(other) > len(also):
        also.append(f"And {len(other) - len(also)} more.")
    room = SAID_LIMIT - sum(len(a) + 1 for a in also)
    kept: list[str] = []
    for sentence in dict.fromkeys(s for finding in same for s in finding.sentences):
        if sum(len(k) + 1 for k in kept) + len(sentence) <= room or not kept:
            kept.append(sentence)
    return " ".join([*kept, *also])


def _suggestions(same: Sequence[Finding], other: Sequence[Finding]) -> tuple[Suggestion, ...]:
    """At most three: what replaces a draft before what removes it, and beside other drugs one replacement for each."""
    given = [s for finding in same for s in finding.suggestions]
    given += [s for finding in other[:2] for s in finding.suggestions[:1]]
    replaced = {ref for s in given if _adds(s) for ref in _removes(s)}
    kept: dict[str, Suggestion] = {}
    taken: set[str] = set()
    for suggestion in given:
        gone = _removes(suggestion)
        if (gone & replaced and not _adds(suggestion)) or (other and gone & taken):
            continue
        first = suggestion.is_recommended and not any(s.is_recommended for s in kept.values())
        kept.setdefault(suggestion.label, msgspec.structs.replace(suggestion, is_recommended=first))
        taken |= gone
    return tuple(kept.values())[:MAX_SUGGESTIONS]


def _removes(suggestion: Suggestion) -> set[str]:
    return {a.resource_id for a in suggestion.actions if a.type == "delete" and a.resource_id}


def _adds(suggestion: Suggestion) -> bool:
    return any(a.type == "create" for a in suggestion.actions)
