"""Device -> Implant: what is in the patient, and what its label says about magnetic resonance."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import resources
from typing import Literal

from fhir_mappers import fhir, r4
from fhir_mappers.record import Gap, Implant

MrLabel = Literal["unsafe", "conditional", "safe", "not-documented"]
_LABELS: tuple[tuple[str, MrLabel], ...] = (
    ("C106047", "unsafe"),
    ("C106046", "conditional"),
    ("C106045", "safe"),
)
"""FHIR R4 value set device-safety (NCI Thesaurus, ASTM F2503), the worst first. C113844: the label does not say."""


class Name(r4.Part, frozen=True):
    name: str | None = None


class Device(r4.Part, frozen=True):
    status: str | None = None
    type: r4.Concept | None = None
    device_name: list[Name] = []
    safety: list[r4.Concept] = []
    note: list[r4.Annotation] = []


@functools.cache
def implant_kinds() -> Mapping[tuple[str, str], str]:
    """(system, code) of a device type -> its kind, as condition_groups.csv calls the same implant."""
    text = resources.files("fhir_mappers").joinpath("tables", "implants.csv").read_text(encoding="utf-8")
    return {(row["system"], row["code"]): row["kind"] for row in csv.DictReader(io.StringIO(text, newline=""))}


def read_device(resource: fhir.Resource, as_of: datetime) -> Iterator[Implant | Gap]:
    """Read a Device that is in use. Raises fhir.Malformed.

    A missing status counts as in use: of the two errors, forgetting an implant is the worse. What is neither of a
    known kind nor labelled (a wheelchair, a pump at the bedside) leaves a Gap too: only a site's own list knows it.
    """
    reference = fhir.reference_of(resource)
    device = fhir.read(resource, Device)
    if device.status not in (None, "active", "unknown"):
        yield Gap("bad-status", "Device", reference)
        return
    codes = device.type.codes if device.type is not None else ()
    kinds = frozenset(implant_kinds()[code] for code in codes if code in implant_kinds())
    label: MrLabel = next(
        (said for code, said in _LABELS if any(s.says(code) for s in device.safety)), "not-documented"
    )
    if not kinds and label == "not-documented":
        yield Gap("unknown-code", "Device", reference)
    named = next((n.name for n in device.device_name if n.name), "")
    yield Implant(
        kinds=kinds,
        codes=codes,
        text=named or (device.type.words if device.type is not None else ""),
        mr=label,
        conditions=next((n.text for n in device.note if n.text), ""),
        source=fhir.source_of(resource),
    )
