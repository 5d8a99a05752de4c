"""tables/pgx.csv: every row is read, every key has a known shape, and the wording adds no number of its own."""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path

import pytest

from fhir_mappers import pgx
from fhir_mappers.codes import drugs, gene_symbol
from fhir_mappers.offers import limits
from fhir_mappers.pgx import (
    PgxRow,
    examples,
    hla_alleles,
    normal_diplotype,
    pgx_rows,
    phenotypes_of,
    rows_of,
    scores_of,
)

TABLES = Path(pgx.__file__).parent / "tables"
SPEAKING = [r for r in pgx_rows() if r.indicator != "silent"]


def row(row_id: str) -> PgxRow:
    return next(r for r in pgx_rows() if r.row_id == row_id)


def test_the_table_is_the_shared_one_unchanged(shared: Path) -> None:
    assert (TABLES / "pgx.csv").read_bytes() == (shared / "clinical" / "pgx.csv").read_bytes()
    assert len(pgx_rows()) == 169
    assert len({r.row_id for r in pgx_rows()}) == 169


def test_every_gene_of_a_key_is_in_the_gene_table_and_every_drug_in_the_drug_table() -> None:
    known = {gene_symbol([("", f"HGNC:{n}")]) for n in range(30000)}
    ingredients = {d.rxcui: d.ingredient for d in drugs() if d.rxcui}
    for r in pgx_rows():
        assert {g.partition("*")[0] for g in r.genes} <= known, r.row_id
        assert ingredients[r.rxcui] == r.drug, r.row_id
        assert r.genes, r.row_id


@pytest.mark.parametrize(
    ("row_id", "gene", "aspect", "inside", "outside"),
    [
        ("PGX-089", "CYP2D6", "score", {2.5, 3.0, 6.0}, {2.25, 0.0}),
        ("PGX-091", "CYP2D6", "score", {0.25, 1.0}, {0.0, 1.25}),
        ("PGX-019", "DPYD", "score", {1.0}, {0.5, 1.5}),
        ("PGX-105", "CYP2C9", "score", {0.0, 0.5}, {1.0}),
        ("PGX-010", "CYP2C19", "phenotype", {"Poor Metabolizer"}, {"Likely Poor Metabolizer"}),
        ("PGX-168", "CYP2C9", "genotype", {"*1/*3", "*2/*3"}, {"*3/*3"}),
        ("PGX-169", "UGT1A1", "genotype", {"*28/*28", "*6/*6", "*6/*28"}, {"*1/*28"}),
        ("PGX-029", "HLA-B*57:01", "presence", {"positive"}, {"negative"}),
        ("PGX-087", "VKORC1", "genotype", {"-1639 GA"}, {"-1639 AA"}),
    ],
)
def test_a_key_holds_what_it_says_and_nothing_beside_it(
    row_id: str, gene: str, aspect: str, inside: set[object], outside: set[object]
) -> None:
    part = next(p for p in row(row_id).key if p.gene == gene)
    held: frozenset[object] = frozenset(part.scores) if aspect == "score" else frozenset(part.values)
    assert part.aspect == aspect
    assert inside <= held
    assert not outside & held


def test_two_gene_keys_ask_both_genes_and_susceptibility_asks_either() -> None:
    assert {len(r.key) for r in pgx_rows() if r.drug == "azathioprine"} == {2}
    assert [p.aspect for p in row("PGX-085").key] == ["not tested", "not tested"]
    assert {r.drug for r in pgx_rows() if r.any_gene} == {"sevoflurane", "desflurane", "isoflurane", "succinylcholine"}


def test_a_row_speaks_exactly_when_it_has_words_for_what_happens() -> None:
    for r in pgx_rows():
        assert bool(r.consequence and r.do) == (r.indicator != "silent"), r.row_id
        assert len(r.consequence) <= 60, r.row_id
        assert len(r.do) <= 60, r.row_id


@pytest.mark.parametrize("r", SPEAKING, ids=lambda r: r.row_id)
def test_every_number_of_the_wording_stands_in_the_instruction_or_its_note(r: PgxRow) -> None:
    given = set(re.findall(r"\d+(?:\.\d+)?", f"{r.instruction} {r.note}"))
    said = re.findall(r"\d+(?:\.\d+)?", re.sub(r"\b[A-Z]+\d[A-Z0-9]*\b", "", f"{r.do} {r.consequence}"))
    assert set(said) <= given, (r.do, r.instruction)
    if r.limit is not None:
        assert f"{r.limit.milligrams:g}" in given
    if r.fraction is not None:
        assert f"{r.fraction:.0%}" in r.instruction


def test_alternatives_are_named_by_their_code_and_each_can_be_checked() -> None:
    # the table's list for voriconazole names isavuconazole first, and its one code is posaconazole's
    assert row("PGX-127").alternatives == (("282446", "posaconazole"),)
    assert row("PGX-004").alternatives == (("613391", "prasugrel"), ("1116632", "ticagrelor"))
    assert {code for r in pgx_rows() for code, _ in r.alternatives} <= set(limits())


def test_clopidogrel_is_not_pravastatin() -> None:
    # README of the tables: a public best-effort map gives clopidogrel the code of pravastatin.
    assert {r.drug for r in rows_of("32968")} == {"clopidogrel"}
    assert {r.drug for r in rows_of("42463")} == {"pravastatin"}
    assert {r.drug for r in rows_of("1256")} == {"azathioprine"}


@pytest.mark.parametrize(
    ("gene", "diplotype", "phenotype"),
    [
        ("CYP2C19", "*2/*2", "Poor Metabolizer"),
        ("CYP2C19", "*17/*2", "Intermediate Metabolizer"),
        ("SLCO1B1", "*5/*1", "Decreased Function"),
        ("TPMT", "*3A/*1", "Intermediate Metabolizer"),
        ("NUDT15", "*1/*3", "Intermediate Metabolizer"),
        ("MT-RNR1", "m.1555A>G", "increased risk"),
    ],
)
def test_an_example_of_the_table_gives_its_phenotype_whatever_the_order_of_alleles(
    gene: str, diplotype: str, phenotype: str
) -> None:
    assert examples()[(gene, normal_diplotype(diplotype))].phenotypes == {phenotype}


@pytest.mark.parametrize(
    ("gene", "diplotype", "scores"),
    [
        ("DPYD", "Reference/*2A", {1.0}),
        ("DPYD", "c.2846A>T/Reference", {1.5}),
        ("DPYD", "*13/*2A", {0.0}),
        ("CYP2C9", "*3/*1", {1.0}),
        ("CYP2D6", "*4/*1", {0.25, 0.5, 0.75, 1.0}),
    ],
)
def test_an_example_of_the_table_gives_its_activity_score_as_far_as_the_key_says(
    gene: str, diplotype: str, scores: set[float]
) -> None:
    assert examples()[(gene, normal_diplotype(diplotype))].scores == scores


def test_a_diplotype_that_is_no_example_means_nothing() -> None:
    assert ("CYP2C19", "*2/*35") not in examples()
    assert ("CYP2D6", "*1/*41") not in examples()


@pytest.mark.parametrize(
    ("gene", "phenotype", "scores"),
    # CPIC phenotype tables: CYP2D6 consensus 2020, DPYD 2018, CYP2C9 2020
    [
        ("CYP2D6", "Poor Metabolizer", {0.0}),
        ("CYP2D6", "Intermediate Metabolizer", {0.25, 0.5, 0.75, 1.0}),
        ("CYP2D6", "Normal Metabolizer", {1.25, 1.5, 1.75, 2.0, 2.25}),
        ("DPYD", "Intermediate Metabolizer", {1.0, 1.5}),
        ("CYP2C9", "Poor Metabolizer", {0.0, 0.5}),
        ("CYP2C19", "Poor Metabolizer", set()),
        ("DPYD", "Indeterminate", set()),
    ],
)
def test_a_phenotype_stands_for_the_scores_cpic_counts_to_it(gene: str, phenotype: str, scores: set[float]) -> None:
    assert scores_of(gene, phenotype) == scores
    if scores:
        assert phenotypes_of(gene, scores) == {phenotype}


def test_the_scores_of_a_phenotype_are_those_of_cpics_own_table(shared: Path) -> None:
    with gzip.open(shared / "data" / "genomics_cpic" / "diplotype_phenotype.csv.gz", "rt", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["activity_score"] not in ("", "n/a")]
    assert len(rows) > 5000
    for r in rows:
        score = float(r["activity_score"].removeprefix("≥"))
        if score <= 6.0:
            assert score in scores_of(r["gene"], r["phenotype"]), r


def test_the_tables_examples_agree_with_cpics_own_diplotypes(shared: Path) -> None:
    with gzip.open(shared / "data" / "genomics_cpic" / "diplotype_phenotype.csv.gz", "rt", encoding="utf-8") as file:
        known = {(r["gene"], normal_diplotype(r["diplotype"])): r for r in csv.DictReader(file)}
    checked = 0
    for key, meaning in examples().items():
        found = known.get(key)
        if found is None:
            continue
        if meaning.phenotypes and found["phenotype"] != "Indeterminate":
            (phenotype,) = meaning.phenotypes
            assert found["phenotype"].startswith(phenotype), key
            checked += 1
        if meaning.scores and found["activity_score"] not in ("", "n/a"):
            assert float(found["activity_score"].removeprefix("≥")) in meaning.scores, key
            checked += 1
    assert checked >= 25


def test_the_hla_alleles_are_those_some_row_asks_for() -> None:
    assert hla_alleles() == ("HLA-A*31:01", "HLA-B*15:02", "HLA-B*57:01", "HLA-B*58:01")
