"""The finding of a gene-drug row: what the patient's genes do to the ordered drug, and what to give instead.

The consequence comes first and in plain words; the genotype is the evidence, not the message.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from cds_service.advice import ordering
from cds_service.advice.packs.gene_drug import GeneQuestion, Match, gene_match, lowered
from cds_service.advice.packs.genes import GeneState
from cds_service.advice.packs.quality import reading
from cds_service.advice.packs.safe_to_offer import offers
from cds_service.advice.prescribing import (
    GENE_EVIDENCE,
    MAX_SUGGESTIONS,
    Finding,
    Ordered,
    fell_short,
    not_asked,
    offer_sentences,
    offer_unknowns,
    removal,
    replacement,
    smaller_dose,
    source_words,
)
from cds_service.advice.writing import Fact, day, rule_on, words
from cds_service.cards import Indicator, Link, Suggestion
from cds_service.manifest import Rule
from cds_service.markdown import escape_markdown
from fhir_mappers.codes import LOINC
from fhir_mappers.pgx import PgxRow
from fhir_mappers.record import GeneResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cds_service.consult import Case

PUBMED = "https://pubmed.ncbi.nlm.nih.gov/{}/"
TESTS = {
    "DPYD": (LOINC, "79719-1", "DPYD genotype with metabolic activity"),
    "HLA-B*57:01": (LOINC, "50956-2", "HLA-B*57:01 presence"),
    "TPMT": (LOINC, "84413-4", "TPMT and NUDT15 genotype"),
    "G6PD": (ordering.REQUEST, "g6pd-activity", "G6PD enzyme activity"),
}
"""Gene -> the order for its test. No table has a code for G6PD activity: a site maps ours."""
WARFARIN = "11289"
WARFARIN_LINK = Link("Warfarin dose by algorithm", "https://www.warfarindosing.org/", "absolute")
HURRIED = frozenset({"stat", "urgent", "asap"})
REPLACED = frozenset({"alternative", "avoid", "contraindicated"})
REMOVED = frozenset({"avoid", "contraindicated"})
_TIER_ORDER: tuple[Indicator, ...] = ("info", "warning", "critical")
_ALLELES = re.compile(r"[A-Za-z0-9*/.:>+ -]+")
_PER_KG = re.compile(r"(\d+(?:\.\d+)?) mg/kg/day")


def gene_finding(case: Case, drug: Ordered, states: Mapping[str, GeneState]) -> Finding | None:
    """What the genes say about this drug, or None."""
    service, hook = case.service, case.request.hook
    question = GeneQuestion(
        case.record,
        drug.first,
        drug.rxcui,
        dosed=hook != "order-select",
        refill=hook == "medication-refill",
        asked=not fell_short(case, *GENE_EVIDENCE),
        skipped=frozenset(words(service, "rows_off")),
    )
    found, disputed = gene_match(question, states), False
    if found is None and any(s.disputed for s in states.values()):
        # The genotype counts and is silent, but somebody reported otherwise: both are shown.
        reported = {gene: state.as_reported() for gene, state in states.items()}
        found, disputed = gene_match(question, reported), True
        if found is not None and not any(s.disputed for s in found.states):
            found = None
    if found is None:
        return None
    test = found.row.action == "test_first"
    rule = rule_on(service, "PGX-TEST" if test else "PGX")
    if rule is None or (test and drug.first.priority in HURRIED):
        return None  # treatment that is urgent does not wait for a test
    return _Wording(case, drug, found, states, rule, disputed=disputed).finding()


class _Wording:
    """The sentences and suggestions of one finding."""

    def __init__(
        self, case: Case, drug: Ordered, match: Match, states: Mapping[str, GeneState], rule: Rule, *, disputed: bool
    ) -> None:
        self.case, self.drug, self.match, self.rule = case, drug, match, rule
        self.row: PgxRow = match.row
        self.disputed = disputed
        wanted = self.row.action in REPLACED and not disputed
        safe, self.refused = offers(
            case.record,
            [rxcui for rxcui, _ in self.row.alternatives] if wanted else [],
            replacing=drug.first,
            states=states,
        )
        # The table's order, but a drug that has been checked whole before one with an open question.
        self.offered = sorted(safe, key=lambda offer: bool(offer.unknown))
        self.outdated = case.record.as_of.date() > rule.review_by

    def finding(self) -> Finding:
        row, match = self.row, self.match
        pending = self._test_pending()
        indicator = _TIER_ORDER[min(_TIER_ORDER.index(match.indicator), _TIER_ORDER.index(self.rule.tier))]
        indicator = lowered(indicator, by_one=pending, cap=self.outdated)
        url = PUBMED.format(row.pmid) if row.pmid else self.rule.url
        return Finding(
            row.row_id,
            msgspec.structs.replace(self.rule, citation=row.guideline, url=url),
            self.drug,
            indicator,
            self._summaries(),
            self._facts(),
            self._sentences(pending),
            self._suggestions(pending),
            self._unknown(),
            (WARFARIN_LINK,) if row.rxcui == WARFARIN else (),
        )

    # --- words --------------------------------------------------------------------------------------------------

    def _summaries(self) -> tuple[str, ...]:
        drug = self.row.drug
        if self.disputed:
            genes = " and ".join(s.gene for s in self.match.states if s.disputed)
            return (f"{genes} genotype and reported phenotype disagree: clarify before relying on {drug}.",)
        if self.row.limit is not None and not self.row.limit.per and self.match.dose is not None:
            drug = f"{drug} {self.match.dose.printed}"
        do = f"use {self.offered[0].name}" if self.offered else self.row.do
        heads = list(dict.fromkeys((self._head(self.match.states), self._head(self._deciding()))))
        return (
            *(f"{head}: {drug} {self.row.consequence}; {do}." for head in heads),
            *(f"{head}: {drug}; {do}." for head in heads),
            f"{drug.capitalize()}: {do}.",
        )

    def _deciding(self) -> tuple[GeneState, ...]:
        """The genes that are not normal: the others are in the table."""
        return tuple(s for s in self.match.states if not s.phenotype.startswith("Normal")) or self.match.states

    def _head(self, states: tuple[GeneState, ...]) -> str:
        if self.match.inhibitor is not None:
            return "CYP2D6 is blocked by another drug"
        if not states:
            genes = " and ".join(dict.fromkeys(g.partition("*")[0] if "*" not in g else g for g in self.row.genes))
            return f"{genes} not tested"
        return _together([(s.gene, _result_words(s, self._scores(s))) for s in states[:2]])

    def _scores(self, state: GeneState) -> frozenset[float]:
        keyed = any(p.gene == state.gene and p.aspect == "score" for p in self.row.key)
        return state.scores if keyed else frozenset()

    def _facts(self) -> tuple[Fact, ...]:
        found = []
        for state in self.match.states:
            value = ", ".join(filter(None, (state.genotype, _long_words(state, self._scores(state)))))
            newest = state.rests_on[0]
            found.append(Fact(state.gene, f"{value}, {_origin(newest)}", _when(newest), _report(newest)))
            found += [
                Fact(f"{state.gene}, other report", f"{_plain(r)}, {_origin(r)}", _when(r), _report(r))
                for r in state.others[:2]
            ]
        if self.row.action == "test_first" and not self.match.states:
            found.append(Fact(" and ".join(self.row.genes), "no result on record", "", "Genetic results"))
        if self.match.inhibitor is not None:
            event = self.match.inhibitor
            found.append(Fact("Blocks CYP2D6", event.text or "another drug", day(event.start), source_words(event)))
        if self.match.because is not None:
            event = self.match.because
            found.append(Fact("Indication", event.text or self.row.population, day(event.start), source_words(event)))
        if self.match.dose is not None and self.row.limit is not None:
            found.append(Fact("Ordered dose", f"{self.match.dose.milligrams:g} mg a day", "", "Draft order"))
        return tuple(found)

    def _sentences(self, pending: bool) -> tuple[str, ...]:
        row = self.row
        strength = "" if "not confirmed" in row.note or row.strength in ("label", "prose") else row.strength.lower()
        graded = f", {strength} recommendation" if strength else ""
        # What is strongly recommended is said, not put up for consideration (CLINICAL.md 2.1).
        says = escape_markdown(
            row.instruction.replace("; consider ", ", or ").removeprefix("consider ")
            if strength == "strong"
            else row.instruction,
            110,
        )
        found = [f"{row.drug.capitalize()} {row.consequence}. {row.guideline}{graded}: {says}."]
        if self.disputed:
            found = [
                f"By the genotype nothing speaks against {row.drug}. If the reported phenotype were right: {row.drug} "
                f"{row.consequence} ({row.guideline})."
            ]
        if row.also:
            found.append(f"{row.also}.")
        if self.match.inhibitor is not None and self.match.states:
            found.append("While the enzyme is blocked its genes do not decide.")
        cap = _PER_KG.search(row.instruction) if row.action == "increase_dose" else None
        weight = reading(self.case.record, "weight").lab if cap is not None else None
        if cap is not None and weight is not None and not weight.comparator:
            most = float(cap[1]) * weight.value
            found.append(f"At {weight.value:g} kg that is at most {most:.3g} mg a day.")
        if pending:
            found.append("The test is ordered already.")
        found += [f"Reports of {s.gene} differ: both are shown." for s in self.match.states if s.others]
        # A code span, since the stars of a genotype are emphasis elsewhere in Markdown.
        read = [f"{s.gene} `{s.genotype}`" for s in self.match.states if _ALLELES.fullmatch(s.genotype)]
        if read:
            found.append(f"Genotype: {', '.join(read)}.")
        return (*found, *offer_sentences(self.offered, self.refused))

    def _unknown(self) -> tuple[str, ...]:
        found = [*self.match.unknown, *offer_unknowns(self.offered)]
        if self.match.population_open and self.row.population not in ("all", "all systemic"):
            found.append("what it is given for")
        if self.row.limit is None and _PER_KG.search(self.row.instruction) and self.row.action == "increase_dose":
            found += [] if reading(self.case.record, "weight").lab else ["body weight"]
        if self.outdated:
            found.append("whether this is current: its review date has passed")
        keys = ("conditions", "meds", "allergies") if self.offered or self.refused else ("conditions", "meds")
        return tuple(dict.fromkeys((*found, *not_asked(self.case, *keys))))

    # --- suggestions --------------------------------------------------------------------------------------------

    def _suggestions(self, pending: bool) -> tuple[Suggestion, ...]:
        row, firm = self.row, self.match.firm and self.row.strong and not self.outdated
        if self.disputed:
            return ()
        if row.action == "test_first":
            return () if pending else self._test()
        if row.fraction is not None:
            smaller = smaller_dose(self.drug, row.fraction)
            return (smaller,) if smaller is not None else ()
        found = [
            replacement(self.case, self.drug, offer, recommended=firm and i == 0)
            for i, offer in enumerate(self.offered[:MAX_SUGGESTIONS])
        ]
        if not self.offered and row.action in REMOVED:
            found.append(removal(self.drug, recommended=firm and row.action == "contraindicated"))
        return tuple(s for s in found if s is not None)

    def _test_code(self) -> tuple[str, str, str]:
        return TESTS[self.row.genes[0]]

    def _test(self) -> tuple[Suggestion, ...]:
        system, code, text = self._test_code()
        action = ordering.service_request(self.case, ordering.concept(system, code, text), priority="urgent")
        return (Suggestion(f"Order {text}", (action,)),)

    def _test_pending(self) -> bool:
        if self.row.action != "test_first":
            return False
        system, code, _ = self._test_code()
        return any((system, code) in order.codes for order in self.case.record.orders)


def _together(results: list[tuple[str, str]]) -> str:
    """`TPMT and NUDT15 poor metabolizer`, `TPMT poor, NUDT15 normal metabolizer`: the shared words once."""
    if len(results) == 2:
        (gene, said), (other, also) = results
        if said == also:
            return f"{gene} and {other} {said}"
        noun = said.rpartition(" ")[2]
        if noun in ("metabolizer", "function") and also.endswith(noun):
            return f"{gene} {said.removesuffix(noun).strip()}, {other} {also}"
    return ", ".join(f"{gene} {said}" for gene, said in results)


def _scores_words(scores: frozenset[float]) -> str:
    if not scores:
        return ""
    low, high = min(scores), max(scores)
    if low == high:
        return f"activity score {low:.4g}" if low % 0.5 else f"activity score {low:.1f}"
    if high >= 6.0:
        return f"activity score {low:.1f} or more"
    return f"activity score {low:.4g} {'or' if len(scores) == 2 else 'to'} {high:.4g}"


def _phenotype_words(state: GeneState) -> str:
    if state.gene == "MT-RNR1" and state.phenotype == "increased risk":
        return "variant with increased risk"
    return state.phenotype.lower()


def _result_words(state: GeneState, scores: frozenset[float]) -> str:
    """For the summary: the score where one decides and is known, else the phenotype, else the genotype."""
    if len(scores) == 1:
        return _scores_words(scores)
    return _phenotype_words(state) or state.genotype or _scores_words(scores)


def _long_words(state: GeneState, scores: frozenset[float]) -> str:
    return ", ".join(filter(None, (_phenotype_words(state), _scores_words(scores))))


def _plain(result: GeneResult) -> str:
    return f"activity score {result.value}" if result.kind == "activity" else result.value


def _origin(result: GeneResult) -> str:
    return "germline" if result.origin == "germline" else "source not stated"


def _when(result: GeneResult) -> str:
    return day(result.at) or "no date"


def _report(result: GeneResult) -> str:
    return "Problem list" if result.source.reference.startswith("Condition/") else "Genetic results"
