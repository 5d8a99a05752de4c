"""`Snapshot`: what one card rested on, as its evidence page shows it. Plain values, ready to be sealed.

Every string that came from a record has been through `plain_text`: one line, no controls, a limit. Times carry the
zone they were recorded in.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

import msgspec

Mark = Literal["deciding", "on the card", "model", ""]
"""How near a datum is to the answer: it decided, the card names it, the model used it, or it was only read."""


class Ref(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The resource a datum was read from. `url` is empty where the EHR told no FHIR server, or it is only a draft."""

    reference: str
    version: str = ""
    url: str = ""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row of the card's table; `refs` are the data it was matched to."""

    cells: tuple[str, ...]
    refs: tuple[Ref, ...] = ()


class Point(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One result: `value` in the series' unit, `printed` as the laboratory wrote it."""

    at: datetime
    value: float
    printed: str
    ref: Ref
    mark: Mark = ""
    has_time: bool = True
    comparator: str = ""
    low: float | None = None
    high: float | None = None
    preliminary: bool = False
    extreme: bool = False


class Series(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All results of one analyte, newest first."""

    analyte: str
    name: str
    unit: str
    kind: Literal["lab", "vital"]
    points: tuple[Point, ...]

    @property
    def mark(self) -> Mark:
        marks = {p.mark for p in self.points}
        order: tuple[Mark, ...] = ("deciding", "on the card", "model")
        return next((m for m in order if m in marks), "")


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a film lies on the square the model saw, in half pixels of the square."""

    left: int
    top: int
    width: int
    height: int


class Shape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that can be laid over a film. `paths`: SVG path data in half pixels of the square the model saw.

    A `map` has no paths: it is a picture worked out when somebody asks for it (`maps.py`).
    """

    name: str
    kind: Literal["outline", "zone", "heat", "map"]
    title: str
    paths: tuple[str, ...]
    note: str = ""


class Film(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A film; its picture is in the sealed films under `number`. `width`, `height` in pixels as kept."""

    number: int
    role: Literal["newest", "before"]
    view: str
    at: datetime
    width: int
    height: int
    of_width: int
    of_height: int
    ref: Ref
    used: bool
    spacing_mm: float | None = None
    rendered: bool = False
    laterals: int = 0
    frame: Frame | None = None
    shapes: tuple[Shape, ...] = ()


class StatementView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finding of a film's report; `heat` names the shape that shows where its evidence lies."""

    finding: str
    certainty: str
    there: bool
    side: str
    where: str
    change: str
    probability: float | None
    interval: tuple[float, float] | None
    prior: float | None
    refs: tuple[Ref, ...]
    why: str = ""
    heat: str = ""


class FilmReportView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the networks make of the newest film. `compared`: there was a film to compare it with."""

    technique: str
    comparison: str
    impression: str
    limits: str
    statements: tuple[StatementView, ...]
    compared: bool
    ctr: float | None = None
    ctr_why: str = ""


class ReportView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    status: str
    at: datetime | None
    conclusion: str
    ref: Ref


class Moment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something in the history. `kind` in our words: condition, medication, procedure, allergy, order, draft order."""

    kind: str
    text: str
    at: datetime | None
    state: str
    mark: Mark
    ref: Ref
    detail: str = ""


class Gene(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    gene: str
    value: str
    kind: str
    origin: str
    at: datetime | None
    mark: Mark
    ref: Ref
    significance: str = ""
    allele_fraction: float | None = None


class EstimateView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of the model, by modality in words: `without` it the probability, `shares` what it adds to the log
    odds."""

    title: str
    on_card: bool
    probability: float | None
    interval: tuple[float, float] | None
    without: tuple[tuple[str, float], ...]
    rested_on: tuple[str, ...]
    thresholds: tuple[tuple[str, float], ...] = ()
    prior: float | None = None
    abstained: str = ""
    shares: tuple[tuple[str, float], ...] = ()


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A figure of the model's own card, with its 95 % interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class Answering(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the model's card says of one target."""

    title: str
    standing: str
    evaluated: str
    ages: str
    patients: int
    positives: int
    figures: tuple[Figure, ...]
    limits: tuple[str, ...]


class ModelView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model that took part. `card_found` is False where the card on disk is not of this very model."""

    name: str
    digest: str
    trained_on: str
    card_found: bool
    limits: tuple[str, ...] = ()
    targets: tuple[Answering, ...] = ()
    sources: tuple[tuple[str, str, str], ...] = ()


class RuleView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    version: int
    tier: str
    text: str
    citation: str
    url: str
    owner: str
    review_by: date


class Choice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A suggestion and exactly what its button would change."""

    label: str
    changes: tuple[str, ...]
    recommended: bool


class Missing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something not known or not used, in words, with the resource it concerns where there is one."""

    text: str
    ref: Ref | None = None
    count: int = 1


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything the page shows. `facts`: header and rows of the card's own table."""

    card: str
    summary: str
    indicator: Literal["info", "warning", "critical"]
    service: str
    service_id: str
    service_version: int
    hook: str
    profile: str
    made_at: datetime
    expires: datetime
    patient: str
    why: tuple[str, ...]
    header: tuple[str, ...]
    facts: tuple[Row, ...]
    series: tuple[Series, ...]
    films: tuple[Film, ...]
    film_report: FilmReportView | None
    reports: tuple[ReportView, ...]
    history: tuple[Moment, ...]
    genes: tuple[Gene, ...]
    estimates: tuple[EstimateView, ...]
    model: ModelView | None
    seen: tuple[tuple[str, str], ...]
    not_known: tuple[str, ...]
    missing: tuple[Missing, ...]
    unused: tuple[Missing, ...]
    rules: tuple[RuleView, ...]
    choices: tuple[Choice, ...]
    patient_ref: Ref

    @property
    def switches(self) -> tuple[Shape, ...]:
        """What can be laid over the films, each once; its note says what is true of either film."""
        found: dict[str, Shape] = {}
        for shape in (shape for film in self.films for shape in film.shapes):
            known = found.get(shape.name, shape)
            notes = dict.fromkeys(filter(None, (known.note, shape.note)))
            found[shape.name] = msgspec.structs.replace(known, note=" ".join(notes))
        kinds = ("outline", "zone", "heat", "map")
        return tuple(sorted(found.values(), key=lambda s: kinds.index(s.kind)))


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    return _encoder.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    return _decoder.decode(data)
