"""What is known of a gene: germline only, genotype before phenotype, the newest report, never a guess."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from records import problem, record

from cds_service.advice.packs.genes import TRANSPLANTED, UNKNOWN_SOURCE, GeneState, gene_states
from fhir_mappers.record import Event, GeneResult, Source


def result(gene: str, kind: Any, value: str, origin: Any = "germline", year: int | None = 2024) -> GeneResult:
    at = None if year is None else datetime(year, 8, 1, tzinfo=UTC)
    return GeneResult(gene, kind, value, origin, at, Source(f"Observation/{gene}{kind}{value}{year}"))


def state(*results: GeneResult, events: tuple[Event, ...] = ()) -> GeneState | None:
    return gene_states(record(*events, genes=results)).get(results[0].gene)


def known(*results: GeneResult, **more: Any) -> GeneState:
    found = state(*results, **more)
    assert found is not None
    return found


def test_a_genotype_of_the_table_gives_phenotype_and_score() -> None:
    found = known(result("CYP2C19", "genotype", "*17/*2"))
    assert (found.phenotype, found.genotype, found.cap, found.lower) == (
        "Intermediate Metabolizer",
        "*2/*17",
        False,
        False,
    )
    assert known(result("DPYD", "genotype", "Reference/*2A")).scores == {1.0}
    assert known(result("DPYD", "genotype", "Reference/*2A")).phenotype == "Intermediate Metabolizer"


def test_a_genotype_the_table_does_not_name_is_known_and_means_nothing() -> None:
    found = known(result("CYP2C19", "genotype", "*2/*35"))
    assert (found.phenotype, found.scores, found.genotype) == ("", frozenset(), "*2/*35")


def test_a_phenotype_stands_for_every_score_cpic_counts_to_it_and_a_score_for_its_phenotype() -> None:
    assert known(result("DPYD", "phenotype", "Intermediate Metabolizer")).scores == {1.0, 1.5}
    assert known(result("DPYD", "activity", "1.0")).phenotype == "Intermediate Metabolizer"
    both = known(result("DPYD", "phenotype", "Intermediate Metabolizer"), result("DPYD", "activity", "1.5"))
    assert both.scores == {1.5}


def test_a_report_that_contradicts_itself_says_nothing() -> None:
    found = known(result("DPYD", "phenotype", "Normal Metabolizer"), result("DPYD", "activity", "0.5"))
    assert (found.phenotype, found.scores) == ("", frozenset())


def test_a_somatic_result_is_not_there_and_one_of_unknown_source_informs_only() -> None:
    assert state(result("DPYD", "genotype", "Reference/*2A", "somatic")) is None
    found = known(result("DPYD", "genotype", "Reference/*2A", "unknown"))
    assert found.cap
    assert UNKNOWN_SOURCE in found.unknown


def test_a_germline_result_counts_before_a_newer_one_of_unknown_source() -> None:
    found = known(
        result("CYP2C19", "phenotype", "Normal Metabolizer", "unknown", 2025),
        result("CYP2C19", "genotype", "*2/*2", "germline", 2020),
    )
    assert (found.phenotype, found.cap) == ("Poor Metabolizer", False)


def test_a_genotype_beats_a_reported_phenotype_that_contradicts_it_and_both_are_shown() -> None:
    found = known(
        result("CYP2C19", "phenotype", "Normal Metabolizer", year=2025), result("CYP2C19", "genotype", "*2/*2")
    )
    assert found.phenotype == "Poor Metabolizer"
    assert found.cap
    assert [r.value for r in found.others] == ["Normal Metabolizer"]


def test_a_phenotype_that_agrees_with_the_genotype_lowers_nothing() -> None:
    found = known(result("CYP2C19", "phenotype", "Poor Metabolizer"), result("CYP2C19", "genotype", "*2/*2"))
    assert (found.phenotype, found.cap, found.lower, found.others) == ("Poor Metabolizer", False, False, ())
    narrowed = known(result("CYP2D6", "genotype", "*1/*4"), result("CYP2D6", "activity", "1.0"))
    assert narrowed.scores == {1.0}
    assert not narrowed.cap


def test_of_two_reports_that_differ_the_newest_counts_one_tier_lower() -> None:
    found = known(
        result("CYP2C19", "phenotype", "Poor Metabolizer", year=2025),
        result("CYP2C19", "phenotype", "Normal Metabolizer", year=2019),
    )
    assert (found.phenotype, found.lower, found.cap) == ("Poor Metabolizer", True, False)
    assert [r.value for r in found.others] == ["Normal Metabolizer"]
    genotypes = known(
        result("CYP2C19", "genotype", "*2/*2", year=2019), result("CYP2C19", "genotype", "*1/*1", year=2025)
    )
    assert (genotypes.phenotype, genotypes.lower) == ("Normal Metabolizer", True)


def test_the_same_report_twice_is_one_report() -> None:
    found = known(result("CYP2C19", "genotype", "*2/*2", year=2019), result("CYP2C19", "genotype", "*2/*2", year=2025))
    assert (found.lower, found.others) == (False, ())


def test_a_result_without_a_date_is_older_than_any_with_one() -> None:
    found = known(
        result("CYP2C19", "phenotype", "Normal Metabolizer", year=None),
        result("CYP2C19", "phenotype", "Poor Metabolizer", year=2019),
    )
    assert found.phenotype == "Poor Metabolizer"


@pytest.mark.parametrize("code", ["Z94.4", "Z94.84", "Z94.81", "T86.41"])
def test_after_a_liver_or_marrow_transplant_a_blood_result_informs_only(code: str) -> None:
    found = known(result("CYP2C19", "genotype", "*2/*2"), events=(problem(code=code),))
    assert found.cap
    assert TRANSPLANTED in found.unknown
    assert not known(result("CYP2C19", "genotype", "*2/*2"), events=(problem(code="Z94.0"),)).cap


def test_two_haplotypes_of_one_day_are_a_diplotype_and_one_alone_decides_nothing() -> None:
    pair = known(result("CYP2C19", "haplotype", "*2"), result("CYP2C19", "haplotype", "*3"))
    assert (pair.genotype, pair.phenotype) == ("*2/*3", "Poor Metabolizer")
    alone = known(result("CYP2C19", "haplotype", "*2"))
    assert (alone.genotype, alone.phenotype) == ("", "")
    apart = known(result("CYP2C19", "haplotype", "*2"), result("CYP2C19", "haplotype", "*3", year=2019))
    assert apart.phenotype == ""


def test_an_hla_typing_says_of_every_allele_whether_it_is_there() -> None:
    states = gene_states(record(genes=(result("HLA-B", "genotype", "*57:01/*08:01"),)))
    assert states["HLA-B*57:01"].phenotype == "positive"
    assert states["HLA-B*15:02"].phenotype == "negative"
    assert "HLA-A*31:01" not in states
    one = gene_states(record(genes=(result("HLA-B", "haplotype", "*57:01"),)))
    assert one["HLA-B*57:01"].phenotype == "positive"
    assert "HLA-B*15:02" not in one


def test_a_mitochondrial_variant_of_the_table_is_the_whole_result() -> None:
    found = known(result("MT-RNR1", "variant", "NC_012920.1:m.1555A>G"))
    assert found.phenotype == "increased risk"
    assert state(result("MT-RNR1", "variant", "m.961T>G")) is None
    assert known(result("MT-RNR1", "haplotype", "m.1494C>T")).phenotype == "increased risk"


def test_enzyme_deficiency_on_the_problem_list_counts_where_no_gene_was_tested() -> None:
    states = gene_states(record(problem("g6pd", code="D55.0")))
    assert states["G6PD"].phenotype == "Deficient"
    tested = gene_states(record(problem("g6pd", code="D55.0"), genes=(result("G6PD", "phenotype", "Normal"),)))
    assert tested["G6PD"].phenotype == "Normal"
