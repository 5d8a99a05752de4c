"""Training tables as records: units, what may not be known yet, and who must not be mixed with whom."""

from __future__ import annotations

import csv
import math
from datetime import timedelta
from importlib import resources
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fhir_mappers.codes import check_digit_ok, lab_codes, normalise_unit
from fhir_mappers.sources import EPOCH, Case, SourceError, load_sources, person, split_of, variables
from fhir_mappers.sources.films import nih_targets, read_hannover, read_kermany, read_nih14
from fhir_mappers.sources.labs import _sample_hours, read_physionet2012, read_physionet2019, read_tongji


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    return shared / "data"


@pytest.fixture(scope="session")
def stays(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 stays of PhysioNet 2012, so that a test need not read three million rows."""
    folder, source = tmp_path_factory.mktemp("p12"), data / "labs_physionet2012"
    table = pd.read_csv(source / "stays.csv").head(40)
    series = pd.read_parquet(source / "timeseries_long.parquet", filters=[("record_id", "<=", table.record_id.max())])
    table.to_csv(folder / "stays.csv", index=False)
    series.to_parquet(folder / "timeseries_long.parquet")
    return folder


@pytest.fixture(scope="session")
def hours(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 60 patients of PhysioNet 2019, five of them septic."""
    folder, source = tmp_path_factory.mktemp("p19"), data / "labs_physionet2019_setB"
    patients = pd.read_csv(source / "patients.csv")
    chosen = pd.concat([patients[patients.sepsis == 0].head(55), patients[patients.sepsis == 1].head(5)])
    chosen.to_csv(folder / "patients.csv", index=False)
    hourly = pd.read_parquet(source / "hourly.parquet", filters=[("patient_id", "in", list(chosen.patient_id))])
    hourly.to_parquet(folder / "hourly.parquet")
    return folder


def rows() -> list[dict[str, str]]:
    path = resources.files("fhir_mappers").joinpath("tables", "training_variables.csv")
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_every_training_variable_has_a_code_we_know_in_a_unit_its_table_converts() -> None:
    for row in rows():
        assert check_digit_ok(row["loinc"]), row
        assert normalise_unit(row["unit"]) in lab_codes()[row["loinc"]].conversions, row


@pytest.mark.parametrize(
    ("source", "variable"),
    [("physionet2019", "Lactate"), ("physionet2019", "Magnesium"), ("physionet2012", "Mg"), ("tongji", "creatinine")],
)
def test_a_variable_whose_unit_the_source_leaves_open_is_not_read(source: str, variable: str) -> None:
    assert variable not in variables(source)


def test_inspired_oxygen_is_a_fraction_in_the_table_and_per_cent_in_the_record() -> None:
    # LOINC 3150-6, as some maps write it, fails its check digit; the code is 3150-0.
    variable = variables("physionet2019")["FiO2"]
    assert variable.code.loinc == "3150-0"
    lab = variable.lab(0.4, EPOCH, "male", "Observation/1")
    assert lab is not None
    assert (lab.value, lab.unit) == (pytest.approx(40.0), "%")
    assert variable.lab(40.0, EPOCH, "male", "Observation/1") is None  # per cent in a fraction's column: 4000 %
    assert variable.lab(-50.0, EPOCH, "male", "Observation/1") is None


def test_troponin_and_d_dimer_arrive_in_the_units_of_the_tables() -> None:
    troponin = variables("physionet2012")["TroponinT"].lab(0.014, EPOCH, "female", "Observation/1")
    assert troponin is not None
    assert (troponin.value, troponin.unit) == (
        pytest.approx(14.0),
        "ng/L",
    )  # README of the tables: 0.014 ng/mL = 14 ng/L
    dimer = variables("hannover")["d_dimer"].lab(0.5, EPOCH, "male", "Observation/1")
    assert dimer is not None
    assert (dimer.value, dimer.high) == (pytest.approx(500.0), pytest.approx(500.0))


def test_the_age_of_a_person_is_the_years_it_was_made_from() -> None:
    as_of = EPOCH + timedelta(hours=48)
    for ages in ((67, 67), (1, 5), (18, 18), (90, 90)):
        assert person("x", "female", ages, as_of).ages(as_of) == ages


def test_a_held_out_patient_in_a_training_table_is_refused() -> None:
    for text in ("test", "held_out", float("nan"), None):
        with pytest.raises(SourceError, match="split"):
            split_of(text)


def test_a_missing_folder_says_what_to_point_at(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="point the data folder"):
        next(read_physionet2012(tmp_path / "labs_physionet2012"))


def all_cases(data: Path, stays: Path, hours: Path) -> list[Case]:
    cases = [*read_physionet2012(stays), *read_physionet2019(hours), *read_tongji(data / "labs_tongji_covid19")]
    cases += [*islice(read_hannover(data / "cxr_hannover_paired"), 25)]
    cases += [
        *islice(read_nih14(data / "cxr_nih14_subset"), 25),
        *islice(read_kermany(data / "cxr_kermany_pediatric"), 25),
    ]
    return cases


def test_nothing_in_a_record_is_later_than_its_moment_or_of_unknown_unit(data: Path, stays: Path, hours: Path) -> None:
    cases = all_cases(data, stays, hours)
    assert len(cases) > 400
    for case in cases:
        record = case.record
        assert all(lab.at <= record.as_of for lab in record.labs)
        assert all(image.at <= record.as_of for image in record.images)
        assert all(lab.unit == lab_codes()[lab.loinc].unit for lab in record.labs)
        assert list(record.labs) == sorted(record.labs, key=lambda lab: lab.at, reverse=True)


def test_scores_and_lengths_of_stay_are_nowhere_in_a_record(stays: Path) -> None:
    case = next(read_physionet2012(stays))
    assert not {lab.name for lab in case.record.labs} & {"SAPS", "SOFA"}
    assert set(case.labels) == {"in_hospital_death"}
    assert case.confounders == {}
    assert case.record.as_of - EPOCH == timedelta(hours=48)


def test_a_stay_keeps_its_values_in_the_tables_units(stays: Path) -> None:
    # Record 132539 of the challenge: first heart rate 73/min at minute 7, first GCS 15 (first rows of set a).
    case = next(c for c in read_physionet2012(stays) if c.patient == "p12-132539")
    rates = [lab for lab in case.record.labs if lab.analyte == "heart_rate"]
    assert (rates[-1].value, rates[-1].at - EPOCH) == (73.0, timedelta(minutes=7))
    assert [lab.value for lab in case.record.labs if lab.analyte == "gcs_total"][-1] == 15.0
    assert case.record.age_years() == (54, 54)
    assert case.record.person.sex == "female"


def test_sampled_hours_stand_for_all_hours_of_their_kind() -> None:
    septic = np.array([False] * 30 + [True] * 10)
    chosen = _sample_hours(7, septic, valid=False)
    assert sum(weight for hour, weight in chosen if not septic[hour]) == pytest.approx(30)
    assert sum(weight for hour, weight in chosen if septic[hour]) == pytest.approx(10)
    assert chosen == _sample_hours(7, septic, valid=False)
    assert len({hour for hour, _ in chosen}) == len(chosen) <= 9


def test_a_sepsis_case_is_labelled_by_its_own_hour(hours: Path) -> None:
    table = pd.read_parquet(hours / "hourly.parquet")
    by_patient = {f"p19-{key}": stay.SepsisLabel.to_numpy() for key, stay in table.groupby("patient_id")}
    positives = 0
    for case in read_physionet2019(hours):
        hour = round((case.record.as_of - EPOCH).total_seconds() / 3600)
        assert case.labels["sepsis_onset"] == by_patient[case.patient][hour]
        positives += int(case.labels["sepsis_onset"])
    assert positives >= 5


def test_tongji_is_read_a_day_after_the_first_test_and_a_day_before_the_outcome(data: Path) -> None:
    folder = data / "labs_tongji_covid19"
    table = pd.read_csv(folder / "timeseries_wide.csv.gz")
    outcome = {f"tj-{k}": (g.hours_from_admission + g.hours_to_outcome).max() for k, g in table.groupby("patient_id")}
    cases = list(read_tongji(folder))
    assert 250 < len(cases) < 375  # of 375, less those who reached the outcome within two days
    for case in cases:
        assert {lab.analyte for lab in case.record.labs} <= {"ldh", "crp"}
        assert all(lab.at >= case.record.as_of - timedelta(hours=24) for lab in case.record.labs)
        assert outcome[case.patient] > 48.0


def test_a_hannover_film_comes_with_results_up_to_its_day_and_the_films_before_it(data: Path) -> None:
    cases = [c for c in read_hannover(data / "cxr_hannover_paired") if c.patient == "hm-042f06a9"]
    table = pd.read_csv(data / "cxr_hannover_paired" / "images_labs_outcomes.csv")
    mine = table[table.patient_id == "042f06a9"].sort_values("days_since_admission")
    assert [c.confounders["day"] for c in cases] == list(mine.days_since_admission)
    assert [len(c.record.images) for c in cases] == [1, 2, 2]
    # First film: CRP 5 mg/L, pCO2 45 and pO2 55 mm[Hg] of its own day; 145 is factor XIII, which has no code.
    first = {lab.analyte: lab.value for lab in cases[0].record.labs}
    assert first == {"crp": 5.0, "pco2_blood": 45.0, "po2_blood": 55.0}
    assert cases[0].record.age_years() is None


def test_values_beyond_the_measuring_range_are_absent_not_infinite(data: Path) -> None:
    table = pd.read_csv(data / "cxr_hannover_paired" / "images_labs_outcomes.csv")
    assert np.isinf(table[["crp_val", "d_dimer_val", "po2_val"]].to_numpy(float)).any()
    for case in read_hannover(data / "cxr_hannover_paired"):
        assert all(math.isfinite(lab.value) for lab in case.record.labs)


def test_children_and_adults_are_never_asked_the_same_question(data: Path) -> None:
    sources = load_sources()
    children = {t.name for t in sources["kermany"].targets(data / "cxr_kermany_pediatric")}
    adults = {
        t.name for n, s in sources.items() if n != "kermany" and s.tier == "open" for t in s.targets(data / s.folder)
    }
    assert children == {"paediatric.pneumonia"}
    assert not children & adults
    for case in islice(read_nih14(data / "cxr_nih14_subset"), 100):
        ages = case.record.age_years()
        assert ages is not None
        assert ages[0] >= 18
    assert next(read_kermany(data / "cxr_kermany_pediatric")).record.age_years() == (1, 5)


def test_a_finding_with_too_few_films_to_judge_it_is_not_offered(data: Path) -> None:
    names = {t.name for t in nih_targets(data / "cxr_nih14_subset")}
    assert "finding.pneumonia" in names
    assert "finding.hernia" not in names  # 8 films in all, none in the validation split
    assert "finding.pneumothorax" not in names  # 4 in the validation split


def test_no_patient_of_a_source_is_in_two_splits(data: Path, stays: Path, hours: Path) -> None:
    splits: dict[str, set[str]] = {}
    for case in all_cases(data, stays, hours):
        splits.setdefault(case.patient, set()).add(case.split)
    # Hannover is judged by its folds; there a patient's split is one too.
    assert all(len(found) == 1 for found in splits.values())
