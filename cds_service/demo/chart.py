"""What the demo's pages show of a chart: plain values, ready for a template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fhir_mappers.cohort.facts import CONDITIONS, GeneratedPatient, LabFact
from fhir_mappers.cohort.resources import encounter_id, study_id
from fhir_mappers.cohort.writing import order_drug, order_imaging

PLACES = {"icu": "Intensive care", "ed": "Emergency department", "ward": "Ward", "clinic": "Clinic"}
CATALOGUE: tuple[tuple[str, str], ...] = (
    ("24628-0", "CT chest with IV contrast"),
    ("29252-4", "CT chest without contrast"),
    ("36147-7", "CT pulmonary angiogram"),
    ("36813-4", "CT abdomen and pelvis with IV contrast"),
    ("30745-4", "XR chest"),
    ("24589-4", "MR brain with gadolinium"),
)
DRUGS: tuple[tuple[str, str], ...] = (
    ("ceftriaxone", "2 g once daily"),
    ("clopidogrel", "75 mg once daily"),
    ("capecitabine", "1250 mg/m2 twice daily, days 1-14"),
    ("furosemide", "40 mg once daily"),
    ("ibuprofen", "400 mg three times daily"),
)
SHOWN = {
    # UCUM as people write it.
    "[degF]": "°F",
    "Cel": "°C",
    "mm[Hg]": "mmHg",
    "10*3/uL": "10³/µL",
    "10*9/L": "10⁹/L",
}
SPARK = (88, 22)
"""Width and height of a trend line in CSS pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """The newest result of one analyte. `flag`: "low", "high" or ""; `trend` is an SVG polyline, oldest first."""

    name: str
    value: str
    unit: str
    flag: str
    reference: str
    when: str
    trend: str


@dataclass(frozen=True, slots=True)
class FilmView:
    title: str
    when: str
    thumbnail: str
    full: str
    report: str
    archived: bool


@dataclass(frozen=True, slots=True)
class DrugView:
    reference: str
    name: str
    dose: str
    since: str


@dataclass(frozen=True, slots=True)
class ChartView:
    patient: GeneratedPatient
    age: int
    place: str
    vitals: tuple[Row, ...]
    labs: tuple[Row, ...]
    films: tuple[FilmView, ...]
    problems: tuple[tuple[str, str, str], ...]
    drugs: tuple[DrugView, ...]
    genes: tuple[tuple[str, str, str], ...]
    allergies: tuple[tuple[str, str], ...]


def age_of(patient: GeneratedPatient) -> int:
    as_of, born = patient.as_of, patient.born
    return as_of.year - born.year - ((as_of.month, as_of.day) < (born.month, born.day))


def ago(then: datetime, now: datetime) -> str:
    """How long ago in words a chart uses: 40 min, 6 h, 3 d, 14 mo, 8 y."""
    passed = now - then
    if passed < timedelta(hours=1):
        return f"{passed // timedelta(minutes=1)} min ago"
    if passed < timedelta(hours=48):
        return f"{passed // timedelta(hours=1)} h ago"
    if passed < timedelta(days=60):
        return f"{passed // timedelta(days=1)} d ago"
    months = passed // timedelta(days=30)
    return f"{months} mo ago" if months < 24 else f"{months // 12} y ago"


def view(patient: GeneratedPatient) -> ChartView:
    """Everything the chart page shows of one patient."""
    now = patient.as_of
    return ChartView(
        patient=patient,
        age=age_of(patient),
        place=PLACES[patient.unit],
        vitals=_rows(patient, "vital"),
        labs=_rows(patient, "lab"),
        films=tuple(_films(patient)),
        problems=tuple((CONDITIONS[c.name][1], c.icd10, ago(c.onset, now)) for c in patient.conditions),
        drugs=tuple(
            DrugView(
                f"MedicationRequest/{patient.resource_id('medication', i)}", d.ingredient, d.dose, ago(d.since, now)
            )
            for i, d in enumerate(patient.drugs)
        ),
        genes=tuple(
            (g.gene, g.value, "somatic variant" if g.kind == "variant" else "germline phenotype") for g in patient.genes
        ),
        allergies=tuple((a.substance, a.manifestation) for a in patient.allergies),
    )


def _rows(patient: GeneratedPatient, kind: str) -> tuple[Row, ...]:
    series: dict[str, list[LabFact]] = {}
    for fact in sorted(patient.labs, key=lambda x: x.at, reverse=True):
        if fact.code.kind == kind:
            series.setdefault(fact.code.analyte, []).append(fact)
    return tuple(_row(patient, facts) for facts in series.values())


def _row(patient: GeneratedPatient, facts: Sequence[LabFact]) -> Row:
    newest = facts[0]
    low, high = newest.code.reference_range("female" if patient.female else "male")
    flag = "low" if low is not None and newest.canonical < low else ""
    flag = "high" if high is not None and newest.canonical > high else flag
    shown = SHOWN.get(newest.unit, newest.unit)
    return Row(
        name=newest.code.name,
        value=str(newest.value),
        unit=shown,
        flag=flag,
        reference=_reference(newest, low, high),
        when=ago(newest.at, patient.as_of),
        trend=_trend([f.canonical for f in reversed(facts)]),
    )


def _reference(fact: LabFact, low: float | None, high: float | None) -> str:
    """The reference range in the unit of the result, as far as the table has one."""
    offset = fact.code.to_canonical(0.0, fact.unit)
    factor = fact.code.to_canonical(1.0, fact.unit) - offset
    low_text, high_text = (None if x is None else f"{(x - offset) / factor:.3g}" for x in (low, high))
    if low_text is None or high_text is None:
        return ""
    return f"up to {high_text}" if low_text == "0" else f"{low_text} to {high_text}"


def _trend(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    width, height = SPARK
    low, span = min(values), (max(values) - min(values)) or 1.0
    points = (
        (3 + i * (width - 6) / (len(values) - 1), height - 4 - (v - low) / span * (height - 8))
        for i, v in enumerate(values)
    )
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _films(patient: GeneratedPatient) -> Iterable[FilmView]:
    for index, film in enumerate(patient.films):
        path = f"studies/{patient.uid('study', index)}/series/{patient.uid('series', index)}"
        rendered = f"/demo/dicomweb/{path}/instances/{patient.uid('instance', index)}/rendered"
        yield FilmView(
            title=f"Chest {film.pose.view}",
            when=f"{film.at:%Y-%m-%d %H:%M}, {ago(film.at, patient.as_of)}",
            thumbnail=f"{rendered}?viewport=480,480",
            full=f"{rendered}?viewport=1024,1024",
            report=film.report or "",
            archived=film.archived,
        )


def order_entry(patient: GeneratedPatient) -> dict[str, Any]:
    """What the page's order entry needs: whose chart it is, what this scenario orders, and the catalogue."""
    scenario = {o.title.split(": ", 1)[-1]: o.drafts for o in patient.occasions if o.drafts}
    now = patient.as_of
    return {
        "patientId": patient.id,
        "encounterId": encounter_id(patient),
        "studies": [study_id(patient, i) for i in range(len(patient.films))],
        "scenario": [{"title": title, "drafts": list(drafts)} for title, drafts in scenario.items()],
        "catalogue": [
            *({"title": t, "drafts": [order_imaging(patient.id, code, t, now)]} for code, t in CATALOGUE),
            *({"title": f"{n} {dose}", "drafts": [order_drug(patient.id, n, dose, now)]} for n, dose in DRUGS),
        ],
    }
