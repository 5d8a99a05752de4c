"""What DICOMweb answers: frames out of multipart bodies, instances out of DICOM JSON (DICOM PS3.18)."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from cds_service.evidence import Frame
from cds_service.multipart import BadAnswer, first_part, media_type
from cds_service.strict_json import BadJson, parse
from fhir_mappers.dicom import Header
from fhir_mappers.imaging import view_of
from fhir_mappers.pixels import BadPixels, jpeg_size
from fhir_mappers.record import Instance, Study
from fhir_mappers.studies import FILM_MODALITIES, from_the_side

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
AS_STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
UNCOMPRESSED = f'multipart/related; type="application/octet-stream"; transfer-syntax={EXPLICIT_LITTLE_ENDIAN}'
RENDERED = "image/jpeg"
BULK = 'multipart/related; type="application/octet-stream"'
OTHERWISE = (AS_STORED, UNCOMPRESSED)
"""What there is another way to ask for."""
DICOM_JSON = "application/dicom+json"
INSTANCE_FIELDS = "includefield=00080060&includefield=00185101&includefield=0008103E"
"""Modality, ViewPosition and SeriesDescription."""
CONVERT_ON = frozenset({400, 406, 415, 500, 501})
"""Answers to `AS_STORED` after which the converted frame is worth asking for: Orthanc says 500 for objects stored
deflated or big endian, and an archive without `*` says 400 or 406."""

DEFAULT_SYNTAX = {
    # PS3.18, media types of image bulk data and the transfer syntax each stands for when it names none.
    "image/jpeg": "1.2.840.10008.1.2.4.70",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/x-dicom-rle": "1.2.840.10008.1.2.5",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/x-jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jphc": "1.2.840.10008.1.2.4.201",
}
_UID = re.compile(r"[0-9]+(?:\.[0-9]+){1,31}")
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
LUT_SEQUENCES, LUT_DATA = ("00283000", "00283010"), "00283006"


def instance_path(image: Instance) -> str:
    """`studies/.../instances/...` below a DICOMweb root. Raises BadAnswer for a UID that is none."""
    return f"{study_path(image.study_uid)}/series/{_uid(image.series_uid)}/instances/{_uid(image.sop_uid)}"


def study_path(study_uid: str) -> str:
    return f"studies/{_uid(study_uid)}"


def _uid(text: str) -> str:
    if len(text) > 64 or _UID.fullmatch(text) is None:
        raise BadAnswer("not a DICOM UID")
    return text


def read_frame(content_type: str, body: bytes, part: Mapping[str, str] | None = None) -> Frame:
    """The first frame of an answer, multipart or plain. Raises BadAnswer.

    part  headers of the first part of a multipart answer where `body` is that part's content already
    """
    outer, parameters = media_type(content_type)
    if outer != "multipart/related":
        if not outer.startswith(("image/", "application/octet-stream")) or not body:
            raise BadAnswer("neither multipart nor a frame")
        return Frame(body, _syntax(outer, parameters, {}))
    header, data = (part, body) if part is not None else first_part(body, parameters.get("boundary", ""))
    inner, own = media_type(header.get("content-type", parameters.get("type", "application/octet-stream")))
    return Frame(data, _syntax(inner, own, parameters))


def read_rendered(content_type: str, body: bytes) -> Frame:
    """A frame as the archive shows it: an 8-bit JPEG. Raises BadAnswer."""
    type_, parameters = media_type(content_type)
    if type_ == "multipart/related":
        header, body = first_part(body, parameters.get("boundary", ""))
        type_, _ = media_type(header.get("content-type", ""))
    if type_ != RENDERED or not body:
        raise BadAnswer("not the picture that was asked for")
    try:
        jpeg_size(body)
    except BadPixels:
        raise BadAnswer("no JPEG") from None
    return Frame(body, JPEG_BASELINE, rendered=True)


def table_uris(header: Mapping[str, Any]) -> list[str]:
    """Where the lookup tables lie that a header leaves out."""
    return [data["BulkDataURI"] for _, data in _tables(header)]


def with_tables(header: Mapping[str, Any], fetched: Iterable[tuple[str, str]]) -> Mapping[str, Any]:
    """The header with these lookup tables (URI, base 64) in it."""
    known = dict(fetched)
    if not known:
        return header
    header = copy.deepcopy(dict(header))
    for item, data in _tables(header):
        if data["BulkDataURI"] in known:
            item[LUT_DATA] = {"vr": "OW", "InlineBinary": known[data["BulkDataURI"]]}
    return header


def _tables(header: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The items of the LUT sequences whose data is behind a URI, and that data."""
    items = []
    for sequence in LUT_SEQUENCES:
        found = header.get(sequence)
        values = found.get("Value") if isinstance(found, dict) else None
        items += [i for i in values if isinstance(i, dict)] if isinstance(values, list) else []
    data = [(item, item.get(LUT_DATA)) for item in items]
    return [(i, d) for i, d in data if isinstance(d, dict) and isinstance(d.get("BulkDataURI"), str)]


def _syntax(type_: str, own: Mapping[str, str], outer: Mapping[str, str]) -> str:
    """The part's own word, else what its type stands for, else the answer's; else explicit VR little endian."""
    if type_.startswith("image/") and "transfer-syntax" not in own and type_ not in DEFAULT_SYNTAX:
        raise BadAnswer("an image type without a transfer syntax")
    named = own.get("transfer-syntax") or DEFAULT_SYNTAX.get(type_) or outer.get("transfer-syntax")
    return EXPLICIT_LITTLE_ENDIAN if named in (None, "*") else _uid(str(named))


def read_metadata(body: bytes, sop_uid: str) -> Mapping[str, Any]:
    """The DICOM JSON of one instance. Raises BadAnswer, also when it is of another instance."""
    for instance in _dicom_json(body):
        if _value(instance, "00080018") == sop_uid:
            return instance
    raise BadAnswer("no metadata of this instance")


def read_instances(body: bytes, study: Study) -> tuple[Instance, ...]:
    """What QIDO-RS names as the images of a study; entries without their UIDs are left out. Raises BadAnswer."""
    only = next(iter(study.modalities)) if len(study.modalities) == 1 else ""
    images = []
    for found in _dicom_json(body):
        series_uid, sop_uid = _value(found, "0020000E"), _value(found, "00080018")
        if isinstance(series_uid, str) and isinstance(sop_uid, str) and _value(found, "0020000D") in (None, study.uid):
            number = _value(found, "00200013")
            images.append(
                Instance(
                    study_uid=study.uid,
                    series_uid=series_uid,
                    sop_uid=sop_uid,
                    sop_class=str(_value(found, "00080016") or ""),
                    modality=str(_value(found, "00080060") or only),
                    number=int(number) if isinstance(number, int | float) else 0,
                    lateral=view_of(Header(found)) == "LATERAL" or from_the_side(_plain(_value(found, "0008103E"))),
                )
            )
    return tuple(images)


class FoundStudy(NamedTuple):
    """A study as QIDO-RS names it, the patient it says it is of, and StudyTime as HHMM."""

    uid: str
    patient_id: str
    minute: str = ""


class Search(NamedTuple):
    """A QIDO-RS search for studies, and the attributes an answer must have for us to believe that it matched."""

    path: str
    expected: Mapping[str, str]


def by_number(number: str) -> Search:
    path = f"studies?AccessionNumber={quote(number, safe='')}&includefield=00100020&includefield=00080050"
    return Search(path, {"00080050": number})


def of_patient(patient_id: str, issuer: str, day: str) -> Search:
    """The films of one patient on one day; `issuer` is empty where the archive knows one issuer of PatientIDs only."""
    expected = {"00100020": patient_id, "00080020": day} | ({"00100021": issuer} if issuer else {})
    keys = {"PatientID": patient_id, "IssuerOfPatientID": issuer, "StudyDate": day}
    asked = "&".join(f"{key}={quote(value, safe='')}" for key, value in keys.items() if value)
    return Search(f"studies?{asked}&includefield=00100020&includefield=00100021&includefield=00080061", expected)


def read_studies(body: bytes, search: Search) -> tuple[FoundStudy, ...]:
    """The studies that a search found and that are what it asked for.

    One of other attributes, without a UID or of modalities none of which takes films is left out. Raises BadAnswer.
    """
    found = []
    for study in _dicom_json(body):
        uid, patient, time = (_value(study, tag) for tag in ("0020000D", "00100020", "00080030"))
        asked = all(_plain(_value(study, tag)) == value for tag, value in search.expected.items())
        modalities = _values(study, "00080061")
        films = not modalities or bool(FILM_MODALITIES.intersection(map(str, modalities)))
        if asked and films and isinstance(uid, str) and len(uid) <= 64 and _UID.fullmatch(uid):
            found.append(FoundStudy(uid, _plain(patient), _plain(time)[:4]))
    return tuple(found)


def _plain(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _dicom_json(body: bytes) -> Sequence[Mapping[str, Any]]:
    if not body:
        return ()  # QIDO-RS: 204 without a body where nothing matches
    try:
        data = parse(body)
    except BadJson:
        raise BadAnswer("not JSON") from None
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise BadAnswer("not DICOM JSON")
    return data


def _value(instance: Mapping[str, Any], tag: str) -> Any:
    """The first value of an attribute, or None."""
    values = _values(instance, tag)
    return values[0] if values else None


def _values(instance: Mapping[str, Any], tag: str) -> list[Any]:
    attribute = instance.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []
