"""Which recommendation of pgx.csv a drug order meets in this patient, if any: the CPIC gene-drug engine.

Exact key and population or nothing. Where several activity scores are possible every one of them must lead to a row,
and the mildest of these rows is the answer; where the population is open, the mildest row of its key. Unmatched,
indeterminate and standard are all the same silence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cds_service.advice.packs.genes import GeneState, gene_states
from cds_service.advice.packs.populations import Evidence, Setting, evidence, has_ingredient
from cds_service.advice.packs.quality import reading
from cds_service.cards import Indicator
from fhir_mappers.codes import find_drugs
from fhir_mappers.doses import DailyDose, daily_dose
from fhir_mappers.pgx import KeyPart, PgxRow, rows_of
from fhir_mappers.record import Event, Order, PatientRecord

STRONG_CYP2D6_INHIBITORS = {"4493": "fluoxetine", "32937": "paroxetine", "9068": "quinidine"}
"""RxNorm ingredients of the drug table that FDA's table of inhibitors calls strong for CYP2D6 (June 2023 version)."""
STRONG_CYP2D6_ATC = {"N06AX12": "bupropion", "D01BA02": "terbinafine"}
"""The same, of drugs the table has no RxNorm code for."""

LOUDNESS: Mapping[str, int] = {"silent": 0, "info": 1, "warning": 2, "critical": 3}
SEVERITY: Mapping[str, int] = {
    action: rank
    for rank, actions in enumerate(
        (
            ("no_recommendation", "standard"),
            ("monitor",),
            ("test_first", "dose_algorithm"),
            ("increase_dose", "reduce_dose"),
            ("alternative",),
            ("avoid",),
            ("contraindicated",),
        )
    )
    for action in actions
}
_TIERS: tuple[Indicator, ...] = ("info", "warning", "critical")

DoseKnown = Literal["not asked", "known", "unknown"]


@dataclass(frozen=True, slots=True)
class Match:
    """A row that speaks about this order.

    indicator  after everything that lowers it: source, contradiction, dose that could not be read
    firm       nothing lowered it
    because    the event that shows the population, where one does
    inhibitor  the drug that blocks the enzyme, where that decides
    scores     the activity scores that are possible, where the row is keyed by score
    unknown    what is not known, for the card
    """

    row: PgxRow
    indicator: Indicator
    states: tuple[GeneState, ...]
    firm: bool = True
    because: Event | None = None
    population_open: bool = False
    dose: DailyDose | None = None
    inhibitor: Event | None = None
    scores: frozenset[float] = frozenset()
    unknown: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class GeneQuestion:
    """One ordered ingredient and what is to be known for its rows.

    dosed       the hook gives a dose (order-sign, refill); rows about a dose alone are skipped otherwise
    asked       genomic results were asked for and came; without that nothing can be called untested
    skipped     row ids a site has switched off
    """

    record: PatientRecord
    order: Order
    rxcui: str
    dosed: bool = True
    refill: bool = False
    asked: bool = True
    skipped: frozenset[str] = frozenset()


def gene_match(question: GeneQuestion, states: Mapping[str, GeneState] | None = None) -> Match | None:
    """The row this order meets, or None where nothing is to be said."""
    rows = [r for r in rows_of(question.rxcui) if r.row_id not in question.skipped]
    if not rows:
        return None
    known = gene_states(question.record) if states is None else states
    setting = Setting(question.record, question.order, question.rxcui, question.refill, known)
    inhibitor = _inhibitor(setting) if any(_asks_inhibitor(r) for r in rows) else None
    found = [_row_in(_Known(question, setting, world, inhibitor), rows) for world in _worlds(rows, known)]
    if not found or any(match is None for match in found):
        return None
    return min((m for m in found if m is not None), key=_loud)


def lowered(indicator: Indicator, *, by_one: bool = False, cap: bool = False) -> Indicator:
    """One tier lower, or no more than info."""
    if cap:
        return "info"
    return _TIERS[max(0, _TIERS.index(indicator) - 1)] if by_one else indicator


def _loud(match: Match) -> tuple[int, int]:
    return LOUDNESS[match.row.indicator], SEVERITY[match.row.action]


def _rank(row: PgxRow) -> tuple[int, int]:
    return LOUDNESS[row.indicator], SEVERITY[row.action]


World = Mapping[str, float]


def _worlds(rows: Iterable[PgxRow], states: Mapping[str, GeneState]) -> Iterator[World]:
    """Every combination of activity scores that is possible, for the genes the rows ask by score."""
    genes = sorted({p.gene for row in rows for p in row.key if p.aspect == "score"})
    open_ = [[(g, s) for s in sorted(states[g].scores)] for g in genes if g in states and states[g].scores]
    for combination in itertools.product(*open_):
        yield dict(combination)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a row is held against: the patient's genes with one possible score each, and what else they take."""

    question: GeneQuestion
    setting: Setting
    world: World
    inhibitor: Event | None

    def holds(self, row: PgxRow) -> bool:
        found = [self._part(part, row) for part in row.key]
        return any(found) if row.any_gene else all(found)

    def _part(self, part: KeyPart, row: PgxRow) -> bool:
        if part.aspect == "inhibitor":
            return self.inhibitor is not None
        states, q = self.setting.genes, self.question
        if part.aspect == "not tested":
            return q.asked and part.gene not in states and not _unreadable(q.record, part.gene)
        state = states.get(part.gene)
        if state is None:
            return False
        if part.aspect == "score":
            # A blocked enzyme has no activity, whatever its genes: only a row for a score of nought may still speak.
            blocked = self.inhibitor is not None and part.scores != frozenset({0.0})
            return not blocked and self.world.get(part.gene) in part.scores
        if part.aspect == "genotype":
            return state.genotype in part.values
        return state.phenotype in part.values


def _row_in(known: _Known, rows: Sequence[PgxRow]) -> Match | None:
    """The loudest of the rows that hold, one for each key; None where none speaks."""
    by_key: dict[str, list[PgxRow]] = {}
    for row in rows:
        if known.holds(row):
            by_key.setdefault(row.key_text, []).append(row)
    chosen = [pick for same in by_key.values() if (pick := _of_population(same, known.setting)) is not None]
    matches = [match for row, held in chosen if (match := _judged(known, row, held)) is not None]
    return max(matches, key=lambda m: (LOUDNESS[m.indicator], SEVERITY[m.row.action]), default=None)


def _unreadable(record: PatientRecord, gene: str) -> bool:
    """A result about this gene was there and could not be read: that is not the same as untested."""
    gene_of_allele = gene.partition("*")[0]
    subjects = {f"genomics {gene}", f"genomics {gene_of_allele}"}
    return any(gap.subject in subjects and gap.code in ("no-value", "malformed") for gap in record.gaps)


def _asks_inhibitor(row: PgxRow) -> bool:
    return any(part.aspect == "inhibitor" for part in row.key)


def _inhibitor(setting: Setting) -> Event | None:
    """A strong CYP2D6 inhibitor the patient takes."""
    for event in setting.record.events:
        if event.kind == "medication" and event.active:
            if any(has_ingredient(event.codes, code) for code in STRONG_CYP2D6_INHIBITORS):
                return event
            if any(code in STRONG_CYP2D6_ATC for _, code in event.codes):
                return event
    return None


def _of_population(rows: Sequence[PgxRow], setting: Setting) -> tuple[PgxRow, Evidence] | None:
    """The row for this patient among rows of one key: the loudest that is shown, else the mildest that is open."""
    judged = [(row, evidence(row.population, setting)) for row in rows]
    shown = [pair for pair in judged if pair[1].held == "yes"]
    if shown:
        return max(shown, key=lambda pair: _rank(pair[0]))
    return min((pair for pair in judged if pair[1].held == "open"), key=lambda pair: _rank(pair[0]), default=None)


def _judged(known: _Known, row: PgxRow, held: Evidence) -> Match | None:
    """The row with what lowers it, or None where it is silent, its dose is under the limit, or it comes too late."""
    q, setting = known.question, known.setting
    if row.indicator == "silent" or (row.needs_dose and not q.dosed):
        return None
    if row.action == "test_first" and (q.refill or setting.earlier()):
        return None  # the first dose has been given
    states = tuple(setting.genes[gene] for gene in row.genes if gene in setting.genes)
    if row.any_gene:
        states = tuple(s for s in states if any(s.phenotype in p.values for p in row.key if p.gene == s.gene))
    dose = daily_dose(q.order.resource)
    applies, dose_known = _dose_applies(row, dose, q.record)
    if not applies:
        return None
    dose_missing = dose_known == "unknown" and row.limit is not None and row.limit.unknown == "info"
    cap = any(s.cap for s in states) or dose_missing
    lower = any(s.lower for s in states)
    unknown = [text for s in states for text in s.unknown]
    if dose_known == "unknown":
        unknown.append("the ordered dose, or what it is measured by" if row.limit and row.limit.per else "daily dose")
    scored = {p.gene: p.scores for p in row.key if p.aspect == "score"}
    unknown += [f"the exact activity score of {s.gene}" for s in states if s.scores - scored.get(s.gene, s.scores)]
    return Match(
        row,
        lowered(row.indicator, by_one=lower, cap=cap),
        states,
        firm=not (cap or lower),
        because=held.because,
        population_open=held.held == "open",
        dose=dose,
        inhibitor=known.inhibitor if _asks_inhibitor(row) else None,
        scores=frozenset(score for s in states if s.gene in scored for score in s.scores),
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _dose_applies(row: PgxRow, dose: DailyDose | None, record: PatientRecord) -> tuple[bool, DoseKnown]:
    """Whether the ordered daily dose is one the row is about, and whether that could be told."""
    if row.limit is None:
        return True, "not asked"
    size = _size(row.limit.per, record)
    if dose is None or size is None:
        return True, "unknown"
    limit = row.limit.milligrams * size
    close = math.isclose(dose.milligrams, limit, rel_tol=1e-6)
    return (row.limit.inclusive if close else dose.milligrams > limit), "known"


def _size(per: Literal["", "kg", "m2"], record: PatientRecord) -> float | None:
    """What a dose is measured by: 1, body weight in kg, or body surface in m2 (Mosteller 1987)."""
    if not per:
        return 1.0
    weight = reading(record, "weight").lab
    if weight is None or weight.comparator:
        return None
    if per == "kg":
        return weight.value
    height = reading(record, "height").lab
    return None if height is None or height.comparator else math.sqrt(height.value * weight.value / 3600.0)


def order_ingredients(order: Order) -> tuple[tuple[str, str], ...]:
    """(RxNorm ingredient, name) of what a medication order contains, as far as the drug table knows it."""
    found = {drug.rxcui: drug.ingredient for drug in find_drugs(order.codes) if drug.rxcui}
    return tuple(found.items())
