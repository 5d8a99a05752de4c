"""A film's report as DICOM, read back by highdicom and checked by dciodvfy, which shares no line with what wrote it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from film_readings import NEW, NOON, OLD, SERIES, assessment, estimate, film, lungs, reading, record, report

from fhir_mappers.imaging import read_dicom_file
from fhir_mappers.record import Image, Source
from fhir_mappers.report.dicom import (
    NotWritable,
    make_segmentation,
    make_structured_report,
    source_of,
    to_bytes,
)
from fhir_mappers.report.statements import FilmReport, report_film
from fhir_mappers.report.terms import COURSES, ZONES, terms

NAME = "Doe^Jane"


def tag(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def header(of: Image = NEW, **more: Any) -> dict[str, Any]:
    rows, columns = of.pixels.shape
    return {
        "00080016": tag("UI", "1.2.840.10008.5.1.4.1.1.1.1"),
        "00080018": tag("UI", of.sop_uid),
        "00080020": tag("DA", "20260310"),
        "00080030": tag("TM", "133800"),
        "00080050": tag("SH", "A1"),
        "00080060": tag("CS", "DX"),
        "00100010": tag("PN", {"Alphabetic": NAME}),
        "00100020": tag("LO", "p1"),
        "00100030": tag("DA", "19581102"),
        "00100040": tag("CS", "F"),
        "0020000D": tag("UI", of.study_uid),
        "0020000E": tag("UI", SERIES),
        "00200010": tag("SH", "77"),
        "00280010": tag("US", rows),
        "00280011": tag("US", columns),
        **more,
    }


def full(**more: Any) -> FilmReport:
    """Every zone and course at once, a finding not assessed, and a cardiothoracic ratio."""
    names = list(terms())
    places = dict(zip(names, ZONES, strict=False))
    changes = dict(zip(names, COURSES, strict=False))
    estimates = [estimate(n, 0.05 if changes.get(n) == "resolved" else 0.88) for n in names[:-1]]
    answer = assessment(
        *estimates, estimate(names[-1], None), read=reading(places, changes), prior=tuple(estimates), **more
    )
    return report_film(record(NEW, OLD), answer, NEW, OLD)


def faults(dataset: pydicom.Dataset, folder: Path) -> list[str]:
    """The Error lines of dciodvfy (Debian dicom3tools)."""
    path = folder / "object.dcm"
    path.write_bytes(to_bytes(dataset))
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    assert any(line.strip() in ("ComprehensiveSR", "Segmentation") for line in lines), lines
    return [line for line in lines if line.startswith(("Error", "Abort"))]


def test_an_independent_validator_finds_no_error_in_either_object(tmp_path: Path) -> None:
    source = source_of(header())
    segmentation = make_segmentation(full(), source)
    assert segmentation is not None
    assert faults(make_structured_report(full(), source), tmp_path) == []
    assert faults(segmentation, tmp_path) == []


def test_the_validator_does_find_an_error_where_there_is_one(tmp_path: Path) -> None:
    broken = make_structured_report(full(), source_of(header()))
    del broken.CompletionFlag
    assert any("CompletionFlag" in line for line in faults(broken, tmp_path))


def test_the_least_header_an_archive_gives_is_enough(tmp_path: Path) -> None:
    least = {k: v for k, v in header().items() if k not in ("00100010", "00100030", "00080050", "00200010", "00100040")}
    source = source_of(least)
    segmentation = make_segmentation(full(), source)
    assert segmentation is not None
    assert faults(make_structured_report(full(), source), tmp_path) == []
    assert faults(segmentation, tmp_path) == []


def test_the_structured_report_read_back_says_what_the_statements_say() -> None:
    answer = assessment(
        estimate("effusion", 0.88, 0.81, 0.93),
        prior=(estimate("effusion", 0.06),),
        read=reading({"effusion": "right_lower"}, {"effusion": "new"}, ctr=0.5432),
    )
    made = report_film(record(NEW, OLD), answer, NEW, OLD)
    data = to_bytes(make_structured_report(made, source_of(header())))
    read = hd.sr.srread(pydicom.filebase.DicomBytesIO(data))
    assert (read.StudyInstanceUID, read.PatientID, str(read.PatientName)) == (NEW.study_uid, "p1", NAME)
    assert (read.CompletionFlag, read.PreliminaryFlag, read.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )
    assert (read.ContentDate, read.ContentTime) == ("20260310", "140000")
    effusion, heart = read.content.get_image_measurement_groups()
    assert effusion.finding_type.value == "60046008"
    assert effusion.source_images[0].referenced_sop_instance_uid == NEW.sop_uid
    probability, low, high = effusion.get_measurements()
    assert [m.value for m in (probability, low, high)] == [0.88, 0.81, 0.93]
    assert probability.name.value == "122157"  # DCM: Probability
    said = {e.name.value: e.value.value for e in effusion.get_qualitative_evaluations()}
    assert said == {"certainty": "probable", "course": "new"}
    (site,) = effusion.finding_sites
    assert (site.value.value, site.laterality.value) == ("39607008", "24028007")  # SCT: lung, right
    assert site.topographical_modifier.meaning == "right lower zone"
    (ratio,) = heart.get_measurements()
    assert (ratio.name.value, ratio.value, ratio.unit.value) == ("cardiothoracic-ratio", 0.5432, "{ratio}")
    assert b"chest-open" in data
    assert b"a" * 64 in data  # the digest of the weights
    assert b"b" * 64 in data  # and of the anatomy's


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (333, 257), (2021, 1777)])
def test_the_segmentation_read_back_holds_the_outlines_on_the_films_own_pixels(shape: tuple[int, int]) -> None:
    of = film()
    object.__setattr__(of, "pixels", np.zeros(shape, np.float32))
    made = report_film(record(of), assessment(estimate("effusion", 0.9), read=reading()), of, None)
    made_segmentation = make_segmentation(made, source_of(header(of)))
    assert made_segmentation is not None
    read = hd.seg.segread(pydicom.filebase.DicomBytesIO(to_bytes(made_segmentation)))
    assert (read.Rows, read.Columns, read.StudyInstanceUID) == (*shape, of.study_uid)
    pixels = read.get_pixels_by_source_instance([of.sop_uid])[0]
    labels = [read.get_segment_description(n).segment_label for n in read.segment_numbers]
    assert labels == ["Right lung", "Left lung", "Heart"]
    # By hand: the film is scaled by 32 / longest side and laid in the middle of the square of 32.
    rows, columns = shape
    scale = 32 / max(shape)
    height, width = round(rows * scale), round(columns * scale)
    for number, name in enumerate(("right_lung", "left_lung", "heart")):
        square = lungs()[name]
        for r, c in ((rows // 3, columns // 4), (rows // 2, columns // 2), (rows - 1, columns - 1), (2, 2)):
            row = int((r + 0.5) * height / rows) + (32 - height) // 2
            column = int((c + 0.5) * width / columns) + (32 - width) // 2
            assert bool(pixels[r, c, number]) is bool(square[row, column]), (name, r, c)


def test_the_same_report_gives_the_same_bytes_and_another_one_other_ids() -> None:
    source = source_of(header())
    first, second = make_structured_report(full(), source), make_structured_report(full(), source)
    assert to_bytes(first) == to_bytes(second)
    one, two = make_segmentation(full(), source), make_segmentation(full(), source)
    assert one is not None
    assert two is not None
    assert to_bytes(one) == to_bytes(two)
    other = make_structured_report(full(model="chest-open@2"), source)
    assert other.SOPInstanceUID != first.SOPInstanceUID


def test_a_film_without_outlines_gets_no_segmentation() -> None:
    made = report_film(record(NEW), assessment(estimate("effusion", 0.9)), NEW, None)
    assert make_segmentation(made, source_of(header())) is None


def test_beside_a_final_report_there_is_nothing_to_send() -> None:
    made = report_film(record(NEW), assessment(estimate("effusion", 0.9), read=reading()), NEW, None, (report(),))
    with pytest.raises(NotWritable, match="states nothing"):
        make_structured_report(made, source_of(header()))


def test_the_header_of_another_film_is_refused_and_nothing_of_it_is_said() -> None:
    with pytest.raises(NotWritable, match="another film") as refused:
        make_structured_report(full(), source_of(header(OLD)))
    assert NAME not in str(refused.value)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"00100010": "Doe"},
        {k: v for k, v in header().items() if k != "00080016"},
        header(**{"00280010": {"vr": "US", "Value": ["many"]}}),
    ],
)
def test_a_header_that_cannot_be_used_is_refused_in_plain_words(broken: dict[str, Any]) -> None:
    with pytest.raises(NotWritable, match="header"):
        source_of(broken)


@pytest.mark.parametrize(
    "name", ["hannover_derived/*_j2k_lossless.dcm", "hannover_derived/*_jpeg.dcm", "public_samples/RG*"]
)
def test_the_headers_of_real_films_give_objects_without_error(shared: Path, tmp_path: Path, name: str) -> None:
    for path in sorted((shared / "data/dicom").glob(name))[:2]:
        frame = read_dicom_file(path.read_bytes(), "ImagingStudy/study1")
        source = source_of(frame.metadata)
        # Only the outlines' size matters here: the objects hold no pixel of the film.
        of = Image(
            np.zeros((0, 0), np.float32), "PA", NOON, frame.sop_uid, frame.study_uid, Source("ImagingStudy/study1")
        )
        made = report_film(record(of), assessment(estimate("effusion", 0.9), read=reading()), of, None)
        segmentation = make_segmentation(made, source)
        assert segmentation is not None
        assert (segmentation.Rows, segmentation.Columns) == (source.Rows, source.Columns)
        assert faults(segmentation, tmp_path) == []
        assert faults(make_structured_report(made, source), tmp_path) == []
