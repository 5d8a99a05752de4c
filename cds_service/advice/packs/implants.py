"""What a patient brings into a magnet: implants on the device list and on the problem list (IS-08)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fhir_mappers.record import PatientRecord

NAMES = {
    "pacemaker": "pacemaker",
    "icd_device": "implanted cardiac device",
    "neurostimulator": "neurostimulator",
    "cochlear": "cochlear or ear implant",
    "csf_shunt": "shunt with a valve",
    "metal_fragment": "retained metal",
}
"""Kinds that need review before magnetic resonance: HRS 2017 statement; ACR Manual on MR Safety."""


@dataclass(frozen=True, slots=True)
class Implant:
    """One implant that matters in a magnet.

    mr          as the label says; `not-documented` for one only on the problem list
    reference   the resource it stands in; `source` in words
    """

    name: str
    mr: Literal["unsafe", "conditional", "not-documented"]
    conditions: str
    reference: str
    source: str
    at: datetime | None = None


def in_the_magnet(record: PatientRecord, reviewed: Iterable[str] = ()) -> tuple[Implant, ...]:
    """Every implant that is not known to be MR safe, the most dangerous first.

    A device on the list speaks for the same kind on the problem list. `reviewed` are `system|code` of further device
    types a site wants reviewed.
    """
    mapped = frozenset(reviewed)
    found: list[Implant] = []
    known: set[str] = set()
    for device in record.implants:
        known |= device.kinds
        ours = device.kinds or any(f"{system}|{code}" in mapped for system, code in device.codes)
        if device.mr == "safe" or (device.mr == "not-documented" and not ours):
            continue
        name = device.text or next((NAMES.get(k, k) for k in sorted(device.kinds)), "implanted device")
        found.append(Implant(name, device.mr, device.conditions, device.source.reference, "Device list"))
    for kind, name in NAMES.items():
        if kind not in known:
            found += [
                Implant(e.text or name, "not-documented", "", e.source.reference, "Problem list", e.start)
                for e in record.active(kind)[:1]
            ]
    rank = ("unsafe", "not-documented", "conditional")
    return tuple(sorted(found, key=lambda i: (rank.index(i.mr), i.reference)))
