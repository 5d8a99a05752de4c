"""What a film's header adds to its pixels, windows against pydicom's: overlays, writing in the pixels, frames."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from films import element, film, image, picture, refusal
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from fhir_mappers.dicom import BadDicom, read_dicom_file


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (2.0, -1024.0)])
def test_a_window_gives_the_grey_levels_pydicom_gives(function: str, slope: float, intercept: float) -> None:
    pixels = picture(12)
    header = Dataset()
    header.RescaleSlope, header.RescaleIntercept = slope, intercept
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = 1500, 1100, function
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 12, 0
    scaled = apply_modality_lut(pixels, header)
    windowed = apply_windowing(scaled, header)
    # pydicom spreads a window over the range the rescaled values may have
    low, high = intercept, 4095 * slope + intercept
    tags = {
        "00281053": element("DS", slope),
        "00281052": element("DS", intercept),
        "00281050": element("DS", 1500),
        "00281051": element("DS", 1100),
        "00281056": element("CS", function),
    }
    decoded = image(film(pixels, stored=12, tags=tags)).pixels
    np.testing.assert_allclose(decoded, (windowed - low) / (high - low), atol=2e-6)


def test_an_overlay_plane_is_never_drawn_into_the_pixels() -> None:
    pixels = picture(12)
    overlay = {
        "60000010": element("US", pixels.shape[0]),
        "60000011": element("US", pixels.shape[1]),
        "60000040": element("CS", "G"),
        "60000050": element("SS", 1, 1),
        "60000100": element("US", 1),
        "60000102": element("US", 0),
        "60003000": {"vr": "OW", "InlineBinary": "/////w=="},
    }
    with_overlay = image(film(pixels, stored=12, tags=overlay))
    np.testing.assert_array_equal(with_overlay.pixels, image(film(pixels, stored=12)).pixels)


@pytest.mark.parametrize(("value", "said"), [("YES", True), ("NO", False), (None, False)])
def test_a_film_tells_whether_writing_is_part_of_its_pixels(value: str | None, said: bool) -> None:
    tags = {} if value is None else {"00280301": element("CS", value)}
    assert image(film(picture(8), tags=tags)).burned_in is said


def several(syntax: Any, representative: int | None) -> tuple[bytes, list[np.ndarray[Any, Any]]]:
    """A file of three frames."""
    frames = [picture(8, (20, 30)) for _ in range(3)]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.1.1"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", "1.2.3.1", "CR"
    data.BodyPartExamined, data.ViewPosition = "CHEST", "PA"
    data.Rows, data.Columns, data.NumberOfFrames = 20, 30, 3
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    if representative is not None:
        data.RepresentativeFrameNumber = representative
    if syntax == RLELossless:
        from films import rle

        data.PixelData = encapsulate([rle(f) for f in frames])
    else:
        data.PixelData = b"".join(f.tobytes() for f in frames)
    out = BytesIO()
    dcmwrite(out, data, enforce_file_format=True)
    return out.getvalue(), frames


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_of_several_frames_the_representative_one_is_read(syntax: Any) -> None:
    file, frames = several(syntax, 2)
    read = read_dicom_file(file)
    assert read.number == 2
    np.testing.assert_array_equal(image(read).pixels, (frames[1] / 255).astype(np.float32))


def test_where_no_frame_stands_for_the_others_none_is_read() -> None:
    file, _ = several(ExplicitVRLittleEndian, None)
    assert refusal(read_dicom_file(file, "ImagingStudy/s1")) == ("unsupported-image", "film frames")


def test_a_representative_frame_that_is_none_of_the_frames_is_refused() -> None:
    file, _ = several(ExplicitVRLittleEndian, 7)
    with pytest.raises(BadDicom):
        read_dicom_file(file)


def test_a_frame_other_than_the_representative_one_does_not_stand_for_the_film() -> None:
    pixels = picture(8)
    tags = {"00280008": element("IS", 3), "00286010": element("US", 2)}
    first = film(pixels, tags=tags)
    assert refusal(first) == ("unsupported-image", "film frames")
