"""Charlson and Elixhauser against the weights their authors published."""

from __future__ import annotations

import pytest

from fhir_mappers.comorbidity import Comorbidity, Scheme, comorbidity

ICD10CM = "http://hl7.org/fhir/sid/icd-10-cm"


def score(scheme: Scheme, *codes: str) -> Comorbidity:
    return comorbidity([(ICD10CM, code) for code in codes], scheme)


@pytest.mark.parametrize(
    ("code", "points"),
    [
        # Charlson 1987, table 3: weights 1, 2, 3 and 6
        ("I21.9", 1), ("I50.9", 1), ("I70.0", 1), ("I63.9", 1), ("F03.90", 1), ("J44.9", 1), ("M32.9", 1), ("K25.9", 1),
        ("K73.9", 1), ("E11.9", 1), ("G81.90", 2), ("N18.6", 2), ("E11.21", 2), ("C34.90", 2), ("C91.00", 2),
        ("C83.30", 2), ("K72.90", 3), ("C78.00", 6), ("B20", 6),
    ],
)  # fmt: skip
def test_each_condition_of_charlson_has_its_published_weight(code: str, points: int) -> None:
    assert score("charlson", code).points == points


@pytest.mark.parametrize(
    ("code", "points"),
    [
        # van Walraven 2009, table 2
        ("I50.9", 7), ("I48.91", 5), ("I34.0", -1), ("I27.0", 4), ("I70.0", 2), ("I10", 0), ("G81.90", 7), ("G35", 6),
        ("J44.9", 3), ("E11.9", 0), ("N18.6", 5), ("K73.9", 11), ("C83.30", 9), ("C78.00", 12), ("C34.90", 4),
        ("D68.9", 3), ("E66.9", -4), ("E43", 6), ("E87.6", 5), ("D50.0", -2), ("D50.9", -2), ("F11.10", -7),
        ("F32.9", -3),
    ],
)  # fmt: skip
def test_each_condition_of_elixhauser_has_its_published_weight(code: str, points: int) -> None:
    assert score("elixhauser", code).points == points


def test_the_graver_of_two_forms_counts_and_the_milder_is_not_added() -> None:
    # Quan 2005: complicated over uncomplicated diabetes, severe over mild liver disease, metastasis over tumour
    assert score("charlson", "E11.9", "E11.21") == Comorbidity(2, ("dm_cx",))
    assert score("charlson", "K73.9", "K72.90") == Comorbidity(3, ("severe_liver",))
    assert score("charlson", "C34.90", "C78.00") == Comorbidity(6, ("mets",))
    assert score("elixhauser", "C34.90", "C78.00") == Comorbidity(12, ("mets",))


def test_a_group_counts_once_and_groups_add_up() -> None:
    # by hand: infarction 1 + heart failure 1 + diabetes with complication 2 + lung disease 1 = 5
    assert score("charlson", "I21.9", "I25.2", "I50.9", "E11.21", "E11.9", "J44.9").points == 5
    # by hand: heart failure 7 + arrhythmia 5 + obesity -4 + electrolytes 5 = 13
    assert score("elixhauser", "I50.9", "I48.91", "E66.9", "E87.6").points == 13


def test_codes_of_other_systems_and_of_no_group_count_nothing() -> None:
    assert comorbidity([("http://snomed.info/sct", "I21.9"), (ICD10CM, "Z00.0")], "charlson") == Comorbidity(0, ())
    assert comorbidity([("http://hl7.org/fhir/sid/icd-10", "i219")], "charlson").points == 1
