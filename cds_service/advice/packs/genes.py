"""What is known of a patient's germline, gene by gene, and how far it may be relied on (CLINICAL 4.7, gene logic 1-4).

A somatic result never counts. A result of unknown source informs only. A genotype that the table can read beats a
reported phenotype that contradicts it, and both are shown; of two reports that differ the newest counts, one tier
lower. After a liver or marrow transplant a blood result may be the donor's and informs only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from fhir_mappers.codes import ICD10_SYSTEMS
from fhir_mappers.pgx import examples, hla_alleles, normal_diplotype, phenotypes_of, scores_of
from fhir_mappers.record import GeneResult, PatientRecord

TRANSPLANT_CODES = ("Z944", "T864", "Z9481", "Z9484", "T860", "T865")
"""ICD-10-CM: liver transplant status and complications; bone marrow and stem cell transplant, the same."""
TRANSPLANTED = "a liver or marrow transplant, so the result may be the donor's"
UNKNOWN_SOURCE = "whether the result is of the germline"
_READ = frozenset({"genotype", "haplotype", "phenotype", "activity", "presence"})


@dataclass(frozen=True, slots=True)
class GeneState:
    """One gene of this patient.

    phenotype  CPIC's term, "" where nothing says it; `positive` or `negative` for an HLA allele
    scores     the activity scores that are possible; empty where none is known or the gene has none
    genotype   the newest diplotype, in the table's order of alleles
    rests_on   the results used, newest first; `others` those that say something else and are shown beside them
    cap        True: nothing that rests on this may do more than inform
    lower      True: one tier lower
    unknown    what is not known about it, for the card
    disputed   phenotype and scores by the newest report that contradicts the genotype
    """

    gene: str
    phenotype: str
    scores: frozenset[float]
    genotype: str
    rests_on: tuple[GeneResult, ...]
    others: tuple[GeneResult, ...] = ()
    cap: bool = False
    lower: bool = False
    unknown: tuple[str, ...] = ()
    disputed: tuple[str, frozenset[float]] | None = None

    def as_reported(self) -> GeneState:
        """The same gene as the report has it that contradicts the genotype."""
        return self if self.disputed is None else replace(self, phenotype=self.disputed[0], scores=self.disputed[1])


@dataclass(frozen=True, slots=True)
class _Said:
    """One report, read as far as the tables allow."""

    results: tuple[GeneResult, ...]
    phenotype: str
    scores: frozenset[float]

    @property
    def resolved(self) -> bool:
        return bool(self.phenotype or self.scores)

    def agrees(self, other: _Said) -> bool:
        if self.scores and other.scores:
            return bool(self.scores & other.scores)
        return not (self.phenotype and other.phenotype) or self.phenotype == other.phenotype


def gene_states(record: PatientRecord) -> Mapping[str, GeneState]:
    """Gene -> what is known of it. A gene that is not here was not tested, as far as the record says."""
    found: dict[str, list[GeneResult]] = {}
    for result in _with_alleles(record.genes):
        if result.origin != "somatic" and (result.kind in _READ or _mitochondrial(result)):
            found.setdefault(result.gene, []).append(result)
    if "G6PD" not in found:
        found |= _enzyme_deficiency(record)
    transplanted = _transplanted(record)
    return {gene: _state(gene, results, transplanted) for gene, results in found.items()}


def _mitochondrial(result: GeneResult) -> bool:
    """A variant of MT-RNR1 that the table names: having it is the whole result, there is no second allele."""
    return result.gene == "MT-RNR1" and result.kind == "variant" and (result.gene, _bare(result.value)) in examples()


def _bare(value: str) -> str:
    return value.rpartition(":")[2]


def _with_alleles(genes: Sequence[GeneResult]) -> list[GeneResult]:
    """The results, and for an HLA typing whether each allele of the table is among its alleles.

    Two typed alleles say of every other allele that it is absent; one alone, or a haplotype, says so of none.
    """
    found = list(genes)
    for result in genes:
        if result.gene not in ("HLA-A", "HLA-B") or result.kind not in ("genotype", "haplotype"):
            continue
        typed = result.value.split("/")
        for allele in hla_alleles():
            gene, _, name = allele.partition("*")
            if gene == result.gene and (f"*{name}" in typed or len(typed) == 2):
                answer = "positive" if f"*{name}" in typed else "negative"
                found.append(replace(result, gene=allele, kind="presence", value=answer))
    return found


def _enzyme_deficiency(record: PatientRecord) -> dict[str, list[GeneResult]]:
    events = record.active("g6pd")
    return (
        {"G6PD": [GeneResult("G6PD", "phenotype", "Deficient", "germline", e.start, e.source) for e in events[:1]]}
        if events
        else {}
    )


def _transplanted(record: PatientRecord) -> bool:
    return any(
        system in ICD10_SYSTEMS and code.replace(".", "").upper().startswith(TRANSPLANT_CODES)
        for event in record.events
        if event.kind in ("condition", "procedure")
        for system, code in event.codes
    )


def _newest(results: Sequence[GeneResult]) -> list[GeneResult]:
    """Newest first; a result without a date last; ties in a fixed order."""
    return sorted(results, key=lambda r: (r.at is None, -(r.at.timestamp() if r.at else 0.0), r.value, r.kind))


def _state(gene: str, results: Sequence[GeneResult], transplanted: bool) -> GeneState:
    germline = [r for r in results if r.origin == "germline"]
    used = _newest(_paired(germline or list(results)))
    genotypes = [_read(gene, (r,)) for r in used if r.kind in ("genotype", "variant")]
    reports = [_read(gene, group) for group in _by_time([r for r in used if r.kind not in ("genotype", "variant")])]
    reports = [r for r in reports if r.resolved]
    genotype = genotypes[0] if genotypes else None
    leading = genotype if genotype is not None and genotype.resolved else reports[0] if reports else genotype
    cap, lower = not germline, False
    unknown = [] if germline else [UNKNOWN_SOURCE]
    others: list[GeneResult] = []
    disputed: tuple[str, frozenset[float]] | None = None
    if leading is None:  # a lone haplotype: one of two alleles decides nothing
        return GeneState(gene, "", frozenset(), "", tuple(used), cap=True)
    said = leading
    for report in reports:
        if report is leading:
            continue
        if report.agrees(leading):
            if report is reports[0]:
                said = _both(gene, leading, report)
        else:
            others += report.results
            # Against a genotype a reported phenotype is a contradiction; against a newer report it is an older one.
            if leading is genotype:
                cap, disputed = True, disputed or (report.phenotype, report.scores)
            else:
                lower = True
    for other in genotypes[1:]:
        if other.results[0].value != genotypes[0].results[0].value:
            others += other.results
            lower = True
    if transplanted and not (gene == "G6PD" and said.results[0].source.reference.startswith("Condition/")):
        cap = True
        unknown.append(TRANSPLANTED)
    return GeneState(
        gene,
        said.phenotype,
        said.scores,
        normal_diplotype(genotype.results[0].value) if genotype is not None else "",
        _used(said, genotype),
        tuple(_newest(others)),
        cap,
        lower,
        tuple(unknown),
        disputed,
    )


def _used(said: _Said, genotype: _Said | None) -> tuple[GeneResult, ...]:
    """The results to name: those that decided, and the genotype even where the table cannot read it."""
    shown = {id(r): r for r in (*(genotype.results if genotype is not None else ()), *said.results)}
    return tuple(_newest(list(shown.values())))


def _paired(results: list[GeneResult]) -> list[GeneResult]:
    """Two haplotypes of one day are a diplotype (84414-2 comes once for each allele)."""
    found = [r for r in results if r.kind != "haplotype"]
    days: dict[datetime | None, list[GeneResult]] = {}
    for result in results:
        if result.kind == "haplotype" and "/" not in result.value:
            days.setdefault(result.at, []).append(result)
    for pair in days.values():
        if len(pair) == 2:
            first, second = sorted(pair, key=lambda r: r.value)
            found.append(replace(first, kind="genotype", value=normal_diplotype(f"{first.value}/{second.value}")))
        elif len(pair) == 1 and pair[0].gene == "MT-RNR1":
            found.append(replace(pair[0], kind="genotype"))
    return found


def _by_time(results: Sequence[GeneResult]) -> list[tuple[GeneResult, ...]]:
    """Phenotype and score of one moment are one report."""
    moments: dict[datetime | None, list[GeneResult]] = {}
    for result in results:
        moments.setdefault(result.at, []).append(result)
    return [tuple(group) for group in moments.values()]


def _read(gene: str, results: tuple[GeneResult, ...]) -> _Said:
    """What one report says; a report that contradicts itself says nothing."""
    phenotypes: set[str] = set()
    scores: list[frozenset[float]] = []
    for result in results:
        if result.kind in ("genotype", "variant"):
            meaning = examples().get((gene, normal_diplotype(_bare(result.value))))
            if meaning is not None:
                phenotypes |= meaning.phenotypes
                scores += [meaning.scores] if meaning.scores else []
        elif result.kind == "activity":
            scores.append(frozenset({float(result.value)}))
        else:
            phenotypes.add(result.value)
    if len(phenotypes) > 1:
        return _Said(results, "", frozenset())
    phenotype = next(iter(phenotypes), "")
    if implied := scores_of(gene, phenotype):
        scores.append(implied)
    possible = frozenset.intersection(*scores) if scores else frozenset()
    if scores and not possible:
        return _Said(results, "", frozenset())
    if not phenotype and len(names := phenotypes_of(gene, possible)) == 1:
        phenotype = next(iter(names))
    return _Said(results, phenotype, possible)


def _both(gene: str, leading: _Said, report: _Said) -> _Said:
    """Two reports that agree, together: the narrower scores, and a phenotype if either has one."""
    scores = leading.scores & report.scores if leading.scores and report.scores else leading.scores or report.scores
    names = phenotypes_of(gene, scores)
    phenotype = next(iter(names)) if len(names) == 1 else leading.phenotype or report.phenotype
    return _Said((*leading.results, *report.results), phenotype, scores)
