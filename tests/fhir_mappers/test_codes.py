"""The tables: what a code and a unit mean."""

from __future__ import annotations

import csv
import re
from datetime import timedelta
from importlib import resources

import pytest

from fhir_mappers import codes
from fhir_mappers.codes import (
    ATC,
    ICD10CM,
    LOINC,
    RXNORM,
    analytes,
    check_digit_ok,
    condition_concepts,
    drug_concepts,
    find_drugs,
    find_imaging_order,
    find_lab,
    gene_symbol,
    imaging_orders,
    lab_codes,
    nodule_terms,
)
from fhir_mappers.units import UnknownUnit, normalise_unit

TABLES = resources.files("fhir_mappers").joinpath("tables")


def column(table: str, name: str) -> list[str]:
    return [row[name] for row in csv.DictReader(TABLES.joinpath(table).read_text(encoding="utf-8").splitlines())]


@pytest.mark.parametrize("table", ["labs.csv", "vitals.csv", "imaging_orders.csv"])
def test_every_loinc_code_passes_its_check_digit(table: str) -> None:
    # A spreadsheet turns 3-4 into a date; the check digit finds it.
    assert [c for c in column(table, "loinc") if not check_digit_ok(c)] == []


@pytest.mark.parametrize(("code", "good"), [("2160-0", True), ("718-7", True), ("2160-1", False), ("3-Apr", False)])
def test_the_check_digit_of_a_loinc_code_is_mod_10(code: str, good: bool) -> None:
    # The tables' README works both of the good ones by hand: 2160 -> 0, 718 -> 7.
    assert check_digit_ok(code) is good


@pytest.mark.parametrize(
    ("loinc", "value", "unit", "expected"),
    [
        # "Worked conversions for tests" of the README beside the tables.
        ("2160-0", 180, "umol/L", 2.036),
        ("3094-0", 7, "mmol/L", 19.61),
        ("2345-7", 10, "mmol/L", 180.2),
        ("1975-2", 34.2, "umol/L", 2.00),
        ("17861-6", 2.5, "mmol/L", 10.02),
        ("718-7", 8.5, "mmol/L", 13.70),
        ("4548-4", 48, "mmol/mol", 6.54),
        ("2524-7", 36, "mg/dL", 4.00),
        ("2703-7", 8, "kPa", 60.0),
        ("8310-5", 98.6, "[degF]", 37.0),
        ("48065-7", 0.5, "mg/L{FEU}", 500),
        ("6598-7", 0.014, "ng/mL", 14),
    ],
)
def test_units_convert_as_the_readme_of_the_tables_works_them_out(
    loinc: str, value: float, unit: str, expected: float
) -> None:
    assert lab_codes()[loinc].to_canonical(value, unit) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("loinc", ["2951-2", "2823-3", "2075-0", "1963-8"])
def test_a_milliequivalent_of_a_monovalent_ion_is_a_millimole(loinc: str) -> None:
    for spelling in ("mEq/L", "meq/L", "meq/l", "mmol/L", "mmol/l"):
        assert lab_codes()[loinc].to_canonical(4.1, spelling) == 4.1


def test_a_milliequivalent_of_calcium_or_magnesium_is_half_a_millimole() -> None:
    # Two charges an ion: 5 meq/L of calcium are 2.5 mmol/L, which the README gives as 10.02 mg/dL.
    assert lab_codes()["17861-6"].to_canonical(5, "mEq/L") == pytest.approx(10.02, rel=1e-3)
    magnesium = lab_codes()["19123-9"]
    assert magnesium.to_canonical(2, "meq/L") == pytest.approx(magnesium.to_canonical(1, "mmol/L"), rel=1e-3)


@pytest.mark.parametrize(
    ("printed", "ucum"),
    [
        ("mg/dl", "mg/dL"),
        ("IU/L", "U/L"),
        ("[iU]/L", "U/L"),
        ("u[iU]/mL", "u[IU]/mL"),
        ("K/uL", "10*3/uL"),
        ("10^9/L", "10*9/L"),
        ("µmol/l", "umol/L"),
        ("μg/L", "ug/L"),
        ("mcg/mL", "ug/mL"),
        ("mmHg", "mm[Hg]"),
        ("°F", "[degF]"),
        ("mL/min/1.73m2", "mL/min/{1.73_m2}"),
        ("ml/min/1.73 m²", "mL/min/{1.73_m2}"),
        ("mmol/mol", "mmol/mol"),
        ("mol/L", "mol/L"),
        ("[lb_av]", "[lb_av]"),
        ("fl", "fL"),
    ],
)
def test_printed_units_are_brought_to_ucum(printed: str, ucum: str) -> None:
    assert normalise_unit(printed) == ucum


@pytest.mark.parametrize("unit", ["mmol", "g", "MMOL/L", "uU/ML", "", None])
def test_an_unlisted_or_missing_unit_of_creatinine_is_never_guessed(unit: str | None) -> None:
    with pytest.raises(UnknownUnit):
        lab_codes()["2160-0"].to_canonical(1.0, unit)


def test_a_unit_whose_case_makes_it_another_unit_is_not_accepted() -> None:
    # mg/dL and Mg/dL differ by nine orders of magnitude; only spellings the README lists are mended.
    with pytest.raises(UnknownUnit):
        lab_codes()["2160-0"].to_canonical(1.0, "Mg/dL")


def test_a_potassium_without_a_unit_is_in_millimoles() -> None:
    assert lab_codes()["2823-3"].to_canonical(4.0, None) == 4.0


def test_oxygen_saturation_2708_6_is_the_vital_sign_unless_a_laboratory_measured_it() -> None:
    pair = [(LOINC, "2708-6")]
    at_bedside, in_laboratory = find_lab(pair), find_lab(pair, laboratory=True)
    assert at_bedside is not None
    assert in_laboratory is not None
    assert (at_bedside.analyte, in_laboratory.analyte) == ("spo2", "sao2")


def test_the_preferred_of_two_codes_of_one_observation_is_read() -> None:
    row = find_lab([(LOINC, "38483-4"), (LOINC, "2160-0")])
    assert row is not None
    assert row.loinc == "2160-0"


def test_a_code_of_another_system_is_not_a_loinc_code() -> None:
    assert find_lab([("http://hospital.example/codes", "2160-0"), ("", "2160-0")]) is None


def test_every_analyte_has_one_canonical_unit() -> None:
    units: dict[str, set[str]] = {}
    for row in lab_codes().values():
        units.setdefault(row.analyte, set()).add(row.unit)
    assert {a: u for a, u in units.items() if len(u) > 1} == {}
    assert analytes()["creatinine"].loinc == "2160-0"


def test_sex_decides_the_reference_range_and_an_unknown_sex_gets_the_wider() -> None:
    row = lab_codes()["2160-0"]
    assert row.reference_range("male") == (0.74, 1.35)
    assert row.reference_range("female") == (0.59, 1.04)
    assert row.reference_range("unknown") == (0.59, 1.35)


def test_an_icd_10_code_belongs_to_the_groups_its_prefix_names_with_or_without_a_dot() -> None:
    assert "heart_failure" in condition_concepts([(ICD10CM, "I50.9")])
    assert condition_concepts([(ICD10CM, "I509")]) == condition_concepts([(ICD10CM, "i50.9")])
    assert condition_concepts([("http://snomed.info/sct", "I50.9")]) == frozenset()
    assert condition_concepts([(ICD10CM, "J00")]) == frozenset()


@pytest.mark.parametrize(
    ("rxcui", "ingredient"),
    # The README's trap: a public map gives clopidogrel the code of pravastatin.
    [("32968", "clopidogrel"), ("42463", "pravastatin"), ("1256", "azathioprine"), ("6387", "lidocaine")],
)
def test_a_rxcui_means_its_own_ingredient(rxcui: str, ingredient: str) -> None:
    assert {d.ingredient for d in find_drugs([(RXNORM, rxcui)])} <= {ingredient}


def test_clopidogrel_and_metformin_are_known_by_rxnorm_and_atc() -> None:
    assert {d.ingredient for d in find_drugs([(RXNORM, "32968")])} == {"clopidogrel"}
    assert drug_concepts([(RXNORM, "6809")]) == drug_concepts([(ATC, "A10BA02")]) == {"metformin"}


def test_an_nsaid_is_a_nephrotoxin_too() -> None:
    assert {"nsaid", "nephrotoxin"} <= drug_concepts([(RXNORM, "5640")])  # ibuprofen


def test_a_chest_ct_order_says_whether_it_has_contrast() -> None:
    plain, contrast = find_imaging_order([(LOINC, "29252-4")]), find_imaging_order([(LOINC, "24628-0")])
    assert plain is not None
    assert contrast is not None
    assert (plain.contrast, contrast.contrast) == ("none", "iodinated_iv")


def test_gene_ids_are_well_formed_and_give_one_symbol_each() -> None:
    ids, symbols = column("genes.csv", "hgnc"), column("genes.csv", "symbol")
    assert len(set(ids)) == len(ids)
    assert len(set(symbols)) == len(symbols)
    assert all(re.fullmatch(r"HGNC:\d+", i) for i in ids)
    assert gene_symbol([("http://www.genenames.org/geneId", "HGNC:2621")]) == "CYP2C19"


def test_every_duration_in_the_tables_can_be_read() -> None:
    assert codes._duration("PT8H") is not None
    assert all(row.stale_outpatient is None or row.stale_outpatient.days >= 0 for row in lab_codes().values())


def test_the_windows_of_a_repeated_study_are_the_tables_in_hospital_and_outside() -> None:
    film, angiogram = imaging_orders()["36643-5"], imaging_orders()["36147-7"]
    assert (film.window_acute, film.window_outpatient) == (timedelta(hours=12), timedelta(hours=24))
    assert (angiogram.window_acute, angiogram.window_outpatient) == (timedelta(hours=72), timedelta(hours=168))


def test_a_nodule_code_means_something_in_its_own_role_only() -> None:
    radlex = (("http://radlex.org", "RID50152"),)
    assert nodule_terms(radlex, "attenuation") == {"part_solid"}
    assert nodule_terms(radlex, "size") == frozenset()
    assert nodule_terms((("http://snomed.info/sct", "39607008"),), "finding") == frozenset()


@pytest.mark.parametrize(
    ("printed", "ucum"),
    [
        ("ng/mL FEU", "ng/mL{FEU}"),
        ("ug/L FEU", "ug/L{FEU}"),
        ("mg/l (DDU)", "mg/L{DDU}"),
        ("mcg/mL FEU", "ug/mL{FEU}"),
        ("FEU", "FEU"),
    ],
)
def test_a_d_dimer_keeps_which_of_its_two_units_it_was_printed_in(printed: str, ucum: str) -> None:
    assert normalise_unit(printed) == ucum
