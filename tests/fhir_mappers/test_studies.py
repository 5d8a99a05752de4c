"""Imaging studies and reports, and which films of them are worth fetching."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.record import Gap, LabReport, Report, Study
from fhir_mappers.studies import choose_films, plain_uid, read_report, read_study

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def resource(uid: str = "1.2.3", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "ImagingStudy",
        "id": f"s{uid}",
        "status": "available",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
        "started": "2026-03-10T08:00:00Z",
        "description": "XR CHEST AP",
        "series": [
            {
                "uid": f"{uid}.1",
                "modality": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "DX"},
                "bodySite": {"display": "Chest"},
                "instance": [{"uid": f"{uid}.1.1", "sopClass": {"code": f"urn:oid:{DX}"}, "number": 1}],
            }
        ],
    } | more


def study(uid: str = "1.2.3", **more: Any) -> Study:
    (item,) = read_study(resource(uid, **more), AS_OF, {})
    assert isinstance(item, Study), item
    return item


def test_a_study_names_its_films_by_uid() -> None:
    read = study()
    (instance,) = read.instances
    assert (instance.study_uid, instance.series_uid, instance.sop_uid) == ("1.2.3", "1.2.3.1", "1.2.3.1.1")
    assert (instance.sop_class, instance.modality) == (DX, "DX")
    assert read.modalities == {"DX"}
    assert read.body_sites == ("Chest",)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"status": "entered-in-error"}, "bad-status"),
        ({"status": "cancelled"}, "bad-status"),
        ({"started": "2026-03-11T08:00:00Z"}, "future"),
        ({"identifier": [{"value": "ACC-1"}]}, "no-value"),
        ({"identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:../../etc"}]}, "no-value"),
    ],
)
def test_a_study_that_cannot_be_used_is_named(more: dict[str, Any], code: str) -> None:
    (item,) = read_study(resource(**more), AS_OF, {})
    assert isinstance(item, Gap)
    assert item.code == code


@pytest.mark.parametrize(
    ("text", "uid"),
    [("urn:oid:1.2.3", "1.2.3"), ("2.25.1", "2.25.1"), ("1", ""), ("1.2/..", ""), ("1." + "2" * 70, ""), ("1.2\n", "")],
)
def test_a_uid_is_digits_and_dots_and_at_most_64_of_them(text: str, uid: str) -> None:
    assert plain_uid(text) == uid


def test_endpoints_are_found_contained_or_beside_and_only_wado_rs_ones() -> None:
    def endpoint(id_: str, kind: str, **more: Any) -> dict[str, Any]:
        code = {"code": kind}
        address = f"https://pacs.example/{id_}"
        return {
            "resourceType": "Endpoint",
            "id": id_,
            "status": "active",
            "connectionType": code,
            "address": address,
        } | more

    references = [{"reference": r} for r in ("Endpoint/a", "#b", "Endpoint/c", "Endpoint/off", "Endpoint/gone")]
    beside = {
        "Endpoint/a": endpoint("a", "dicom-wado-rs"),
        "Endpoint/c": endpoint("c", "dicom-wado-uri"),
        "Endpoint/off": endpoint("off", "dicom-wado-rs", status="off"),
    }
    given = resource(endpoint=references, contained=[endpoint("b", "dicom-wado-rs")])
    (item,) = read_study(given, AS_OF, beside)
    assert isinstance(item, Study)
    assert item.endpoints == ("https://pacs.example/a", "https://pacs.example/b")


def test_the_newest_frontal_chest_film_comes_first() -> None:
    old = study("1.2.1", started="2026-03-01T08:00:00Z")
    new = study("1.2.2", started="2026-03-09T08:00:00Z")
    undated = study("1.2.4", started=None)
    films = choose_films([old, undated, new], 5, AS_OF)
    assert [f.study_uid for f in films] == ["1.2.2", "1.2.1", "1.2.4"]
    assert [f.study_uid for f in choose_films([old, undated, new], 1, AS_OF)] == ["1.2.2"]
    assert choose_films([old], 0, AS_OF) == ()


def series(modality: str, sop_class: str = DX, **more: Any) -> list[dict[str, Any]]:
    instance = {"uid": "1.2.3.1.1", "sopClass": {"code": sop_class}}
    return [{"uid": "1.2.3.1", "modality": {"code": modality}, "instance": [instance]} | more]


@pytest.mark.parametrize(
    ("more", "chosen"),
    [
        ({"series": series("CT")}, False),
        ({"series": series("DX", "1.2.840.10008.5.1.4.1.1.88.11")}, False),  # a structured report
        ({"description": "XR HAND", "series": series("DX")}, False),
        ({"description": "", "series": series("CR", bodySite={"code": "51185008"})}, True),
        ({"description": "THORAX", "series": series("CR")}, True),
        ({"description": "XR CHEST LATERAL", "series": series("DX")}, False),
        ({"description": "XR CHEST PA AND LATERAL", "series": series("DX")}, True),
        ({"description": "CT of the neck", "series": series("DX", bodySite={"display": "Neck"})}, False),
    ],
)
def test_only_films_of_the_chest_from_the_front_are_fetched(more: dict[str, Any], chosen: bool) -> None:
    assert bool(choose_films([study(**more)], 2, AS_OF)) is chosen


def test_of_a_study_with_a_lateral_the_frontal_film_is_fetched_whichever_comes_first() -> None:
    side = {"uid": "1.2.3.1.1", "sopClass": {"code": DX}, "number": 1, "title": "Chest LAT"}
    front = {"uid": "1.2.3.1.2", "sopClass": {"code": DX}, "number": 2, "title": "Chest PA"}
    (film,) = choose_films([study(series=series("DX", instance=[side, front]))], 2, AS_OF)
    assert film.sop_uid == "1.2.3.1.2"
    apart = [
        {**series("DX", instance=[{**side, "title": None}], description="Thorax lateral")[0]},
        {**series("DX", instance=[{**front, "title": None}])[0]},
    ]
    (film,) = choose_films([study(series=apart)], 2, AS_OF)
    assert film.sop_uid == "1.2.3.1.2"
    assert choose_films([study(series=apart[:1])], 2, AS_OF) == ()


def test_a_film_for_presentation_is_fetched_before_one_for_processing() -> None:
    raw, shown = f"{DX}.1", DX
    instances = [
        {"uid": "1.2.3.1.1", "sopClass": {"code": raw}, "number": 1},
        {"uid": "1.2.3.1.2", "sopClass": {"code": shown}, "number": 2},
    ]
    (film,) = choose_films([study(series=series("DX", instance=instances))], 2, AS_OF)
    assert film.sop_uid == "1.2.3.1.2"


def test_the_modality_of_a_study_stands_in_for_a_series_without_one() -> None:
    bare = [{"uid": "1.2.3.1", "instance": [{"uid": "1.2.3.1.1"}]}]
    assert choose_films([study(series=bare, modality=[{"code": "CR"}])], 1, AS_OF)
    assert not choose_films([study(series=bare, modality=[{"code": "CR"}, {"code": "CT"}])], 1, AS_OF)


def report(**more: Any) -> list[Report | Gap]:
    base = {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": "final",
        "category": [{"coding": [{"code": "RAD"}]}],
        "effectiveDateTime": "2026-03-01T10:00:00Z",
        "conclusion": "No pneumothorax.",
        "imagingStudy": [{"reference": "ImagingStudy/s1"}],
    }
    return list(read_report(base | more, AS_OF))


def test_a_radiology_report_keeps_its_conclusion_and_its_studies() -> None:
    (read,) = report()
    assert isinstance(read, Report)
    assert (read.conclusion, read.study_refs, read.final) == ("No pneumothorax.", ("ImagingStudy/s1",), True)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"status": "entered-in-error"}, "bad-status"),
        ({"issued": "2026-03-11T10:00:00Z"}, "future"),
        ({"category": [{"coding": [{"code": "LAB"}]}], "imagingStudy": []}, "not-read"),
    ],
)
def test_a_report_that_is_not_used_is_named(more: dict[str, Any], code: str) -> None:
    (item,) = report(**more)
    assert isinstance(item, Gap)
    assert item.code == code


def test_a_preliminary_report_is_read_and_is_not_final() -> None:
    (read,) = report(status="preliminary", category=[])
    assert isinstance(read, Report)
    assert not read.final


def test_a_study_says_what_was_done_on_which_side_and_whether_it_is_complete() -> None:
    duplex = {"coding": [{"system": "http://loinc.org", "code": "30881-7"}]}
    left = {"system": "http://snomed.info/sct", "code": "7771000"}
    series = [{"uid": "1.2.3.1", "modality": {"code": "US"}, "laterality": left, "instance": []}]
    found = study(procedureCode=[duplex], series=series, status="registered")
    assert (found.codes, found.sides) == ((("http://loinc.org", "30881-7"),), {"left"})
    assert not found.complete
    both = [{**series[0], "laterality": {"system": "http://snomed.info/sct", "code": "51440002"}}]
    assert study(series=both).sides == {"left", "right"}
    assert (study().sides, study().complete) == (frozenset(), True)


def laboratory(**more: Any) -> list[Any]:
    """A report of a blood culture (LOINC 600-7) that the laboratory has begun."""
    base = {
        "resourceType": "DiagnosticReport",
        "id": "l1",
        "status": "partial",
        "category": [{"coding": [{"code": "LAB"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "600-7"}]},
        "effectiveDateTime": "2026-03-01T10:00:00Z",
    }
    return list(read_report(base | more, AS_OF))


@pytest.mark.parametrize(
    ("status", "pending"), [("registered", True), ("partial", True), ("preliminary", True), ("final", False)]
)
def test_a_laboratory_report_tells_whether_its_test_is_still_under_way(status: str, pending: bool) -> None:
    (read,) = laboratory(status=status)
    assert isinstance(read, LabReport)
    assert (read.analyte, read.pending) == ("culture_blood", pending)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"status": "entered-in-error"}, "bad-status"),
        ({"effectiveDateTime": "2026-04-11T10:00:00Z"}, "future"),
        ({"code": {"coding": [{"system": "http://loinc.org", "code": "58410-2"}]}}, "not-read"),  # a panel
    ],
)
def test_a_laboratory_report_of_no_use_is_named(more: dict[str, Any], code: str) -> None:
    assert [item.code for item in laboratory(**more)] == [code]
