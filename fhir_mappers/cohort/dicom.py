"""A generated film as a DICOM file: Digital X-Ray for presentation, 12 bits stored in 16, MONOCHROME2."""

from __future__ import annotations

import io

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from fhir_mappers.cohort.anatomy import DETECTOR_MM
from fhir_mappers.cohort.exposure import GREY_LEVELS
from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.resources import DX_FOR_PRESENTATION

IMPLEMENTATION_UID = "2.25.310236742219305571866903124763106894311"


def write_dicom(patient: GeneratedPatient, index: int, *, pixels: bool = True) -> FileDataset:
    """The film `patient.films[index]` with the attributes PS3.3 A.26 asks of a DX image.

    pixels  False leaves PixelData out, and the film undrawn: the header alone

    Its window spans all 12 bits, so that applying it gives exactly the drawn pixels.
    """
    fact = patient.films[index]
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = DX_FOR_PRESENTATION
    meta.MediaStorageSOPInstanceUID = patient.uid("instance", index)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\x00" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = DX_FOR_PRESENTATION
    ds.SOPInstanceUID = patient.uid("instance", index)
    ds.StudyInstanceUID = patient.uid("study", index)
    ds.SeriesInstanceUID = patient.uid("series", index)
    ds.PatientName = f"{patient.family}^{patient.given}"
    ds.PatientID = patient.id
    ds.PatientBirthDate = patient.born.strftime("%Y%m%d")
    ds.PatientSex = "F" if patient.female else "M"
    day, time = fact.at.strftime("%Y%m%d"), fact.at.strftime("%H%M%S")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.TimezoneOffsetFromUTC = fact.at.strftime("%z") or "+0000"
    ds.StudyID = str(index + 1)
    ds.AccessionNumber = patient.resource_id("accession", index)[-12:]
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = f"XR Chest {fact.pose.view}"
    ds.Modality = "DX"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.Manufacturer = "Generated film"
    ds.ImageType = ["DERIVED", "PRIMARY", ""]
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = fact.pose.view
    ds.ImageLaterality = "U"
    ds.PatientOrientation = ["L", "F"]
    ds.KVP = 120 if fact.pose.view == "PA" else 90
    ds.DetectorType = "SCINTILLATOR"
    ds.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    ds.BurnedInAnnotation = "YES" if fact.exposure.marker else "NO"
    ds.LossyImageCompression = "00"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1
    _describe_pixels(ds, fact.size)
    if pixels:
        ds.PixelData = np.rint(fact.film.pixels * GREY_LEVELS).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
    return ds


def _describe_pixels(ds: Dataset, size: int) -> None:
    ds.Rows = ds.Columns = size
    spacing = f"{DETECTOR_MM / size:.6f}"
    ds.ImagerPixelSpacing = ds.PixelSpacing = [spacing, spacing]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    ds.PresentationLUTShape = "IDENTITY"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def dicom_bytes(patient: GeneratedPatient, index: int) -> bytes:
    """The file as stored: 128 bytes of preamble, file meta, dataset."""
    buffer = io.BytesIO()
    write_dicom(patient, index).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
