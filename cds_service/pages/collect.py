"""`collect`: the snapshot of what one card rested on, from the case it was made of. Pure; nothing is fetched."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from cds_service.advice.estimates import WORDS
from cds_service.advice.film_report import report_of
from cds_service.advice.writing import as_printed, missing_evidence, moment, span
from cds_service.cards import Card
from cds_service.markdown import plain_text
from cds_service.pages import films as pictures
from cds_service.pages.basis import Datum, matches, read_detail, rules_of
from cds_service.pages.film_report import view_report
from cds_service.pages.history import genes, history, reports
from cds_service.pages.overlays import Layers, layers_of
from cds_service.pages.snapshot import (
    Choice,
    EstimateView,
    Film,
    Mark,
    Missing,
    ModelView,
    Point,
    Ref,
    Row,
    RuleView,
    Series,
    Snapshot,
)
from cds_service.pages.words import EVIDENCE, EXPECTED, GAPS
from fhir_mappers.record import Gap, Lab, PatientRecord, Source
from fhir_mappers.report.statements import FilmReport
from models.contract import MODALITIES, Assessment, Estimate

if TYPE_CHECKING:
    from cds_service.consult import Case

LIFETIME = timedelta(minutes=15)
MOST_POINTS = 200
_REFERENCE = re.compile(r"[A-Z][A-Za-z]{2,40}/[A-Za-z0-9._~-]{1,512}\Z")


@dataclass(frozen=True, slots=True)
class Marks:
    """How near each datum is to the answer, by what is known of it; `links` is the FHIR base, or empty."""

    data: Mapping[int, Mark]
    used: frozenset[str]
    links: str

    def of(self, datum: object, reference: str) -> Mark:
        return self.data.get(id(datum)) or ("model" if reference in self.used else "")

    def ref(self, source: Source | None, *, on_server: bool = True) -> Ref:
        """Where the datum is on the EHR's server. Only relative references of plain characters become links."""
        if source is None:
            return Ref(reference="")
        version = plain_text(source.version or "", 64)
        if not on_server or not self.links or not _REFERENCE.match(source.reference):
            return Ref(reference=plain_text(source.reference, 120), version=version)
        return Ref(reference=source.reference, version=version, url=f"{self.links}/{quote(source.reference)}")


def spoken(case: Case, card: Card) -> bool:
    """Whether the card says what the model said: an answer that advice kept back is not for this page either."""
    return case.assessment is not None and case.assessment.model in (card.detail or "")


def collect(
    case: Case, card: Card, model: ModelView | None, encoded: Sequence[tuple[str, pictures.Picture]]
) -> Snapshot:
    """`encoded` are the films kept beside the snapshot, newest first, by SOP instance UID."""
    said = read_detail(card)
    found = matches(said.rows, case.record)
    marks = _marks(case, card, found)
    record = case.record
    report = _film_report(case) if spoken(case, card) else None
    layers = layers_of(report) if report is not None else {}
    return Snapshot(
        card=card.uuid,
        summary=card.summary,
        indicator=card.indicator,
        service=case.service.title,
        service_id=case.service.id,
        service_version=case.service.version,
        hook=case.request.hook,
        profile=case.profile,
        made_at=record.as_of,
        expires=record.as_of + LIFETIME,
        patient=_patient(record),
        patient_ref=marks.ref(record.person.source or Source(f"Patient/{record.person.id}")),
        why=said.sentences,
        header=said.header,
        facts=tuple(
            Row(cells=cells, refs=tuple(dict.fromkeys(marks.ref(d.source) for d in data)))
            for cells, data in zip(said.rows, found, strict=True)
        ),
        series=_series(record, found, marks),
        films=_films(record, marks, encoded, layers),
        film_report=view_report(report, layers, marks) if report is not None else None,
        reports=reports(record, marks),
        history=history(record, marks),
        genes=genes(record, marks),
        estimates=_estimates(case, card),
        model=model if spoken(case, card) else None,
        seen=_seen(record),
        not_known=said.not_known,
        missing=_missing(case),
        unused=_unused(record.gaps, marks),
        rules=tuple(
            RuleView(
                id=name,
                version=rule.version,
                tier=rule.tier,
                text=rule.text,
                citation=rule.citation,
                url=rule.url,
                owner=rule.owner,
                review_by=rule.review_by,
            )
            for name, rule in rules_of(card, case.service)
        ),
        choices=tuple(
            Choice(
                label=plain_text(s.label, 200),
                changes=tuple(f"{a.type}: {plain_text(a.description, 300)}" for a in s.actions),
                recommended=s.is_recommended,
            )
            for s in card.suggestions
        ),
    )


def _marks(case: Case, card: Card, found: Sequence[tuple[Datum, ...]]) -> Marks:
    """The first row that shows a datum decided; the card's contract puts the deciding fact first."""
    data: dict[int, Mark] = {}
    deciding = next((i for i, row in enumerate(found) if row), None)
    for index, row in enumerate(found):
        for datum in row:
            data.setdefault(id(datum), "deciding" if index == deciding else "on the card")
    return Marks(data, _used(case) if spoken(case, card) else frozenset(), _base(case.request.fhir_server))


def _used(case: Case) -> frozenset[str]:
    """What an answer rested on: a laboratory result the model was given, and has no weight for, was not used."""
    answers = case.assessment.estimates.values() if case.assessment is not None else ()
    modalities = {modality for e in answers if e.probability is not None for modality in e.rested_on}
    return frozenset(name for modality, names in case.used.items() if modality in modalities for name in names)


def _base(server: str | None) -> str:
    """The FHIR base if a browser may be sent there."""
    parts = urlsplit(server or "")
    return (server or "").rstrip("/") if parts.scheme in ("http", "https") and parts.hostname else ""


def _patient(record: PatientRecord) -> str:
    ages = record.age_years()
    if ages is None:
        age = "age not known"
    else:
        age = f"{ages[0]} years" if ages[0] == ages[1] else f"{ages[0]} to {ages[1]} years"
    return f"{age}, {record.person.sex if record.person.sex != 'unknown' else 'sex not known'}"


def _series(record: PatientRecord, found: Sequence[tuple[Datum, ...]], marks: Marks) -> tuple[Series, ...]:
    """One series per analyte and unit: the deciding one first, then as the card names them, then the model's."""
    grouped: dict[tuple[str, str], list[Lab]] = {}
    for lab in record.labs:
        grouped.setdefault((lab.analyte, lab.unit), []).append(lab)
    named = [(d.analyte, d.unit) for row in found for d in row if isinstance(d, Lab)]

    def rank(key: tuple[str, str]) -> tuple[int, int]:
        labs = grouped[key]
        if key in named:
            return 0, named.index(key)
        if any(lab.source.reference in marks.used for lab in labs):
            return 1, 0 if _out_of_range(labs[0]) else 1
        return 2, 0

    return tuple(_one_series(grouped[key], marks) for key in sorted(grouped, key=rank))


def _out_of_range(lab: Lab) -> bool:
    return (lab.low is not None and lab.value < lab.low) or (lab.high is not None and lab.value > lab.high)


def _one_series(labs: Sequence[Lab], marks: Marks) -> Series:
    first = labs[0]
    return Series(
        analyte=first.analyte,
        name=plain_text(first.name, 60),
        unit=first.unit,
        kind=first.kind,
        points=tuple(
            Point(
                at=lab.at,
                value=lab.value,
                printed=plain_text(as_printed(lab), 60),
                ref=marks.ref(lab.source),
                mark=marks.of(lab, lab.source.reference),
                has_time=lab.has_time,
                comparator=lab.comparator or "",
                low=lab.low,
                high=lab.high,
                preliminary=lab.preliminary,
                extreme=lab.extreme,
            )
            for lab in labs[:MOST_POINTS]
        ),
    )


def _film_report(case: Case) -> FilmReport | None:
    """The report of the newest film, for a service that asks its model for findings on films."""
    targets = case.assessment.estimates if case.assessment is not None else ()
    return report_of(case) if any(name.startswith("finding.") for name in targets) else None


def _films(
    record: PatientRecord,
    marks: Marks,
    encoded: Sequence[tuple[str, pictures.Picture]],
    layers: Mapping[str, Layers],
) -> tuple[Film, ...]:
    images = {image.sop_uid: image for image in record.images}
    return tuple(
        Film(
            number=number,
            role="before" if number else "newest",
            view=image.view,
            at=image.at,
            width=picture.width,
            height=picture.height,
            of_width=picture.of_width,
            of_height=picture.of_height,
            ref=marks.ref(image.source),
            used=uid in marks.used,
            spacing_mm=image.spacing_mm[0] * picture.of_height / picture.height if image.spacing_mm else None,
            rendered=image.rendered,
            laterals=image.laterals,
            frame=layers.get(uid, Layers()).frame,
            shapes=layers.get(uid, Layers()).shapes,
        )
        for number, (uid, picture) in enumerate(encoded)
        for image in (images[uid],)
    )


def _estimates(case: Case, card: Card) -> tuple[EstimateView, ...]:
    """What the card names first; the other questions the service asks of its model after it."""
    assessment = case.assessment
    if assessment is None or not spoken(case, card):
        return ()
    detail = (card.detail or "").casefold()
    found = [
        _estimate(
            estimate,
            assessment,
            case.service.thresholds.get(name, {}),
            on_card=plain_text(estimate.target.title, 40).casefold() in detail,
        )
        for name, estimate in assessment.estimates.items()
    ]
    return tuple(sorted(found, key=lambda e: (not e.on_card, -(e.probability or 0.0))))


def _estimate(
    estimate: Estimate, assessment: Assessment, thresholds: Mapping[str, float], *, on_card: bool
) -> EstimateView:
    prior = assessment.prior.get(estimate.target.name)
    return EstimateView(
        title=estimate.target.title,
        on_card=on_card,
        probability=estimate.probability,
        interval=estimate.interval,
        without=tuple((WORDS.get(m, m), p) for m, p in estimate.without.items()),
        rested_on=tuple(WORDS[m] for m in MODALITIES if m in estimate.rested_on),
        thresholds=tuple(thresholds.items()),
        prior=prior.probability if prior else None,
        abstained=estimate.abstained or "",
        shares=tuple((WORDS.get(m, m), share) for m, share in estimate.shares.items()),
    )


def _seen(record: PatientRecord) -> tuple[tuple[str, str], ...]:
    """Per kind of evidence how much was read and how old its newest is; `none` where there was none."""

    def newest(times: Iterable[datetime | None]) -> str:
        known = [t for t in times if t is not None]
        return f", newest {moment(max(known))} ({span(record.age_of(max(known)))} before)" if known else ""

    labs = [x for x in record.labs if x.kind == "lab"]
    vitals = [x for x in record.labs if x.kind == "vital"]
    kinds: tuple[tuple[str, int, str], ...] = (
        ("Laboratory results", len(labs), newest(x.at for x in labs)),
        ("Vital signs", len(vitals), newest(x.at for x in vitals)),
        ("Chest films", len(record.images), newest(x.at for x in record.images)),
        ("Radiology reports", len(record.reports), newest(x.at for x in record.reports)),
        ("History entries", len(record.events) + len(record.allergies), ""),
        ("Genomic results", len(record.genes), newest(x.at for x in record.genes)),
    )
    return tuple((name, f"{count}{when}" if count else "none read") for name, count, when in kinds)


def _missing(case: Case) -> tuple[Missing, ...]:
    names = {s.key: EVIDENCE.get(s.key, s.key) for s in case.shortfalls}
    return tuple(Missing(text=text) for text in missing_evidence(case.shortfalls, names))


def _unused(gaps: Sequence[Gap], marks: Marks) -> tuple[Missing, ...]:
    """Gaps that a reader could act on one by one, then the kinds every chart has many of, counted."""
    single = [gap for gap in gaps if gap.code not in EXPECTED]
    counted = Counter((gap.code, gap.subject) for gap in gaps if gap.code in EXPECTED)
    one_by_one = (
        Missing(
            text=f"{_subject(gap.subject)} {GAPS.get(gap.code, gap.code)}",
            # Another patient's resource is named nowhere.
            ref=marks.ref(Source(gap.reference)) if gap.code != "other-patient" and gap.reference else None,
        )
        for gap in single
    )
    together = (
        Missing(text=f"{_subject(subject)} {GAPS.get(code, code)}", count=count)
        for (code, subject), count in sorted(counted.items())
    )
    return (*one_by_one, *together)


def _subject(subject: str) -> str:
    words = plain_text(subject.replace("_", " "), 60)
    return words[:1].upper() + words[1:]
