"""A film's report as bytes, to be written later: everything that what is written needs, and no pixel of the film."""

from __future__ import annotations

from datetime import datetime

import msgspec
import numpy as np

from fhir_mappers.radiology import Image, Study
from fhir_mappers.record import Source
from fhir_mappers.report.statements import FilmReport, Statement
from fhir_mappers.report.terms import Certainty, side_of, terms
from models.contract import Anatomy, Course, FilmReading, Structure, Tier, Zone


class _Film(msgspec.Struct, frozen=True):
    sop_uid: str
    study_uid: str
    at: datetime
    view: str
    reference: str
    modality: str


class _Said(msgspec.Struct, frozen=True):
    finding: str
    certainty: Certainty
    probability: float | None
    interval: tuple[float, float] | None
    prior: float | None
    zone: Zone | None
    change: Course | None
    evidence: tuple[str, ...]
    why: str | None


class _Outlines(msgspec.Struct, frozen=True):
    """Masks of `size` x `size`, eight pixels to a byte."""

    size: int
    masks: dict[Structure, bytes]
    digest: str


class _Kept(msgspec.Struct, frozen=True):
    patient_id: str
    film: _Film
    codes: tuple[tuple[str, str], ...] | None
    prior: _Film | None
    said: tuple[_Said, ...]
    ctr: float | None
    ctr_why: str | None
    outlines: _Outlines | None
    model: str
    digest: str
    tier: Tier
    as_of: datetime


_kept = msgspec.msgpack.Decoder(_Kept)


def pack(report: FilmReport) -> bytes:
    """A report that states something. Raises ValueError for one that is silent: there is nothing to keep of it."""
    if report.final is not None or report.unusable is not None:
        raise ValueError("a report that states nothing is not kept")
    said = tuple(
        _Said(s.term.finding, s.certainty, s.probability, s.interval, s.prior, s.zone, s.change, s.evidence, s.why)
        for s in report.statements
    )
    return msgspec.msgpack.encode(
        _Kept(
            report.patient_id,
            _film(report.film),
            report.study.codes if report.study is not None else None,
            _film(report.prior) if report.prior is not None else None,
            said,
            report.ctr,
            report.ctr_why,
            _outlines(report.reading),
            report.model,
            report.digest,
            report.tier,
            report.as_of,
        )
    )


def unpack(data: bytes) -> FilmReport:
    """The report again; its films hold no pixels. Raises msgspec.DecodeError for bytes that are no report."""
    kept = _kept.decode(data)
    film = _image(kept.film)
    study = None
    if kept.codes is not None:
        study = Study(film.study_uid, film.at, frozenset({film.modality}), "", (), (), (), film.source, kept.codes)
    return FilmReport(
        patient_id=kept.patient_id,
        film=film,
        study=study,
        prior=_image(kept.prior) if kept.prior is not None else None,
        statements=tuple(_statement(s) for s in kept.said),
        ctr=kept.ctr,
        ctr_why=kept.ctr_why,
        final=None,
        unusable=None,
        model=kept.model,
        digest=kept.digest,
        tier=kept.tier,
        as_of=kept.as_of,
        reading=_reading(kept),
    )


def _film(image: Image) -> _Film:
    return _Film(image.sop_uid, image.study_uid, image.at, image.view, image.source.reference, image.modality)


def _image(film: _Film) -> Image:
    none = np.zeros((0, 0), np.float32)
    return Image(none, film.view, film.at, film.sop_uid, film.study_uid, Source(film.reference), film.modality)


def _statement(said: _Said) -> Statement:
    return Statement(
        terms()[said.finding],
        said.certainty,
        said.probability,
        said.interval,
        said.prior,
        side_of(said.zone) if said.zone is not None else None,
        said.zone,
        said.change,
        said.evidence,
        said.why,
    )


def _outlines(reading: FilmReading | None) -> _Outlines | None:
    if reading is None:
        return None
    masks = reading.anatomy.masks
    size = next((mask.shape[0] for mask in masks.values()), 0)
    return _Outlines(size, {name: np.packbits(mask).tobytes() for name, mask in masks.items()}, reading.digest)


def _reading(kept: _Kept) -> FilmReading | None:
    if kept.outlines is None:
        return None
    size = kept.outlines.size
    masks = {
        name: np.unpackbits(np.frombuffer(bits, np.uint8), count=size * size).reshape(size, size).astype(np.bool_)
        for name, bits in kept.outlines.masks.items()
    }
    return FilmReading(Anatomy(masks, {}, kept.ctr, kept.ctr_why), {}, {}, kept.outlines.digest)
