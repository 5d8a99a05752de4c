"""What a service needs to know: `plan_evidence` decides, `gather` carries it out under one deadline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cds_service.deadline import Deadline
from cds_service.hooks import HookRequest
from cds_service.manifest import Service

Reason = Literal[
    "timeout",  # it did not come in the time there was
    "unreachable",  # connection refused, reset, TLS, DNS
    "refused",  # 401 or 403 from the server
    "error",  # any other status, or the client's own OperationOutcome in prefetch
    "bad-answer",  # not JSON, not FHIR, not DICOM, wrong type, too large
    "no-access",  # not sent, and the request gives no fhirServer we may read
    "not-allowed",  # a server that is not registered for this client
    "truncated",  # more pages than we read
    "busy",  # our own model had no room
]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Evidence we asked for and could not get. `key` is the prefetch key, `films` for pixels, `model` for the model."""

    key: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class DicomFile:
    """What DICOMweb gave for one instance: the frame's bytes as stored, and what is needed to decode them.

    metadata         the instance's DICOM JSON (PS3.18 F), without bulk data
    frame            the bytes of frame 1
    transfer_syntax  UID they are in
    reference        `ImagingStudy/id` the instance was named by
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    metadata: Mapping[str, Any]
    frame: bytes
    transfer_syntax: str
    reference: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Raw JSON resources, DICOM frames, and what is missing."""

    resources: tuple[Mapping[str, Any], ...]
    dicom: tuple[DicomFile, ...] = ()
    shortfalls: tuple[Shortfall, ...] = ()
