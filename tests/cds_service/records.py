"""Small patient records written down in a test, for the rule packs: no FHIR, no model."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from fhir_mappers.codes import analytes
from fhir_mappers.record import Coded, Encounter, Event, Lab, PatientRecord, Person, Source, newest_first

NOW = datetime(2026, 3, 10, 14, tzinfo=UTC)
_numbers = iter(range(10**6))


def source(kind: str = "Observation") -> Source:
    return Source(f"{kind}/{next(_numbers)}")


def lab(analyte: str, value: float, ago: timedelta | float = 1.0, **more: Any) -> Lab:
    """A result in canonical units; `ago` is a duration or hours before NOW."""
    row = analytes()[analyte]
    at = NOW - (ago if isinstance(ago, timedelta) else timedelta(hours=ago))
    given = {"loinc": row.loinc, "printed": f"{value:g} {row.unit}", "kind": row.kind, "source": source(), **more}
    return Lab(analyte=analyte, name=row.name, value=value, unit=row.unit, at=at, **given)


def coded(name: str, meaning: str, ago: float = 1.0, answer: tuple[str, str] = ("", "")) -> Coded:
    return Coded(name, "", answer, meaning, NOW - timedelta(hours=ago), source(), meaning)


def problem(*concepts: str, code: str = "", active: bool = True, ago: float | None = None) -> Event:
    codes = (("http://hl7.org/fhir/sid/icd-10-cm", code),) if code else ()
    start = None if ago is None else NOW - timedelta(hours=ago)
    text = " ".join(concepts) or code
    return Event("condition", frozenset(concepts), codes, text, start, active, source("Condition"), "active")


def drug(*concepts: str, ago: float = 100.0) -> Event:
    start = NOW - timedelta(hours=ago)
    return Event("medication", frozenset(concepts), (), concepts[0], start, True, source("MedicationRequest"), "active")


def person(sex: Any = "male", age: int | tuple[int, int] | None = 67) -> Person:
    """`age` may be (youngest, oldest), as a partial birth date allows."""
    if age is None:
        return Person("p1", sex, None, None)
    youngest, oldest = age if isinstance(age, tuple) else (age, age)
    return Person("p1", sex, date(2026 - oldest, 1, 1), date(2026 - youngest, 1, 1))


def record(
    *items: Lab | Coded | Event,
    who: Person | None = None,
    setting: str | None = "IMP",
    unit: str = "ward",
    **more: Any,
) -> PatientRecord:
    def of(kind: type) -> Iterable[Any]:
        return [i for i in items if isinstance(i, kind)]

    visit = None if setting is None else Encounter(setting, unit, None, source("Encounter"))
    return PatientRecord(
        who or person(),
        NOW,
        labs=newest_first(of(Lab), "at"),
        coded=newest_first(of(Coded), "at"),
        events=newest_first(of(Event), "start"),
        encounter=visit,
        **more,
    )
