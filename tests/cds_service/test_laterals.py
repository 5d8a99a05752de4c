"""A lateral beside a frontal film: found by label or by header, named beside the film, and never read as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from moody import Mood, Moody, Seen, reply
from patient_p1 import RECORD, archive, ehr, gathered, study
from reading import bundle

from cds_service.evidence import Evidence
from cds_service.fhir_client import FhirClient
from cds_service.films.kept import pack, unpack
from cds_service.films.seek import with_kept
from fhir_mappers.record import Image, Instance, Source, Study
from models.contract import EncodedFilm

DX = {"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2.840.10008.5.1.4.1.1.1.1"}
AT = datetime(2026, 2, 1, 8, tzinfo=UTC)


def two_views(views: Mapping[str, str]) -> Callable[[Seen], Mood]:
    """An archive that says in the header of each image from where it was taken."""

    def answer(seen: Seen) -> Mood:
        if not seen.path.endswith("/metadata"):
            return archive(seen)
        uid = seen.path.split("/")[-2]
        header = {"00080018": {"vr": "UI", "Value": [uid]}, "00185101": {"vr": "CS", "Value": [views.get(uid, "PA")]}}
        return reply([header], content_type="application/dicom+json")

    return answer


def of_study(client: FhirClient, pacs: Moody, *images: tuple[str, str]) -> Evidence:
    """What is gathered of a study with these images, (SOP instance UID, title)."""
    listed = [
        {"uid": uid, "sopClass": DX, "number": number} | ({"title": title} if title else {})
        for number, (uid, title) in enumerate(images, start=1)
    ]
    given = study(1)
    given["series"][0]["instance"] = listed
    with Moody(ehr({**RECORD, "studies": bundle(given)})) as server:
        return gathered(client, server, pacs)


def test_a_lateral_that_only_its_header_tells_is_left_for_the_frontal_film_of_its_study(
    fhir_client: FhirClient,
) -> None:
    with Moody(two_views({"1.2.1.1.1": "LL"})) as pacs:
        evidence = of_study(fhir_client, pacs, ("1.2.1.1.1", ""), ("1.2.1.1.2", ""))
    assert [(film.sop_uid, film.laterals) for film in evidence.dicom] == [("1.2.1.1.2", 1)]
    assert evidence.shortfalls == ()


def test_a_lateral_that_its_label_tells_is_not_fetched_and_counted_beside_the_film(fhir_client: FhirClient) -> None:
    with Moody(two_views({})) as pacs:
        evidence = of_study(fhir_client, pacs, ("1.2.1.1.1", "Chest lateral"), ("1.2.1.1.2", "Chest PA"))
        assert not any("1.2.1.1.1/" in path for path in pacs.paths())
    assert [(film.sop_uid, film.laterals) for film in evidence.dicom] == [("1.2.1.1.2", 1)]


def test_a_study_of_laterals_alone_gives_its_lateral_which_no_network_reads(fhir_client: FhirClient) -> None:
    both = {"1.2.1.1.1": "LL", "1.2.1.1.2": "RL"}
    with Moody(two_views(both)) as pacs:
        evidence = of_study(fhir_client, pacs, ("1.2.1.1.1", ""), ("1.2.1.1.2", ""))
    (film,) = evidence.dicom
    assert film.metadata["00185101"]["Value"][0] in ("LL", "RL")


def test_no_more_than_three_images_of_a_study_are_tried(fhir_client: FhirClient) -> None:
    many = [(f"1.2.1.1.{n}", "") for n in range(1, 9)]
    with Moody(two_views({uid: "LATERAL" for uid, _ in many})) as pacs:
        of_study(fhir_client, pacs, *many)
        assert len({path for path in pacs.paths() if path.endswith("/metadata")}) == 3


@pytest.mark.parametrize("tag", [{"00185101": {"Value": ["LL"]}}, {"0008103E": {"Value": ["THORAX LAT"]}}])
def test_what_an_archive_lists_as_a_lateral_is_not_chosen(fhir_client: FhirClient, tag: dict[str, Any]) -> None:
    def listing(seen: Seen) -> Mood:
        if "/instances?" not in seen.path:
            return archive(seen)
        images = [
            {"0020000E": {"Value": ["1.2.1.1"]}, "00080018": {"Value": [f"1.2.1.1.{n}"]}, "00080060": {"Value": ["DX"]}}
            for n in (1, 2)
        ]
        images[0] |= tag
        return reply(images, content_type="application/dicom+json")

    with Moody(listing) as pacs, Moody(ehr({**RECORD, "studies": bundle(study(1, listed=False))})) as server:
        evidence = gathered(fhir_client, server, pacs)
    assert [(film.sop_uid, film.laterals) for film in evidence.dicom] == [("1.2.1.1.2", 1)]


def kept(sop_uid: str, view: str) -> Image:
    film = Image(np.zeros((4, 4), np.float32), view, AT, sop_uid, "1.2.1", Source("ImagingStudy/s1"), laterals=1)
    found = unpack(pack(film, EncodedFilm("e" * 64, np.zeros((2, 4), np.float32), None)))
    assert found is not None
    return found


def test_a_kept_film_is_known_by_itself_and_a_kept_lateral_does_not_stand_in_its_way() -> None:
    images = tuple(Instance("1.2.1", "1.2.1.1", f"1.2.1.1.{n}", "", "DX", n) for n in (1, 2))
    listed = Study("1.2.1", AT, frozenset({"DX"}), "Chest PA", (), images, (), Source("ImagingStudy/s1"))
    frontal, lateral = kept("1.2.1.1.2", "PA"), kept("1.2.1.1.1", "LATERAL")
    assert frontal.laterals == 1
    assert with_kept(listed, [frontal]).instances == images[1:]
    assert with_kept(listed, [lateral]).instances == images[1:]
    assert with_kept(listed, []) == listed
