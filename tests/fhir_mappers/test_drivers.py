"""tables/drivers.csv: what drives a lung tumour, and what only looks like it."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import pytest

from fhir_mappers import drivers as module
from fhir_mappers.codes import drugs
from fhir_mappers.drivers import drivers

TABLE = Path(module.__file__).parent / "tables" / "drivers.csv"


def found(gene: str, value: str) -> set[str]:
    return {d.name for d in drivers() if d.matches(gene, value)}


@pytest.mark.parametrize(
    ("gene", "value", "name"),
    [
        # EGFR exon 19 is codons 729 to 761; these two are the commonest deletions
        ("EGFR", "p.Glu746_Ala750del", "EGFR exon 19 deletion"),
        ("EGFR", "p.Leu747_Pro753delinsSer", "EGFR exon 19 deletion"),
        ("EGFR", "p.Leu858Arg", "EGFR p.Leu858Arg"),
        ("EGFR", "p.Ala767_Val769dup", "EGFR exon 20 insertion"),
        ("EGFR", "p.Asp770_Asn771insGly", "EGFR exon 20 insertion"),
        ("ALK", "fusion", "ALK fusion"),
        ("ALK", "EML4::ALK", "ALK fusion"),
        ("ROS1", "CD74::ROS1", "ROS1 fusion"),
        ("RET", "KIF5B::RET", "RET fusion"),
        ("NTRK3", "fusion", "NTRK3 fusion"),
        ("BRAF", "p.Val600Glu", "BRAF p.Val600Glu"),
        ("KRAS", "p.Gly12Cys", "KRAS p.Gly12Cys"),
        ("MET", "p.Asp1010Asn", "MET exon 14 skipping"),
        ("MET", "NM_000245.4:c.3028+1G>A", "MET exon 14 skipping"),
        ("ERBB2", "p.Tyr772_Ala775dup", "HER2 mutation"),
        ("ERBB2", "p.Ser310Phe", "HER2 mutation"),
    ],
)
def test_every_named_driver_is_recognised(gene: str, value: str, name: str) -> None:
    assert found(gene, value) == {name}


@pytest.mark.parametrize(
    ("gene", "value"),
    [
        ("EGFR", "p.Thr790Met"),
        ("EGFR", "p.Leu861Gln"),
        ("EGFR", "p.Glu746fs"),  # a frameshift is no in-frame deletion
        ("EGFR", "p.Ala763_Tyr764insPheGlnGluAla"),  # sensitive to EGFR inhibitors, not treated as exon 20 insertion
        ("EGFR", "p.Arg108Lys"),
        ("KRAS", "p.Gly12Asp"),
        ("BRAF", "p.Val600Lys"),
        ("ALK", "p.Gly1202Arg"),  # resistance, no fusion
        ("MET", "p.Thr1010Ile"),
        ("MET", "NM_000245.4:c.2942C>T"),
        ("TP53", "p.Arg175His"),
        ("KRAS", "p.Leu858Arg"),
    ],
)
def test_neighbours_resistance_and_other_genes_are_not(gene: str, value: str) -> None:
    assert found(gene, value) == set()


def test_every_row_has_a_source_an_owner_a_review_date_and_drugs_of_the_table() -> None:
    known = {d.ingredient for d in drugs()}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert row["citation"]
            assert row["owner"]
            assert row["url"].startswith("https://")
            assert date(2026, 11, 30) < date.fromisoformat(row["review_by"]) <= date(2027, 11, 30)
            assert row["rule"] in ("LC-02", "LC-03")
            assert {name for option in row["options"].split(";") for name in option.split("+")} <= known
