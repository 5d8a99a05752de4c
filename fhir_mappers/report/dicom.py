"""A film's report as DICOM: a structured report (TID 1500) and a segmentation, in the film's own study.

`highdicom` writes both; it comes with the extra `imaging`. Times are given in the zone of the film. Nothing but
identity and study attributes of the film is copied, and no value of ours is random.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from fhir_mappers.report.ids import device_uuid, uid_of
from fhir_mappers.report.statements import FilmReport, Statement
from fhir_mappers.report.terms import OWN_SCHEME, in_a_sentence, zone_words
from fhir_mappers.square import Placement
from models.contract import Structure

MANUFACTURER = "Ordersight"
SERIES_NUMBERS = {"sr": 9101, "seg": 9102}
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "Rows", "Columns")
_COPIED = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName"),
    *("SeriesNumber", "InstanceNumber", "SpecificCharacterSet", "FrameOfReferenceUID", "PatientOrientation"),
)
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Type 2: there must be an element, and it may be empty."""
_SEGMENTS: tuple[tuple[Structure, str, Any, Any], ...] = (
    ("right_lung", "Right lung", codes.SCT.Lung, codes.SCT.Right),
    ("left_lung", "Left lung", codes.SCT.Lung, codes.SCT.Left),
    ("heart", "Heart", codes.SCT.Heart, None),
)


class NotWritable(ValueError):
    """This film's header, or this report, gives no DICOM object. The message holds nothing of the patient."""


def source_of(metadata: Mapping[str, Any]) -> Dataset:
    """What a derived object takes over from its film, out of the film's DICOM JSON. Raises NotWritable."""
    try:
        whole = Dataset.from_json({tag: element for tag, element in metadata.items() if not tag.startswith("7FE0")})
        source = Dataset()
        for keyword in (*_NEEDED, *_COPIED):
            if keyword in whole:
                source[keyword] = whole[keyword]
    except Exception:  # noqa: BLE001 - a parser of a stranger's header may raise anything
        raise NotWritable("the film's header cannot be read as DICOM JSON") from None
    missing = [keyword for keyword in _NEEDED if not source.get(keyword)]
    if missing:
        raise NotWritable(f"the film's header has no {missing[0]}")
    for keyword in _EMPTY:
        if keyword not in source:
            setattr(source, keyword, "")
    return source


def to_bytes(dataset: Dataset) -> bytes:
    """A DICOM file (PS3.10)."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


# --- SEG -------------------------------------------------------------------------------------------------------------


def make_segmentation(report: FilmReport, source: Dataset) -> Dataset | None:
    """Lungs and heart on the film's own pixels; None where no outline was found. Raises NotWritable.

    The outlines are laid back from the square the model saw (`Placement`): as coarse as they were seen, not smoothed.
    """
    _same_film(report, source)
    masks = report.reading.anatomy.masks if report.reading is not None else {}
    rows, columns = int(source.Rows), int(source.Columns)
    found = [(row, np.asarray(masks[row[0]], np.bool_)) for row in _SEGMENTS if row[0] in masks]
    found = [(row, mask) for row, mask in found if mask.any()]
    if not found:
        return None
    planes = np.stack([Placement.of(rows, columns, mask.shape[0]).onto_film(mask) for _, mask in found], axis=-1)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f"{report.model} anatomy", family=codes.DCM.ArtificialIntelligence, version=_anatomy_digest(report)
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=site,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=uid_of(report, f"segment {structure}"),
            tracking_id=label,
        )
        for number, ((structure, label, site, _), _) in enumerate(found, start=1)
    ]
    for segment, ((_, _, _, side), _) in zip(segments, found, strict=True):
        if side is not None:
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [_coded(side)]
    made = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=planes[np.newaxis],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=uid_of(report, "seg series"),
        series_number=SERIES_NUMBERS["seg"],
        sop_instance_uid=uid_of(report, "seg"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=report.model,
        software_versions=report.digest[:64],
        device_serial_number=report.digest[:16],
        content_label="ANATOMY",
        content_description="Lungs and heart, research use",
        content_creator_name=f"{MANUFACTURER}^",
        series_description="Lungs and heart (research use)",
        omit_empty_frames=False,
    )
    if "PatientOrientation" not in made:
        made.PatientOrientation = source.get("PatientOrientation", "")  # type 2C: the film has no plane in space
    dimensions = uid_of(report, "seg dimensions")
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    return _dated(made, report)


def _anatomy_digest(report: FilmReport) -> str:
    return report.reading.digest if report.reading is not None else report.digest


# --- SR --------------------------------------------------------------------------------------------------------------


def make_structured_report(report: FilmReport, source: Dataset) -> Dataset:
    """The measurement report of the film: a group for each statement, one for the heart's width. Raises NotWritable."""
    _same_film(report, source)
    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=f"2.25.{device_uuid(report).int}",
            name=report.model[:64],
            manufacturer_name=MANUFACTURER,
            model_name=report.model[:64],
        ),
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("30745-4", "LN", "XR Chest Views"),
        imaging_measurements=_groups(report, source),
        title=codes.DCM.ImagingMeasurementReport,
    )
    made = ComprehensiveSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=uid_of(report, "sr series"),
        series_number=SERIES_NUMBERS["sr"],
        sop_instance_uid=uid_of(report, "sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="Chest film estimates (research use)",
    )
    return _dated(made, report)


def _groups(report: FilmReport, source: Dataset) -> list[MeasurementsAndQualitativeEvaluations]:
    image = SourceImageForMeasurementGroup.from_source_image(source)
    groups = [_group(report, statement, image) for statement in report.statements]
    if report.ctr is not None:
        groups.append(
            MeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(uid_of(report, "ctr"), "cardiothoracic ratio"),
                finding_type=CodedConcept("heart-size", OWN_SCHEME, "Heart size"),
                algorithm_id=_algorithm(report, _anatomy_digest(report)),
                finding_sites=[FindingSite(codes.SCT.Heart)],
                measurements=[
                    Measurement(
                        CodedConcept("cardiothoracic-ratio", OWN_SCHEME, "Cardiothoracic ratio"),
                        round(report.ctr, 4),
                        codes.UCUM.Ratio,
                    )
                ],
                source_images=[image],
            )
        )
    if not groups:
        raise NotWritable("the report states nothing, so there is nothing to send")
    return groups


def _group(report: FilmReport, statement: Statement, image: Any) -> MeasurementsAndQualitativeEvaluations:
    term = statement.term
    said = [QualitativeEvaluation(_own("certainty", "Certainty"), _own(statement.certainty, statement.certainty))]
    if statement.change is not None and report.prior is not None:
        said.append(QualitativeEvaluation(_own("course", "Course"), _own(statement.change, statement.change)))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid_of(report, term.finding), in_a_sentence(term.title)),
        finding_type=CodedConcept(term.code, term.scheme, term.meaning),
        algorithm_id=_algorithm(report, report.digest),
        finding_sites=[_site(statement)] if statement.side is not None else None,
        measurements=_numbers(statement) or None,
        qualitative_evaluations=said,
        source_images=[image],
    )


def _numbers(statement: Statement) -> Sequence[Measurement]:
    if statement.probability is None:
        return ()
    values = [(codes.DCM.Probability, statement.probability)]
    if statement.interval is not None:
        low, high = statement.interval
        values.append((CodedConcept("probability-p5", OWN_SCHEME, "Probability, 5th percentile"), low))
        values.append((CodedConcept("probability-p95", OWN_SCHEME, "Probability, 95th percentile"), high))
    return [Measurement(name, round(value, 4), codes.UCUM.NoUnits) for name, value in values]


def _site(statement: Statement) -> FindingSite:
    zone = statement.zone
    return FindingSite(
        codes.SCT.Lung,
        laterality=codes.SCT.Right if statement.side == "right" else codes.SCT.Left,
        topographical_modifier=_own(zone.replace("_", "-"), zone_words(zone)) if zone is not None else None,
    )


def _algorithm(report: FilmReport, digest: str) -> AlgorithmIdentification:
    name, _, version = report.model.partition("@")
    return AlgorithmIdentification(name=name, version=version or "1", parameters=[f"weights sha-256 {digest}"])


def _own(code: str, meaning: str) -> CodedConcept:
    return CodedConcept(code.replace(" ", "-")[:16], OWN_SCHEME, meaning)


def _coded(concept: Any) -> CodedConcept:
    return CodedConcept(concept.value, concept.scheme_designator, concept.meaning)


# --- both ------------------------------------------------------------------------------------------------------------


def _same_film(report: FilmReport, source: Dataset) -> None:
    if source.SOPInstanceUID != report.film.sop_uid or source.StudyInstanceUID != report.film.study_uid:
        raise NotWritable("the header is of another film than the report")


def _dated(made: Dataset, report: FilmReport) -> Dataset:
    """When the reading was made, in the film's time zone, instead of when the object was."""
    at: datetime = report.as_of.astimezone(report.film.at.tzinfo)
    for date_, time_ in (("ContentDate", "ContentTime"), ("InstanceCreationDate", "InstanceCreationTime")):
        setattr(made, date_, at.strftime("%Y%m%d"))
        setattr(made, time_, at.strftime("%H%M%S"))
    for item in made.get("ContributingEquipmentSequence", ()):
        item.ContributionDateTime = at.strftime("%Y%m%d%H%M%S%z")
    return made
