"""What radiology knows of a patient: what an order asks for, studies, films, reports, nodules, implants."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from models.contract import EncodedFilm

if TYPE_CHECKING:
    from fhir_mappers.record import Source


@dataclass(frozen=True, slots=True)
class ImagingOrder:
    """One row of tables/imaging_orders.csv.

    contrast  none, iodinated_iv, gadolinium_iv, none_or_unknown, radionuclide
    window_*  how long another study of the same duplicate group counts as the same, in hospital and outside
    """

    loinc: str
    modality: str
    region: str
    contrast: str
    ionising: bool
    duplicate_group: str
    window_acute: timedelta = timedelta(0)
    window_outpatient: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Instance:
    """One image of a study that DICOMweb can be asked for; `lateral` where its labels say so."""

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    modality: str
    number: int = 0
    lateral: bool = False


@dataclass(frozen=True, slots=True)
class Study:
    """An ImagingStudy: what was taken and when; `endpoints` are DICOMweb addresses it names, not yet trusted.

    codes     of the procedure performed
    sides     left, right; both for a study of both sides; empty where none is said
    complete  its images are available; False for one only registered
    """

    uid: str
    started: datetime | None
    modalities: frozenset[str]
    description: str
    body_sites: tuple[str, ...]
    instances: tuple[Instance, ...]
    endpoints: tuple[str, ...]
    source: Source
    codes: tuple[tuple[str, str], ...] = ()
    sides: frozenset[str] = frozenset()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Image:
    """One film in its true grey scale.

    pixels      (H, W) float32; bright is dense (MONOCHROME1 inverted), after rescale and VOI LUT, in [0, 1]
    view        PA | AP | LATERAL | unknown
    spacing_mm  row and column spacing where the header gives one, else None
    at          when it was acquired (study start where the header has no acquisition time)
    shape       rows and columns of the film, also where its pixels are not at hand
    encoded     what was made of the film when it arrived; `pixels` is then empty, (0, 0)
    burned_in   the header says that writing is part of the pixels (0028,0301)
    rendered    8 bits as the archive displays the film, not as it was taken: nothing is measured on it
    laterals    how many views from the side its study has, which are not read
    picture     what may be shown of a film whose pixels are not at hand: a JPEG; empty where there is none
    """

    pixels: NDArray[np.float32] = field(repr=False)
    view: str
    at: datetime
    sop_uid: str
    study_uid: str
    source: Source
    modality: str = "DX"
    spacing_mm: tuple[float, float] | None = None
    shape: tuple[int, int] = (0, 0)
    encoded: EncodedFilm | None = field(default=None, repr=False)
    burned_in: bool = False
    rendered: bool = False
    laterals: int = 0
    picture: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if self.shape == (0, 0):
            object.__setattr__(self, "shape", self.pixels.shape)


@dataclass(frozen=True, slots=True)
class Report:
    """A DiagnosticReport of radiology; `conclusion` is the record's own text, to be escaped where shown."""

    codes: tuple[tuple[str, str], ...]
    status: str
    at: datetime | None
    conclusion: str
    study_refs: tuple[str, ...]
    source: Source
    findings: tuple[tuple[str, str], ...] = ()

    @property
    def final(self) -> bool:
        return self.status in ("final", "amended", "corrected", "appended")


@dataclass(frozen=True, slots=True)
class Nodule:
    """A lung nodule a radiologist has measured, from a structured report.

    size_mm     mean of the long and short axis where both are given, else the diameter given
    count       single | multiple | unknown, as the report codes it
    study_refs  the ImagingStudy it was seen in, where the report names one
    """

    size_mm: float
    attenuation: Literal["solid", "part_solid", "ground_glass", "unknown"]
    count: Literal["single", "multiple", "unknown"]
    upper_lobe: bool
    spiculated: bool
    at: datetime
    study_refs: tuple[str, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Implant:
    """A device in the patient, as a Device resource has it.

    kinds       as condition_groups.csv calls implants: pacemaker, icd_device, cochlear, neurostimulator; may be empty
    mr          what the label says about magnetic resonance (ASTM F2503)
    conditions  the record's own note, which is where the conditions of an MR conditional device stand
    """

    kinds: frozenset[str]
    codes: tuple[tuple[str, str], ...]
    text: str
    mr: Literal["unsafe", "conditional", "safe", "not-documented"]
    conditions: str
    source: Source
