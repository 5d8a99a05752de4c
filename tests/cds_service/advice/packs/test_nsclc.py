"""Lung cancer as the rules see it: how advanced, which driver, what was tested and from what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from records import NOW, problem, record, source

from cds_service.advice.packs.nsclc import GeneStatus, found_drivers, gene_status, never_smoked, tumour
from fhir_mappers.record import Coded, Event, GeneResult


def cancer(stage: str = "", histology: str = "adenocarcinoma", active: bool = True) -> Event:
    given = problem("lung_cancer", code="C34.11", active=active)
    return Event(
        "condition", given.concepts, given.codes, given.text, None, active, given.source,
        stage=stage, histology=histology,
    )  # fmt: skip


def gene(name: str, value: str, **more: Any) -> GeneResult:
    given = {"kind": "variant", "origin": "somatic", "significance": "pathogenic", **more}
    at = NOW - timedelta(days=given.pop("days", 8))
    return GeneResult(name, given.pop("kind"), value, given.pop("origin"), at, source(), **given)


@pytest.mark.parametrize(
    ("stage", "more", "advanced"),
    [
        ("IVA", (), True),
        ("IIIB", (), True),
        ("IIIA", (), False),
        ("I", (), False),
        ("", (), None),
        ("", (problem(code="C78.7"),), True),
        ("", (problem(code="C79.31"),), True),
        ("", (problem(code="C77.1"),), None),  # lymph nodes may be stage II
        ("IIB", (problem(code="C79.31"),), True),
        ("IIB", (problem(code="C79.31", active=False),), False),
    ],
)
def test_advanced_is_iiib_and_above_or_distant_metastasis(
    stage: str, more: tuple[Event, ...], advanced: bool | None
) -> None:
    found = tumour(record(cancer(stage), *more))
    assert found is not None
    assert found.advanced is advanced


def test_small_cell_cancer_a_trial_and_a_healed_cancer_are_none_of_these_rules_business() -> None:
    assert tumour(record(cancer("IVA", "small-cell"))) is None
    assert tumour(record(cancer("IVA"), cancer("", "small-cell"))) is None
    assert tumour(record(cancer("IVA"), problem(code="Z00.6"))) is None
    assert tumour(record(cancer("IVA", active=False))) is None
    assert tumour(record(problem("any_cancer", code="C50.9"))) is None


def test_the_most_advanced_stage_on_record_counts() -> None:
    staged = Coded("stage_group", "21908-9", ("", ""), "IVB", NOW, source(), "IVB")
    found = tumour(record(cancer("IIIA"), cancer("IIB"), staged))
    assert found is not None
    assert (found.stage, found.advanced) == ("IVB", True)


def test_a_germline_variant_is_never_a_driver_and_one_of_unknown_origin_is_doubtful() -> None:
    assert found_drivers(record(genes=(gene("EGFR", "p.Leu858Arg", origin="germline"),))) == ()
    (doubtful,) = found_drivers(record(genes=(gene("EGFR", "p.Leu858Arg", origin="unknown"),)))
    assert doubtful.doubts == ("whether EGFR was found in the tumour or in the germline",)
    (certain,) = found_drivers(record(genes=(gene("EGFR", "p.Leu858Arg"),)))
    assert (certain.doubts, certain.name) == ((), "EGFR p.Leu858Arg")


@pytest.mark.parametrize("significance", ["uncertain significance", "likely benign", "benign"])
def test_uncertain_and_benign_variants_are_no_drivers(significance: str) -> None:
    assert found_drivers(record(genes=(gene("EGFR", "p.Leu858Arg", significance=significance),))) == ()


def test_a_certain_driver_comes_before_a_newer_doubtful_one() -> None:
    both = (gene("ALK", "fusion", significance="", days=1), gene("RET", "KIF5B::RET", days=60))
    assert [f.name for f in found_drivers(record(genes=both))] == ["RET fusion (KIF5B::RET)", "ALK fusion"]


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ((), "not tested"),
        ((gene("EGFR", "p.Thr790Met"),), "found"),
        ((gene("EGFR", "x", kind="none-found", specimen="tissue"),), "negative"),
        ((gene("EGFR", "x", kind="none-found"),), "negative"),
        ((gene("EGFR", "x", kind="none-found", specimen="plasma"),), "negative in plasma"),
        (
            (gene("EGFR", "x", kind="none-found", specimen="plasma"), gene("EGFR", "x", kind="none-found")),
            "negative",
        ),
        ((gene("EGFR", "x", kind="none-found", origin="germline"),), "not tested"),
        ((gene("ALK", "x", kind="none-found"),), "not tested"),
    ],
)
def test_plasma_that_shows_nothing_is_kept_apart_from_tissue(results: tuple[GeneResult, ...], said: GeneStatus) -> None:
    assert gene_status(record(genes=results), "EGFR") == said


def test_never_smoked_needs_the_answer_and_no_smoking_on_the_problem_list() -> None:
    never = Coded("smoking_status", "72166-2", ("", ""), "", NOW, source(), "never-smoker")
    assert never_smoked(record(never))
    assert not never_smoked(record(never, problem("smoking", code="F17.210")))
    assert not never_smoked(record())
