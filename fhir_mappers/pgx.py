"""tables/pgx.csv as typed rows: which results of which genes decide what about a drug. CPIC and drug labels.

A row's key names every gene that decides. It matches exactly or not at all: a key of two genes is never matched on
one, and the action stands in its column, never in the wording of the instruction. `pgx_wording.csv` adds, for each
row that speaks, what the result does to the drug and the dose at which the row starts to apply.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal, cast, get_args

from fhir_mappers.codes import drugs

Action = Literal[
    "avoid",
    "contraindicated",
    "alternative",
    "reduce_dose",
    "increase_dose",
    "dose_algorithm",
    "test_first",
    "monitor",
    "standard",
    "no_recommendation",
]
Loudness = Literal["critical", "warning", "info", "silent"]
Aspect = Literal["phenotype", "score", "genotype", "presence", "not tested", "inhibitor", "susceptible"]
SUSCEPTIBLE = "Malignant Hyperthermia Susceptible"
STRONG_INHIBITOR = "strong inhibitor present"

_HALVES = (0.0, 0.5, 1.0, 1.5, 2.0)
ACTIVITY_SCORES: Mapping[str, tuple[float, ...]] = {
    "CYP2C9": _HALVES,
    "DPYD": _HALVES,
    "CYP2D6": tuple(n / 4 for n in range(25)),
}
"""The scores a gene can have. Genes that are not here have phenotypes only."""
PHENOTYPE_SCORES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    # CPIC: lowest and highest score of each phenotype. CYP2C9: Theken 2020 (PMID 32189324); DPYD: Amstutz 2018
    # (PMID 29152729); CYP2D6: consensus of Caudle 2020 (PMID 31647186).
    "CYP2C9": {
        "Poor Metabolizer": (0.0, 0.5),
        "Intermediate Metabolizer": (1.0, 1.5),
        "Normal Metabolizer": (2.0, 2.0),
    },
    "DPYD": {
        "Poor Metabolizer": (0.0, 0.5),
        "Intermediate Metabolizer": (1.0, 1.5),
        "Normal Metabolizer": (2.0, 2.0),
    },
    "CYP2D6": {
        "Poor Metabolizer": (0.0, 0.0),
        "Intermediate Metabolizer": (0.25, 1.0),
        "Normal Metabolizer": (1.25, 2.25),
        "Ultrarapid Metabolizer": (2.5, 6.0),
    },
}


@dataclass(frozen=True, slots=True)
class KeyPart:
    """What one gene must show. `values` for words, `scores` for activity scores; one of the two is empty."""

    gene: str
    aspect: Aspect
    values: frozenset[str] = frozenset()
    scores: frozenset[float] = frozenset()


@dataclass(frozen=True, slots=True)
class DoseLimit:
    """The ordered daily dose at which a row starts to apply.

    milligrams    per day; per kg of body weight or per m2 of body surface where `per` says so
    inclusive     True: applies at the limit and above it; False: above it only
    unknown       what an order without a readable dose does: `fire` as the row says, or inform only
    """

    milligrams: float
    inclusive: bool
    per: Literal["", "kg", "m2"]
    unknown: Literal["fire", "info"]


@dataclass(frozen=True, slots=True)
class PgxRow:
    """One recommendation.

    key           the genes that decide; all parts must hold
    any_gene      True where the genes are alternatives of one another (RYR1 or CACNA1S)
    alternatives  (RxNorm ingredient, name) to offer, best first; to be checked before they are offered
    consequence   what the result does to the drug, as a predicate: `will not be activated`
    do            what to do instead, as an imperative
    fraction      the part of an ordered dose to start with, where the row names one; None elsewhere
    also          what another source says, to be shown beside it
    """

    row_id: str
    key_text: str
    key: tuple[KeyPart, ...]
    drug: str
    rxcui: str
    population: str
    action: Action
    instruction: str
    alternatives: tuple[tuple[str, str], ...]
    strength: str
    level: str
    indicator: Loudness
    guideline: str
    pmid: str
    verified: bool
    note: str
    consequence: str = ""
    do: str = ""
    limit: DoseLimit | None = None
    fraction: float | None = None
    also: str = ""
    any_gene: bool = False

    @property
    def needs_dose(self) -> bool:
        """The row is about a dose alone, so it cannot be judged before there is one (order-select may lack it)."""
        return self.limit is not None and self.action == "reduce_dose"

    @property
    def strong(self) -> bool:
        return self.strength == "Strong"

    @property
    def genes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p.gene for p in self.key))


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a diplotype is by the table's own examples; empty where they do not say."""

    phenotypes: frozenset[str] = field(default_factory=frozenset)
    scores: frozenset[float] = field(default_factory=frozenset)


@functools.cache
def pgx_rows() -> tuple[PgxRow, ...]:
    wording = {row["row_id"]: row for row in _read("pgx_wording.csv")}
    return tuple(_row(row, wording.get(row["row_id"], {})) for row in _read("pgx.csv"))


@functools.cache
def rows_of(rxcui: str) -> tuple[PgxRow, ...]:
    """The rows about this ingredient, in the table's order."""
    return tuple(row for row in pgx_rows() if row.rxcui == rxcui)


@functools.cache
def hla_alleles() -> tuple[str, ...]:
    """The HLA alleles some row asks for: `HLA-B*57:01`."""
    return tuple(sorted({p.gene for row in pgx_rows() for p in row.key if "*" in p.gene}))


def normal_diplotype(text: str) -> str:
    """`*17/*2` and `*2/*17` are the same two alleles; the table's order is lower number first, `Reference` first."""
    return "/".join(sorted(text.strip().split("/"), key=_allele_order))


def _allele_order(allele: str) -> tuple[int, int, str]:
    star = re.match(r"\*(\d+)", allele)
    return (0, 0, "") if allele == "Reference" else (1, int(star[1]), allele) if star else (2, 0, allele)


@functools.cache
def examples() -> Mapping[tuple[str, str], Meaning]:
    """(gene, diplotype) -> its phenotype and activity scores, as far as the table's own examples say, never further.

    A score is given as the span of the key it stands beside: `*1/*4` of CYP2D6 is 0.25 to 1.0.
    """
    found: dict[tuple[str, str], Meaning] = {}
    for row, text in zip(pgx_rows(), (r["diplotype_examples"] for r in _read("pgx.csv")), strict=True):
        for example in filter(None, text.split(";")):
            # `*1/*1 and *1/*3` is one diplotype for each gene of the key; alone it is of the first gene.
            for part, diplotype in zip(row.key, example.split(" and "), strict=False):
                if part.aspect not in ("phenotype", "score"):
                    continue
                name = (part.gene, normal_diplotype(diplotype))
                before = found.get(name, Meaning())
                if part.aspect == "phenotype":
                    found[name] = Meaning(before.phenotypes | part.values, before.scores)
                else:
                    found[name] = Meaning(before.phenotypes, (before.scores & part.scores) or part.scores)
    for (gene, diplotype), meaning in found.items():
        if len(meaning.phenotypes) > 1:
            raise ValueError(f"tables/pgx.csv: {gene} {diplotype} stands beside two phenotypes")
    return found


def scores_of(gene: str, phenotype: str) -> frozenset[float]:
    """The activity scores CPIC counts to this phenotype; empty for genes without scores."""
    span = PHENOTYPE_SCORES.get(gene, {}).get(phenotype)
    if span is None:
        return frozenset()
    return frozenset(s for s in ACTIVITY_SCORES[gene] if span[0] <= s <= span[1])


def phenotypes_of(gene: str, scores: Iterable[float]) -> frozenset[str]:
    """The phenotypes that hold these activity scores."""
    given = set(scores)
    return frozenset(name for name in PHENOTYPE_SCORES.get(gene, {}) if given & scores_of(gene, name))


def _read(table: str) -> Iterator[dict[str, str]]:
    text = resources.files("fhir_mappers").joinpath("tables", table).read_text(encoding="utf-8")
    yield from csv.DictReader(io.StringIO(text, newline=""))


def _row(row: Mapping[str, str], wording: Mapping[str, str]) -> PgxRow:
    def one_of(kind: object, column: str) -> str:
        if row[column] not in get_args(kind):
            raise ValueError(f"tables/pgx.csv: {row['row_id']} has {column} {row[column]!r}")
        return row[column]

    genes = row["gene"].split("+")
    indicator = cast(Loudness, one_of(Loudness, "indicator"))
    if (indicator != "silent") != bool(wording):
        raise ValueError(f"tables/pgx_wording.csv: {row['row_id']} has to be there exactly when its row speaks")
    names = {d.rxcui: d.ingredient for d in drugs() if d.rxcui}
    offered = [code for code in row["alternative_rxcui"].split(";") if code]
    return PgxRow(
        row_id=row["row_id"],
        key_text=row["key"],
        key=tuple(part for text in row["key"].split("|") for part in _parts(text, genes)),
        drug=row["drug"],
        rxcui=row["drug_rxcui"],
        population=row["population"],
        action=cast(Action, one_of(Action, "action")),
        instruction=row["instruction"],
        # The code is what is ordered, so its name is the drug table's: the list of names may be longer.
        alternatives=tuple((code, names[code]) for code in offered),
        strength=row["strength"],
        level=row["cpic_level"],
        indicator=indicator,
        guideline=row["guideline"],
        pmid=row["pmid"],
        verified=row["verified"] == "yes",
        note=row["note"],
        consequence=wording.get("consequence", ""),
        do=wording.get("do", ""),
        limit=_limit(wording),
        fraction=float(wording["start_fraction"]) if wording.get("start_fraction") else None,
        also=wording.get("also", ""),
        any_gene=row["key"] == "malignant hyperthermia susceptible",
    )


def _limit(wording: Mapping[str, str]) -> DoseLimit | None:
    if not wording.get("limit_mg_per_day"):
        return None
    return DoseLimit(
        float(wording["limit_mg_per_day"]),
        {"from": True, "above": False}[wording["limit_kind"]],
        cast(Literal["", "kg", "m2"], wording["limit_per"]),
        cast(Literal["fire", "info"], wording["dose_unknown"]),
    )


_SCORE = re.compile(r"([A-Z0-9]+)_AS(=|>=)(\d\.\d+)(?:-(\d\.\d+))?")
_GENOTYPE = re.compile(r"([A-Z0-9]+) genotype=(.+)")
_OTHER = re.compile(r"([A-Z0-9-]+(?:\*\d+:\d+)?)=(.+)")


def _parts(text: str, genes: list[str]) -> Iterator[KeyPart]:
    """The parts of a key's text; most texts are one part. Raises ValueError for a key of another shape."""
    if text == "both not tested":
        yield from (KeyPart(gene, "not tested") for gene in genes)
    elif text == "malignant hyperthermia susceptible":
        yield from (KeyPart(gene, "susceptible", frozenset({SUSCEPTIBLE})) for gene in genes)
    elif match := _SCORE.fullmatch(text):
        gene, sign, low, high = match[1], match[2], float(match[3]), float(match[4] or match[3])
        grid = ACTIVITY_SCORES[gene]
        yield KeyPart(gene, "score", scores=frozenset(s for s in grid if low <= s and (sign == ">=" or s <= high)))
    elif match := _GENOTYPE.fullmatch(text):
        yield KeyPart(match[1], "genotype", frozenset(normal_diplotype(d) for d in match[2].split(" or ")))
    elif match := _OTHER.fullmatch(text):
        gene, value = match[1], match[2]
        if value in ("not tested", "No Result"):
            yield KeyPart(gene, "not tested")
        elif value == STRONG_INHIBITOR:
            yield KeyPart(gene, "inhibitor", frozenset({value}))
        elif value in ("positive", "negative"):
            yield KeyPart(gene, "presence", frozenset({value}))
        else:
            yield KeyPart(gene, "genotype" if value.startswith("-1639 ") else "phenotype", frozenset({value}))
    else:
        raise ValueError(f"tables/pgx.csv: the key {text!r} has no known shape")
