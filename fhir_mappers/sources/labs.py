"""The laboratory sets: PhysioNet 2012 (death in hospital), PhysioNet 2019 set B (sepsis), Tongji (death)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fhir_mappers.record import Lab, PatientRecord
from fhir_mappers.sources import EPOCH, Case, DataSource, Sex, Variable, person, require, split_of, variables
from models.contract import Target

ADULT = 18
SEX: dict[float, Sex] = {0.0: "female", 1.0: "male"}


def _labs(rows: Iterable[tuple[float, str, float]], known: dict[str, Variable], sex: str, stay: str) -> list[Lab]:
    """Results in the order of `rows` (hours after EPOCH, variable, value); impossible values are dropped."""
    found: list[Lab] = []
    for number, (hours, name, value) in enumerate(rows):
        variable = known.get(name)
        if variable is not None:
            lab = variable.lab(value, EPOCH + timedelta(hours=hours), sex, f"Observation/{stay}-{number}")
            if lab is not None:
                found.append(lab)
    return found


def _newest_first(labs: Iterable[Lab]) -> tuple[Lab, ...]:
    return tuple(sorted(labs, key=lambda lab: lab.at, reverse=True))


def _sex(code: Any) -> Sex:
    return SEX.get(float(code), "unknown")


# ---------------------------------------------------------------------------------------------- PhysioNet 2012

HORIZON_H = 48.0


def read_physionet2012(folder: Path) -> Iterator[Case]:
    """One case a stay, 48 hours after admission to intensive care, with everything charted until then."""
    require(folder, "stays.csv", "timeseries_long.parquet")
    known = variables("physionet2012")
    stays = pd.read_csv(folder / "stays.csv")
    series = pd.read_parquet(folder / "timeseries_long.parquet")
    # A weight is carried forward in the chart hour by hour: only a new value is a measurement.
    weight = series[series.parameter == "Weight"]
    same = (weight.record_id == weight.record_id.shift()) & (weight.value == weight.value.shift())
    series = series.drop(weight.index[same])
    groups = dict(iter(series.groupby("record_id", sort=False)))
    for stay in stays.itertuples(index=False):
        if stay.Age < ADULT:
            continue
        key, sex = f"p12-{stay.record_id}", _sex(stay.Gender)
        group = groups.get(stay.record_id)
        rows: Iterable[tuple[float, str, float]] = ()
        if group is not None:
            rows = zip(group.minute.to_numpy() / 60.0, group.parameter, group.value.astype(float), strict=True)
        as_of = EPOCH + timedelta(hours=HORIZON_H)
        age = int(min(stay.Age, 100))
        record = PatientRecord(
            person(key, sex, (age, age), as_of), as_of, labs=_newest_first(_labs(rows, known, sex, key))
        )
        yield Case(record, {"in_hospital_death": float(stay.in_hospital_death)}, key, split_of(stay.split))


# ---------------------------------------------------------------------------------------------- PhysioNet 2019, set B

HOURS_BEFORE, HOURS_SEPTIC = 3, 6
HOURS_BEFORE_VALID, HOURS_SEPTIC_VALID = 8, 10


def read_physionet2019(folder: Path) -> Iterator[Case]:
    """A few hours of every stay, each with all that was charted until that hour.

    The label is the source's: sepsis begins within 6 hours, or has begun. Hours are drawn without looking at anything
    but the label, from a generator seeded by the patient; `weight` is the number of hours each stands for. Admission
    time, unit and hour of stay are not used: they carry the ward's habits.
    """
    require(folder, "hourly.parquet", "patients.csv")
    known = variables("physionet2019")
    patients = pd.read_csv(folder / "patients.csv").set_index("patient_id")
    hourly = pd.read_parquet(folder / "hourly.parquet")
    names = [name for name in hourly.columns if name in known]
    for patient_id, stay in hourly.groupby("patient_id", sort=False):
        patient = patients.loc[patient_id]
        if patient.age < ADULT:
            continue
        key, sex, split = f"p19-{patient_id}", _sex(patient.gender), split_of(patient.split)
        table = stay[names].to_numpy(np.float64)
        septic = stay.SepsisLabel.to_numpy() == 1
        hours, variable = np.nonzero(np.isfinite(table))
        rows = ((float(h), names[v], float(table[h, v])) for h, v in zip(hours, variable, strict=True))
        labs = _newest_first(_labs(rows, known, sex, key))
        age = int(min(patient.age, 100))
        for hour, weight in _sample_hours(int(patient_id), septic, valid=split == "valid"):
            as_of = EPOCH + timedelta(hours=hour)
            seen = tuple(lab for lab in labs if lab.at <= as_of)
            record = PatientRecord(person(key, sex, (age, age), as_of), as_of, labs=seen)
            yield Case(record, {"sepsis_onset": float(septic[hour])}, key, split, weight=weight)


def _sample_hours(seed: int, septic: Any, *, valid: bool) -> list[tuple[int, float]]:
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, float]] = []
    limits = (HOURS_BEFORE_VALID, HOURS_SEPTIC_VALID) if valid else (HOURS_BEFORE, HOURS_SEPTIC)
    for label, limit in zip((False, True), limits, strict=True):
        hours = np.flatnonzero(septic == label)
        taken = min(limit, len(hours))
        if taken:
            weight = len(hours) / taken
            chosen += [(int(h), weight) for h in np.sort(rng.choice(hours, taken, replace=False))]
    return chosen


# ---------------------------------------------------------------------------------------------- Tongji

AFTER_FIRST_H, BEFORE_OUTCOME_H = 24.0, 24.0


def read_tongji(folder: Path) -> Iterator[Case]:
    """One case a patient: the first day of blood tests, at least a day before the outcome.

    The last tests of this set were taken hours before death, so anything later than the first day flatters.
    """
    require(folder, "timeseries_wide.csv.gz")
    known = variables("tongji")
    table = pd.read_csv(folder / "timeseries_wide.csv.gz")
    for patient_id, rows in table.groupby("patient_id", sort=True):
        measured = rows[rows[list(known)].notna().any(axis=1)]
        first = rows.iloc[0]
        if not len(measured) or first.age < ADULT:
            continue
        start = measured.hours_from_admission.min()
        now = start + AFTER_FIRST_H
        outcome = (measured.hours_from_admission + measured.hours_to_outcome).max()
        if outcome - now < BEFORE_OUTCOME_H:
            continue
        day = measured[measured.hours_from_admission <= now]
        key, sex = f"tj-{patient_id}", ("male" if first.gender == 1 else "female")
        values = (
            (float(row.hours_from_admission - start), name, float(row[name]))
            for _, row in day.iterrows()
            for name in known
            if pd.notna(row[name])
        )
        as_of, age = EPOCH + timedelta(hours=AFTER_FIRST_H), int(min(first.age, 100))
        labs = _newest_first(_labs(values, known, sex, key))
        record = PatientRecord(person(key, "male" if sex == "male" else "female", (age, age), as_of), as_of, labs=labs)
        yield Case(record, {"covid_death": float(first.died)}, key, split_of(first.split))


def _target(name: str, title: str, source: str) -> tuple[Target, ...]:
    return (Target(name, title, ("labs",), source),)


SOURCES = (
    DataSource(
        name="physionet2012",
        folder="labs_physionet2012",
        tier="open",
        title="PhysioNet/CinC Challenge 2012, sets a and b",
        licence="ODC-By 1.0",
        attribution="Silva I, Moody G, Scott DJ, Celi LA, Mark RG. Computing in Cardiology 2012;39:245-248. "
        "Goldberger AL et al. Circulation 2000;101:e215.",
        url="https://physionet.org/content/challenge-2012/1.0.0/",
        ages=(ADULT, None),
        modalities=("labs",),
        targets=lambda _: _target(
            "in_hospital_death", "Death in hospital (of patients in intensive care)", "physionet2012"
        ),
        read=read_physionet2012,
        tables=("stays.csv", "timeseries_long.parquet"),
        notes="Patients in intensive care, seen 48 hours after admission to it.",
    ),
    DataSource(
        name="physionet2019",
        folder="labs_physionet2019_setB",
        tier="open",
        title="PhysioNet/CinC Challenge 2019, training set B",
        licence="CC BY 4.0",
        attribution="Reyna MA et al. Critical Care Medicine 2020;48:210-217, doi 10.1097/CCM.0000000000004145.",
        url="https://physionet.org/content/challenge-2019/1.0.0/",
        ages=(ADULT, None),
        modalities=("labs",),
        targets=lambda _: _target(
            "sepsis_onset", "Onset of sepsis within 6 hours (in intensive care)", "physionet2019"
        ),
        read=read_physionet2019,
        tables=("hourly.parquet", "patients.csv"),
        notes="One hospital's intensive care; how often something is measured carries the ward's own suspicion.",
    ),
    DataSource(
        name="tongji",
        folder="labs_tongji_covid19",
        tier="open",
        title="Tongji Hospital COVID-19 blood tests",
        licence="MIT",
        attribution="Yan L et al. Nature Machine Intelligence 2020;2:283-288; HAIRLAB/Pre_Surv_COVID_19.",
        url="https://doi.org/10.5281/zenodo.3766350",
        ages=(ADULT, None),
        modalities=("labs",),
        targets=lambda _: _target("covid_death", "Death in hospital (COVID-19)", "tongji"),
        read=read_tongji,
        tables=("timeseries_wide.csv.gz",),
        notes="One hospital, early 2020, nearly half died; only LDH and CRP, whose units the source states.",
    ),
)
