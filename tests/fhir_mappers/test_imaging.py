"""One frame becomes a film in its true grey scale, or a Gap that says why not."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from films import EXPLICIT, STARTED, element, film, image, picture, refusal

from fhir_mappers.dicom import BadDicom, FileFrame, Header, read_dicom_file
from fhir_mappers.imaging import as_rendered, decode_film, window
from fhir_mappers.record import Gap, Image


def test_monochrome1_is_turned_so_that_bright_is_dense() -> None:
    pixels = np.array([[0, 255]], np.uint8)
    assert image(film(pixels, tags={"00280004": element("CS", "MONOCHROME1")})).pixels.tolist() == [[1.0, 0.0]]


def test_rescale_comes_before_the_window() -> None:
    # 100 * 2 - 50 = 150; a LINEAR_EXACT window of centre 150 shows its centre as one half.
    tags = {
        "00281053": element("DS", "2"),
        "00281052": element("DS", "-50"),
        "00281050": element("DS", 150, 900),
        "00281051": element("DS", 100, 900),
        "00281056": element("CS", "LINEAR_EXACT"),
    }
    assert image(film(np.array([[100]], np.uint8), tags=tags)).pixels[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("function", "centre", "width", "value", "grey"),
    [
        # PS3.3 C.11.2.1.2.1, the note's own example: c=2048, w=4096 is 0 at 0 and ymax at 4095.
        ("LINEAR", 2048, 4096, 0, 0.0),
        ("LINEAR", 2048, 4096, 4095, 1.0),
        ("LINEAR", 2048, 4096, 2047.5, 0.5),
        # ... c=0, w=100 is 0 at -50 and ymax at 49
        ("LINEAR", 0, 100, -50, 0.0),
        ("LINEAR", 0, 100, 49, 1.0),
        # ... c=0, w=1 becomes 0 for values below zero and ymax from zero on
        ("LINEAR", 0, 1, -1, 0.0),
        ("LINEAR", 0, 1, 0, 1.0),
        # C.11.2.1.3.2: LINEAR_EXACT reaches its ends at c -+ w/2
        ("LINEAR_EXACT", 0, 100, -50, 0.0),
        ("LINEAR_EXACT", 0, 100, 50, 1.0),
        # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w))
        ("SIGMOID", 100, 40, 100, 0.5),
        ("SIGMOID", 100, 40, 110, 1 / (1 + math.exp(-1))),
        ("SIGMOID", 0, 1, -65535, 0.0),
    ],
)
def test_windows_are_those_of_the_standard(
    function: str, centre: float, width: float, value: float, grey: float
) -> None:
    assert window(centre, width, function)(np.array([value], np.float64))[0] == pytest.approx(grey, abs=1e-9)


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 0.5), ("SIGMOID", 0), ("LINEAR_EXACT", -1), ("CUBIC", 10)])
def test_a_window_the_standard_forbids_is_malformed(function: str, width: float) -> None:
    tags = {"00281050": element("DS", 1), "00281051": element("DS", width), "00281056": element("CS", function)}
    assert refusal(film(picture(8), tags=tags)) == ("malformed", "film window")


def lut(first: int, *values: int, bits: int = 8, binary: bool = False) -> dict[str, Any]:
    import base64

    data = {"vr": "OW", "InlineBinary": base64.b64encode(np.array(values, "<u2").tobytes()).decode()}
    described = element("US", len(values), first, bits)
    return {"00283002": described, "00283006": data if binary else element("US", *values)}


@pytest.mark.parametrize("binary", [False, True])
def test_a_voi_lut_comes_before_a_window_and_holds_its_ends(binary: bool) -> None:
    tags = {
        "00283010": {"vr": "SQ", "Value": [lut(10, 0, 100, 255, binary=binary)]},
        "00281050": element("DS", 1),
        "00281051": element("DS", 1),
    }
    decoded = image(film(np.array([[9, 10, 11, 12, 200]], np.uint8), tags=tags))
    np.testing.assert_allclose(decoded.pixels, [[0, 0, 100 / 255, 1, 1]], atol=1e-6)


def test_a_voi_lut_that_is_bulk_data_elsewhere_leaves_the_window() -> None:
    far = {"00283002": element("US", 3, 0, 8), "00283006": {"vr": "OW", "BulkDataURI": "https://pacs.example/bulk"}}
    tags = {"00283010": {"vr": "SQ", "Value": [far]}, "00281050": element("DS", 128), "00281051": element("DS", 256)}
    assert image(film(np.array([[0, 255]], np.uint8), tags=tags)).pixels.tolist() == [[0.0, 1.0]]


def test_a_modality_lut_takes_the_place_of_rescale() -> None:
    tags = {"00283000": {"vr": "SQ", "Value": [lut(0, 1000, 2000, 4000, bits=16)]}, "00281053": element("DS", 7)}
    decoded = image(film(np.array([[0, 1, 2]], np.uint8), tags=tags))
    np.testing.assert_allclose(decoded.pixels, [[0, 1 / 3, 1]], atol=1e-6)


def test_padding_is_black_also_where_the_film_is_turned() -> None:
    tags = {"00280004": element("CS", "MONOCHROME1"), "00280120": element("US", 0), "00280121": element("US", 2)}
    assert image(film(np.array([[0, 1, 2, 255]], np.uint8), tags=tags)).pixels.tolist() == [[0, 0, 0, 0]]
    only = {"00280004": element("CS", "MONOCHROME1"), "00280120": element("US", 0)}
    assert image(film(np.array([[0, 255]], np.uint8), tags=only)).pixels[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({"00280030": element("DS", "0.2", "0.3")}, (0.2, 0.3)),
        ({"00181164": element("DS", 0.15, 0.15)}, (0.15, 0.15)),
        ({"00280030": element("DS", 0, 0), "00181164": element("DS", 0.15, 0.15)}, (0.15, 0.15)),
        ({"00280030": element("DS", "a", "b")}, None),
        ({}, None),
    ],
)
def test_spacing_is_the_pixels_else_the_detector_s_and_zero_is_none(tags: dict[str, Any], spacing: Any) -> None:
    assert image(film(picture(8), tags=tags)).spacing_mm == spacing


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"00185101": element("CS", "AP")}, "AP"),
        ({"00185101": element("CS", "LL")}, "LATERAL"),
        ({"00185101": element("CS")}, "unknown"),
        (
            {"00185101": element("CS"), "00540220": {"vr": "SQ", "Value": [{"00080100": element("SH", "272479007")}]}},
            "PA",
        ),
    ],
)
def test_the_view_is_the_header_s(tags: dict[str, Any], view: str) -> None:
    assert image(film(picture(8), tags=tags)).view == view


def test_the_acquisition_time_is_used_only_with_its_offset_from_utc() -> None:
    local = {"00080022": element("DA", "20260309"), "00080032": element("TM", "235900.5")}
    assert image(film(picture(8), tags=local)).at == STARTED
    known = image(film(picture(8), tags=local | {"00080201": element("SH", "-0400")}))
    assert known.at == datetime(2026, 3, 10, 3, 59, tzinfo=UTC)
    assert Header({"0008002A": element("DT", "202603092359+0100")}).time() == datetime(2026, 3, 9, 22, 59, tzinfo=UTC)
    assert refusal_without_time() == "no-time"


def refusal_without_time() -> str:
    decoded = decode_film(film(picture(8)), None)
    assert isinstance(decoded, Gap)
    return decoded.code


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"00080060": element("CS", "CT")}, ("unsupported-image", "film modality")),
        ({"00080016": element("UI", "1.2.840.10008.5.1.4.1.1.2")}, ("unsupported-image", "film class")),
        ({"00180015": element("CS", "HAND")}, ("unsupported-image", "film body part")),
        ({"00102201": element("LO", "Canis lupus familiaris")}, ("unsupported-image", "film species")),
        ({"00280008": element("IS", "2")}, ("unsupported-image", "film frames")),
        ({"00280002": element("US", 3)}, ("unsupported-image", "film colour")),
        ({"00280004": element("CS", "PALETTE COLOR")}, ("unsupported-image", "film colour")),
        ({"00280100": element("US", 32)}, ("unsupported-image", "film depth")),
        ({"00280101": element("US", 9)}, ("unsupported-image", "film depth")),
        ({"00280102": element("US", 6)}, ("unsupported-image", "film depth")),
        ({"00280010": element("US", 0)}, ("not-an-image", "film")),
        ({"00280010": element("US")}, ("not-an-image", "film")),
        ({"00280010": element("US", 9000), "00280011": element("US", 9000)}, ("unsupported-image", "film size")),
        ({"00280010": element("US", 38)}, ("malformed", "film pixels")),
        ({"00281053": element("DS", 0)}, ("malformed", "film rescale")),
        ({"0020000D": element("UI", "9.9")}, ("wrong-image", "film")),
        ({"00080018": element("UI", "9.9")}, ("wrong-image", "film")),
    ],
)
def test_what_is_no_grey_chest_film_is_refused_by_name(tags: dict[str, Any], expected: tuple[str, str]) -> None:
    assert refusal(film(picture(8), tags=tags)) == expected


def test_a_transfer_syntax_we_do_not_read_is_refused() -> None:
    assert refusal(film(picture(8), b"", "1.2.840.10008.1.2.4.102")) == ("unsupported-image", "film transfer syntax")


def test_a_film_of_another_patient_id_is_refused_and_without_one_to_compare_it_is_not() -> None:
    named = film(picture(8), tags={"00100020": element("LO", "MRN2")})
    assert refusal(named, patient_ids={"MRN1", "p1"}) == ("other-patient", "film")
    assert isinstance(decode_film(named, STARTED, {"MRN2"}), Image)
    assert isinstance(decode_film(named, STARTED), Image)
    assert isinstance(decode_film(film(picture(8)), STARTED, {"MRN1"}), Image)


@pytest.mark.parametrize(
    "metadata", [{}, {"00280010": "x"}, {"00280010": {"vr": "US", "Value": [{}]}}, {"00280010": None}]
)
def test_a_header_of_any_shape_is_answered_with_a_gap(metadata: dict[str, Any]) -> None:
    base = film(picture(8))
    merged = metadata if not metadata else {**base.metadata, **metadata}
    frame = FileFrame("1.2.3", "1.2.3.1", "1.2.3.1.1", merged, base.frame, EXPLICIT, "ImagingStudy/s1")
    assert refusal(frame)[0] in ("not-an-image", "unsupported-image")


def test_of_the_public_files_the_chest_is_read_and_limb_animal_and_angiogram_are_refused(shared: Path) -> None:
    folder = shared / "data" / "dicom" / "public_samples"
    outcome = {p.name: decode_film(read_dicom_file(p.read_bytes()), STARTED) for p in sorted(folder.glob("*.dcm"))}
    assert {n: g.subject for n, g in outcome.items() if isinstance(g, Gap)} == {
        "RG3_J2KI.dcm": "film body part",
        "dx_image.dcm": "film species",
        "jpeg_baseline_8bit.dcm": "film modality",
    }
    chest = outcome["RG1_J2KI.dcm"]
    assert isinstance(chest, Image)
    assert (chest.pixels.shape, chest.view) == ((1955, 1841), "PA")
    assert chest.spacing_mm is None  # the file says 0.000 by 0.000
    assert chest.at == datetime(1995, 9, 26, 16, 51, tzinfo=UTC)  # 12:51 at -04:00
    # Bright is dense: the shoulders and abdomen at the edges of a MONOCHROME1 film, not its lungs.
    height, width = chest.pixels.shape
    lung = chest.pixels[height // 3 : height // 2, width // 4 : width // 3].mean()
    assert chest.pixels[-height // 8 :, width // 3 : -width // 3].mean() > lung


def test_a_rendered_film_is_grey_as_displayed_without_spacing_and_says_that_it_is_rendered() -> None:
    grey = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[None], 24, axis=0)
    jpeg = bytes(imagecodecs.jpeg8_encode(grey, level=100))
    tags = {
        "00280004": element("CS", "MONOCHROME1"),  # a display has turned it already
        "00281050": element("DS", 10), "00281051": element("DS", 2),
        "00281052": element("DS", -5), "00281053": element("DS", 3),
        "00280030": element("DS", 0.14, 0.14),
        "00280120": element("US", 255),
    }  # fmt: skip
    stored = film(np.zeros((300, 400), np.uint16), jpeg, "1.2.840.10008.1.2.4.50", stored=12, tags=tags)
    metadata = as_rendered(stored.metadata, jpeg)
    shown = decode_film(replace(stored, metadata=metadata, rendered=True), STARTED)
    assert isinstance(shown, Image)
    assert shown.rendered
    assert shown.spacing_mm is None
    # With neither window nor rescale the whole range of values spans 0 to 1; JPEG at its best is off by a level or two.
    assert np.abs(shown.pixels - grey / 255).max() <= 3 / 255
    assert not image(film(np.zeros((4, 4), np.uint8))).rendered


@pytest.mark.parametrize("frame", [b"", b"<html>", b"\xff\xd8\xff\xd9"])
def test_a_rendered_frame_that_is_no_jpeg_has_no_header(frame: bytes) -> None:
    with pytest.raises(BadDicom, match="no JPEG"):
        as_rendered({}, frame)
