"""The demo's DICOMweb archive: QIDO-RS, metadata, frames and rendered films (PS3.18), read only."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, request

from cds_service.demo.store import Store, StoredFilm
from fhir_mappers.cohort.dicom import dicom_bytes

DICOM_JSON = "application/dicom+json"
LEVELS: dict[str, tuple[str, ...]] = {
    # Attributes returned at each level of a search (PS3.18 10.6.3.3).
    "studies": ("00080005", "00080020", "00080030", "00080050", "00080090", "00080201", "00100010", "00100020",
                "00100030", "00100040", "0020000D", "00200010", "00081030"),
    "series": ("00080060", "0020000E", "00200011", "00081030", "0020000D", "00180015"),
    "instances": ("00080016", "00080018", "00200013", "00280010", "00280011", "00280100", "0020000D", "0020000E"),
}  # fmt: skip
KEYS = {
    "PatientID": "00100020",
    "StudyInstanceUID": "0020000D",
    "SeriesInstanceUID": "0020000E",
    "SOPInstanceUID": "00080018",
    "ModalitiesInStudy": "00080060",
    "Modality": "00080060",
    "StudyDate": "00080020",
    "AccessionNumber": "00080050",
}
NOT_KEYS = frozenset({"limit", "offset", "includefield", "fuzzymatching"})
Header = Mapping[str, Any]


def refuse(status: int, reason: str) -> Response:
    return Response(json.dumps({"error": reason}), status, content_type="application/json")


def add_archive(blueprint: Blueprint, store: Store) -> None:
    """Add the archive's routes under /dicomweb."""

    def films(study: str = "", series: str = "", instance: str = "") -> list[StoredFilm]:
        held = store.charts().films.values()
        return [
            f
            for f in held
            if study in ("", f.study_uid) and series in ("", f.series_uid) and instance in ("", f.sop_uid)
        ]

    root = "/dicomweb/studies"

    @blueprint.get(root)
    def find_studies() -> Response:
        return _matches("studies", films())

    @blueprint.get(f"{root}/<study>/series")
    def find_series(study: str) -> Response:
        return _matches("series", films(study))

    @blueprint.get(f"{root}/<study>/instances")
    @blueprint.get(f"{root}/<study>/series/<series>/instances")
    def find_instances(study: str, series: str = "") -> Response:
        return _matches("instances", films(study, series))

    @blueprint.get(f"{root}/<study>/metadata")
    @blueprint.get(f"{root}/<study>/series/<series>/metadata")
    @blueprint.get(f"{root}/<study>/series/<series>/instances/<instance>/metadata")
    def film_metadata(study: str, series: str = "", instance: str = "") -> Response:
        found = films(study, series, instance)
        if not found:
            return refuse(404, "no such film in this archive")
        return _dicom_json([{**f.header, "7FE00010": {"vr": "OW", "BulkDataURI": _frame_url(f)}} for f in found])

    @blueprint.get(f"{root}/<study>/series/<series>/instances/<instance>/frames/<numbers>")
    def film_frames(study: str, series: str, instance: str, numbers: str) -> Response:
        found = films(study, series, instance)
        if not found or numbers != "1":
            return refuse(404, "no such frame in this archive; films have one, number 1")
        if not _accepts("multipart/related"):
            return refuse(406, "frames come as multipart/related; type=application/octet-stream")
        kind = f"application/octet-stream; transfer-syntax={found[0].transfer_syntax}"
        return _multipart("application/octet-stream", [(kind, _frame_url(found[0]), store.frame(found[0]))])

    @blueprint.get(f"{root}/<study>")
    @blueprint.get(f"{root}/<study>/series/<series>")
    @blueprint.get(f"{root}/<study>/series/<series>/instances/<instance>")
    def retrieve_film(study: str, series: str = "", instance: str = "") -> Response:
        found = films(study, series, instance)
        if not found:
            return refuse(404, "no such film in this archive")
        if not _accepts("multipart/related"):
            return refuse(406, "instances come as multipart/related; type=application/dicom")
        kind = "application/dicom"
        parts = [(f"{kind}; transfer-syntax={f.transfer_syntax}", "", dicom_bytes(f.patient, f.index)) for f in found]
        return _multipart(kind, parts)

    @blueprint.get(f"{root}/<study>/series/<series>/instances/<instance>/rendered")
    def rendered_film(study: str, series: str, instance: str) -> Response:
        found = films(study, series, instance)
        if not found:
            return refuse(404, "no such film in this archive")
        if not _accepts("image/png"):
            return refuse(406, "films are rendered as image/png")
        viewport = request.args.get("viewport", "1024,1024").split(",")
        if len(viewport) != 2 or not all(v.isascii() and v.isdigit() and 16 <= int(v) <= 2048 for v in viewport):
            return refuse(400, "viewport is width,height in pixels, 16 to 2048")
        return Response(store.picture(found[0], min(int(v) for v in viewport)), content_type="image/png")


def _frame_url(film: StoredFilm) -> str:
    path = f"studies/{film.study_uid}/series/{film.series_uid}/instances/{film.sop_uid}/frames/1"
    return f"{request.host_url}demo/dicomweb/{path}"


def _accepts(kind: str) -> bool:
    """Whether the caller takes this media type; the parameters of multipart/related are not weighed."""
    accept = request.headers.get("Accept", "*/*")
    offered = {part.split(";")[0].strip().lower() for part in accept.split(",")}
    return bool(offered & {kind, "*/*", kind.split("/", maxsplit=1)[0] + "/*"})


def _dicom_json(headers: Sequence[Header]) -> Response:
    return Response(json.dumps(headers), content_type=DICOM_JSON)


def _multipart(type_: str, parts: Iterable[tuple[str, str, bytes]]) -> Response:
    boundary = uuid.uuid4().hex

    def body() -> Iterator[bytes]:
        for kind, location, data in parts:
            place = f"Content-Location: {location}\r\n" if location else ""
            yield f"--{boundary}\r\nContent-Type: {kind}\r\n{place}Content-Length: {len(data)}\r\n\r\n".encode()
            yield data
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return Response(b"".join(body()), content_type=f'multipart/related; type="{type_}"; boundary={boundary}')


def _matches(level: str, films: Sequence[StoredFilm]) -> Response:
    """A QIDO-RS answer: the matching entities of a level; 204 where there are none."""
    found: dict[str, Header] = {}
    asked = {name: value for name, value in request.args.items() if name not in NOT_KEYS}
    unknown = sorted(set(asked) - set(KEYS))
    if unknown:
        return refuse(400, f"this archive matches by {', '.join(KEYS)}")
    unique = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}[level]
    for film in films:
        if all(_matches_key(film.header, KEYS[name], value) for name, value in asked.items()):
            entity = {tag: film.header[tag] for tag in LEVELS[level] if tag in film.header}
            if level == "studies":
                entity["00080061"] = {"vr": "CS", "Value": _values(film.header, "00080060")}
                entity["00201206"] = entity["00201208"] = {"vr": "IS", "Value": [1]}
            found[_values(film.header, unique)[0]] = entity
    window = [request.args.get(name, default) for name, default in (("offset", "0"), ("limit", "1000"))]
    if not all(w.isascii() and w.isdigit() for w in window):
        return refuse(400, "limit and offset are whole numbers")
    offset, limit = (int(w) for w in window)
    page = list(found.values())[offset : offset + limit]
    return _dicom_json(page) if page else Response(status=204)


def _values(header: Header, tag: str) -> list[Any]:
    return list(header.get(tag, {}).get("Value", []))


def _matches_key(header: Header, tag: str, wanted: str) -> bool:
    values = [str(v) for v in _values(header, tag)]
    if tag == "00080020" and "-" in wanted:
        low, high = wanted.split("-", maxsplit=1)
        return any((not low or v >= low) and (not high or v <= high) for v in values)
    return any(v in wanted.replace("\\", ",").split(",") for v in values)
