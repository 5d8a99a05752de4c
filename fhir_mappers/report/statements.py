"""What a film's report states, as tuples: finding, place, severity, change, certainty, evidence.

Everything that is written, shown or sent is made from these, so that no sentence can say more than they do. A final
report of radiology has the last word: of a film that has one, nothing is stated beside it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime

from fhir_mappers.record import Image, PatientRecord, Report, Study
from fhir_mappers.report.terms import Certainty, Side, Term, certainty, side_of, terms, there
from models.contract import Anatomy, Assessment, Course, Estimate, FilmReading, Tier, Zone

WIDEST = 0.30
"""A finding whose 90 % interval is wider than this and reaches from not there to there is left open."""

RENDERED = "the archive sent the film rendered, not as it was taken"


@dataclass(frozen=True, slots=True)
class Statement:
    """One finding on one film.

    probability  calibrated, with its 90 % interval; None where nothing is assessed, and `why` then says why
    prior        probability on the comparison film alone; None without one
    side, zone   None where the finding is not there, or the evidence for it has no one place
    severity     None: no network here grades it, and a probability is no grade
    change       against the comparison film; None without one, and where the network abstains or contradicts itself
    evidence     references of the studies it rests on, the film's own first
    """

    term: Term
    certainty: Certainty
    probability: float | None
    interval: tuple[float, float] | None
    prior: float | None
    side: Side | None
    zone: Zone | None
    change: Course | None
    evidence: tuple[str, ...]
    why: str | None = None
    severity: None = None

    @property
    def there(self) -> bool:
        return there(self.certainty)


@dataclass(frozen=True, slots=True)
class FilmReport:
    """A chest film's report before it has a form.

    statements  what may be there first, most probable first; empty beside a final report and for an unusable film
    final       radiology's final report of the film, if there is one
    unusable    why nothing is stated of this film, in words; None where something is
    study       of the film, where the record has it
    """

    patient_id: str
    film: Image
    study: Study | None
    prior: Image | None
    statements: tuple[Statement, ...]
    ctr: float | None
    ctr_why: str | None
    final: Report | None
    unusable: str | None
    model: str
    digest: str
    tier: Tier
    as_of: datetime
    reading: FilmReading | None = field(default=None, repr=False)


def state_findings(
    assessment: Assessment, film: Image, prior: Image | None, *, open_: Set[str] = frozenset()
) -> tuple[Statement, ...]:
    """One statement for each finding of tables/film_findings.csv that the model was asked for and reads on films.

    `open_` names targets the site's own thresholds leave open (MX-2): they are not assessed.
    """
    made = []
    for term in terms().values():
        estimate = assessment.estimates.get(f"finding.{term.finding}")
        if estimate is None or "imaging" not in estimate.target.modalities:
            continue
        if estimate.probability is None or "imaging" in estimate.rested_on:
            made.append(_statement(term, estimate, assessment, film, prior, estimate.target.name in open_))
    return tuple(sorted(made, key=lambda s: (not s.there, s.probability is None, -(s.probability or 0.0))))


def _statement(
    term: Term, estimate: Estimate, assessment: Assessment, film: Image, prior: Image | None, left_open: bool
) -> Statement:
    evidence = tuple(dict.fromkeys(f.source.reference for f in (film, prior) if f is not None))
    why = estimate.abstained or (None if estimate.probability is not None else "the model gave no estimate")
    if why is None and (left_open or _too_wide(estimate)):
        why = "the estimate is too uncertain"
    if why is not None or estimate.probability is None:
        return Statement(term, "not assessed", None, None, None, None, None, None, evidence[:1], why)
    word = certainty(estimate.probability)
    before = assessment.prior.get(estimate.target.name) if prior is not None else None
    change = _course(term.finding, word, assessment.reading) if prior is not None else None
    zone = _zone(term.finding, assessment.reading) if there(word) else None
    return Statement(
        term,
        word,
        estimate.probability,
        estimate.interval,
        before.probability if before is not None else None,
        side_of(zone) if zone is not None else None,
        zone,
        change,
        evidence,
    )


def _too_wide(estimate: Estimate) -> bool:
    if estimate.interval is None:
        return False
    low, high = estimate.interval
    return high - low > WIDEST and there(certainty(high)) and not there(certainty(low))


def _zone(finding: str, reading: FilmReading | None) -> Zone | None:
    place = reading.places.get(finding) if reading is not None else None
    return place.zone if place is not None else None


def _course(finding: str, word: Certainty, reading: FilmReading | None) -> Course | None:
    """The course the network gives, unless the newest film's probability speaks against it.

    What is not there cannot be new, worse, stable or improved, and what is there has not resolved.
    """
    change = reading.changes.get(finding) if reading is not None else None
    if change is None or change.course is None:
        return None
    return change.course if there(word) is (change.course != "resolved") else None


def report_film(
    record: PatientRecord,
    assessment: Assessment,
    film: Image,
    prior: Image | None,
    reports: Sequence[Report] = (),
    *,
    open_: Set[str] = frozenset(),
) -> FilmReport:
    """What may be said of the newest film, `reports` being radiology's own of this film."""
    final = next((r for r in reports if r.final), None)
    if prior is not None and prior.view == "LATERAL":
        prior = None  # a film from the side is nothing to compare a frontal one with
    unusable = _unusable(assessment, film)
    silent = final is not None or unusable is not None
    reading = None if unusable is not None else assessment.reading
    unmeasured = Anatomy({}, {}, None, RENDERED)
    if reading is not None and film.rendered:
        reading = replace(reading, anatomy=unmeasured)
    if reading is not None and reading.before is not None and prior is not None and prior.rendered:
        reading = replace(reading, before=replace(reading.before, anatomy=unmeasured))
    return FilmReport(
        patient_id=record.person.id,
        film=film,
        study=next((s for s in record.studies if s.uid == film.study_uid), None),
        prior=prior,
        statements=() if silent else state_findings(assessment, film, prior, open_=open_),
        ctr=reading.anatomy.ctr if reading is not None and not silent else None,
        ctr_why=reading.anatomy.ctr_why if reading is not None and not silent else None,
        final=final,
        unusable=unusable,
        model=assessment.model,
        digest=assessment.digest,
        tier=assessment.tier,
        as_of=record.as_of,
        reading=reading,
    )


def _unusable(assessment: Assessment, film: Image) -> str | None:
    if film.view == "LATERAL":
        return "a lateral film, which no network here reads"
    if "imaging" in assessment.unused:
        return assessment.unused["imaging"]
    if "imaging" not in assessment.seen:
        return "the film was not used by the model"
    return None
