"""The film sets: Hannover (films with labs and outcome), NIH ChestX-ray14 (findings), Kermany (children)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image as Pillow

from fhir_mappers.record import Image, Lab, PatientRecord, Source, newest_first
from fhir_mappers.sources import EPOCH, Case, DataSource, Sex, person, require, split_of, variables
from models.contract import Target

ADULT = 18
MIN_VALID_POSITIVES = 10
"""A finding with fewer positive films in the validation split can neither be calibrated nor judged."""


def read_film(path: Path) -> NDArray[np.float32]:
    """An 8-bit grey picture file as (H, W) in [0, 1]."""
    with Pillow.open(path) as picture:
        return np.asarray(picture.convert("L"), np.float32) / 255.0


def _image(path: Path, view: str, at: datetime, key: str) -> Image:
    return Image(read_film(path), view, at, key, key, Source(f"ImagingStudy/{key}"))


# ---------------------------------------------------------------------------------------------- Hannover

LAB_HOUR = timedelta(hours=-2)
"""The FHIR form of this set puts films at 08:00 and results at 06:00 of their day; the table only knows days."""


def read_hannover(folder: Path) -> Iterator[Case]:
    """One case a film: this film and the earlier ones, all results up to its day, the sex; the age is not published."""
    require(folder, "images_labs_outcomes.csv", "images")
    table = pd.read_csv(folder / "images_labs_outcomes.csv")
    for patient_id, films in table.groupby("patient_id", sort=True):
        labs = hannover_labs(films)
        sex: Sex = {"m": "male", "f": "female"}.get(films.iloc[0].sex, "unknown")  # type: ignore[assignment]
        for row in films.itertuples(index=False):
            day = int(row.days_since_admission)
            as_of = EPOCH + timedelta(days=day)
            earlier = films[(films.days_since_admission < day) | (films.image_id == row.image_id)]
            images = [
                _image(
                    folder / film.file,
                    str(film.projection).upper(),
                    EPOCH + timedelta(days=int(film.days_since_admission)),
                    film.image_id,
                )
                for film in earlier.itertuples(index=False)
            ]
            record = PatientRecord(
                person(str(patient_id), sex, None),
                as_of,
                labs=newest_first([lab for lab in labs if lab.at <= as_of], "at"),
                images=newest_first(images, "at")[:2],
            )
            yield Case(
                record,
                {"icu_care": float(row.in_icu_at_image)},
                f"hm-{patient_id}",
                split_of(row.split),
                fold=int(row.cv_fold),
                confounders={"day": float(day), "ap": float(row.projection == "ap")},
            )


def hannover_labs(films: Any) -> list[Lab]:
    """Every result of one patient once, by analyte, day and value; beyond the measuring range (inf) is absent."""
    known = variables("hannover")
    sex = {"m": "male", "f": "female"}.get(films.iloc[0].sex, "unknown")
    found: dict[tuple[str, int, float], Lab] = {}
    for row in films.to_dict("records"):
        for name, variable in known.items():
            offset, value = row[f"{name}_offset"], row[f"{name}_val"]
            if pd.isna(offset) or pd.isna(value) or not math.isfinite(value):
                continue
            day = int(row["days_since_admission"] + offset)
            at = EPOCH + timedelta(days=day) + LAB_HOUR
            lab = variable.lab(float(value), at, sex, f"Observation/{row['patient_id']}-{name}-{day}-{len(found)}")
            if lab is not None:
                found.setdefault((name, day, lab.value), lab)
    return list(found.values())


# ---------------------------------------------------------------------------------------------- NIH ChestX-ray14

FINDINGS = {
    "Atelectasis": ("atelectasis", "Atelectasis"),
    "Cardiomegaly": ("cardiomegaly", "Enlarged heart"),
    "Consolidation": ("consolidation", "Consolidation"),
    "Edema": ("edema", "Pulmonary oedema"),
    "Effusion": ("effusion", "Pleural effusion"),
    "Emphysema": ("emphysema", "Emphysema"),
    "Fibrosis": ("fibrosis", "Fibrosis"),
    "Infiltration": ("infiltration", "Infiltration"),
    "Mass": ("mass", "Mass"),
    "Nodule": ("nodule", "Nodule"),
    "Pleural_Thickening": ("pleural_thickening", "Pleural thickening"),
    "Pneumonia": ("pneumonia", "Pneumonia"),
    "Pneumothorax": ("pneumothorax", "Pneumothorax"),
    "Abnormal": ("abnormal", "Any of the 14 findings"),
}


def _nih_table(folder: Path) -> Any:
    require(folder, "labels.csv", "images")
    table = pd.read_csv(folder / "labels.csv")
    table["Abnormal"] = 1 - table["No_Finding"]
    return table[table.age >= ADULT]


def nih_targets(folder: Path) -> tuple[Target, ...]:
    """The findings with at least MIN_VALID_POSITIVES positive adult films in the validation split."""
    table = _nih_table(folder)
    valid = table[table.split == "valid"]
    return tuple(
        Target(f"finding.{name}", title, ("imaging",), "nih14")
        for column, (name, title) in FINDINGS.items()
        if valid[column].sum() >= MIN_VALID_POSITIVES
    )


def read_nih14(folder: Path) -> Iterator[Case]:
    """One case a film of an adult. Labels are mined from reports; a film's place in the series is a confounder."""
    table, targets = _nih_table(folder), nih_targets(folder)
    columns = {f"finding.{name}": column for column, (name, _) in FINDINGS.items()}
    for row in table.to_dict("records"):
        age = int(min(row["age"], 100))
        sex: Sex = {"M": "male", "F": "female"}.get(row["sex"], "unknown")  # type: ignore[assignment]
        key = Path(row["file"]).stem
        yield Case(
            PatientRecord(
                person(f"nih-{row['patient_id']}", sex, (age, age)),
                EPOCH,
                images=(_image(folder / row["file"], row["view"], EPOCH, key),),
            ),
            {target.name: float(row[columns[target.name]]) for target in targets},
            f"nih-{row['patient_id']}",
            split_of(row["split"]),
            confounders={"ap": float(row["view"] == "AP"), "follow_up": float(min(row["follow_up"], 30))},
        )


# ---------------------------------------------------------------------------------------------- Kermany

KERMANY_AGES = (1, 5)


def read_kermany(folder: Path) -> Iterator[Case]:
    """One case a child's film, AP. Never pooled with adults: age alone would separate the classes."""
    require(folder, "labels.csv", "images")
    for row in pd.read_csv(folder / "labels.csv").to_dict("records"):
        key = f"ker-{row['patient_key']}"
        yield Case(
            PatientRecord(
                person(key, "unknown", KERMANY_AGES),
                EPOCH,
                images=(_image(folder / row["file"], "AP", EPOCH, Path(row["file"]).stem),),
            ),
            {"paediatric.pneumonia": float(row["label"] != "normal")},
            key,
            split_of(row["split"]),
        )


SOURCES = (
    DataSource(
        name="hannover",
        folder="cxr_hannover_paired",
        tier="open",
        title="COVID-19 Image Repository, Hannover Medical School",
        licence="CC BY 3.0",
        attribution="Winther HB, Laser H, Gerbel S, Maschke SK, Hinrichs JB, Vogel-Claussen J, Wacker FK, Höper MM, "
        "Meyer BC. COVID-19 Image Repository, Hannover Medical School.",
        url="https://doi.org/10.25835/0090041",
        ages=(ADULT, None),
        modalities=("imaging", "labs"),
        targets=lambda _: (
            Target("icu_care", "In intensive care at the time of the film (COVID-19)", ("imaging", "labs"), "hannover"),
        ),
        read=read_hannover,
        tables=("images_labs_outcomes.csv",),
        notes="One hospital, COVID-19 only; portable (AP) films and the day of stay give the answer away.",
    ),
    DataSource(
        name="nih14",
        folder="cxr_nih14_subset",
        tier="open",
        title="NIH ChestX-ray14, a subset",
        licence="NIH: no restrictions; link, citation and acknowledgement required",
        attribution="Wang X et al. ChestX-ray8, CVPR 2017, pp. 3462-3471. Data provided by the NIH Clinical Center.",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        ages=(ADULT, None),
        modalities=("imaging",),
        targets=nih_targets,
        read=read_nih14,
        tables=("labels.csv",),
        notes="Labels mined from reports; films picked for pneumonia, so prevalence is artificial.",
    ),
    DataSource(
        name="kermany",
        folder="cxr_kermany_pediatric",
        tier="open",
        title="Kermany paediatric chest radiographs, Guangzhou",
        licence="CC BY 4.0",
        attribution="Kermany D, Zhang K, Goldbaum M. Mendeley Data v2, doi 10.17632/rscbjbr9sj.2; Cell 2018;172:1122.",
        url="https://doi.org/10.17632/rscbjbr9sj.2",
        ages=KERMANY_AGES,
        modalities=("imaging",),
        targets=lambda _: (
            Target("paediatric.pneumonia", "Pneumonia in a child of 1 to 5 years", ("imaging",), "kermany"),
        ),
        read=read_kermany,
        tables=("labels.csv",),
        notes="One hospital; squashed to a square before publication; near ceiling on its own validation split.",
    ),
)
