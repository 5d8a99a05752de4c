"""What oncology records of a tumour: stage group, histology, trend and measured size (HL7 mCODE, plain FHIR R4).

Stage and histology are read from Condition (stage.summary, the mCODE histology extension, the code itself), the
stage group also from its own Observation. A stage group is its own code: `IVA` is matched whole, never within words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from fhir_mappers import fhir, r4
from fhir_mappers.codes import LOINC_SYSTEMS, histology_of
from fhir_mappers.record import Coded, Gap, Lesion

HISTOLOGY_EXTENSION = "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-histology-morphology-behavior"
EVIDENCE_EXTENSIONS = frozenset(
    "http://hl7.org/fhir/us/mcode/StructureDefinition/" + name
    for name in ("mcode-evidence-type", "mcode-cancer-disease-status-evidence-type")
)
DISEASE_STATUS, TUMOUR_SIZE, LONGEST = "97509-4", "21889-1", "33728-7"
STAGE_GROUPS = frozenset({"21908-9", "21902-2", "21914-7"})
"""LOINC: stage group clinical, pathological, other."""
TRENDS = {
    # SNOMED CT, the mCODE value set of condition trends.
    "271299001": "worse",
    "268910001": "better",
    "359746009": "stable",
    "709137006": "undetermined",
    "260415000": "not detected",
}
IMAGING_EVIDENCE = "363679005"
"""SNOMED CT imaging procedure: the trend was judged on images."""
MILLIMETRES = {"mm": 1.0, "cm": 10.0}
LARGEST_MM = 500.0

_STAGE = re.compile(r"(?:c|p|yp|yc)?(?:stage )?(0|IV|III|II|I|[1-4])([ABC]?)([1-3]?)", re.IGNORECASE)
_ROMAN = {"1": "I", "2": "II", "3": "III", "4": "IV"}
_SNOMED_STAGES = {"1222806003": "IIIC", "1222837003": "IV"}
"""American Joint Committee on Cancer stages as SNOMED CT qualifiers; a site's others arrive with text."""


def stage_in(code: str) -> str:
    """`IVA` for `IVA`, `4A`, `Stage IVA`, `IVA1`; empty for what is no stage group."""
    if code in _SNOMED_STAGES:
        return _SNOMED_STAGES[code]
    match = _STAGE.fullmatch(code.strip())
    if match is None:
        return ""
    number = match[1].upper()
    return _ROMAN.get(number, number) + match[2].upper()


def stage_of(condition: fhir.Resource) -> str:
    """The stage group of a Condition: the most advanced of those recorded, empty where none is."""
    found: set[str] = set()
    for stage in fhir.each(condition.get("stage")):
        if isinstance(stage, Mapping):
            found.update(_stages(stage.get("summary")))
    return max(found, key=rank, default="")


def rank(stage: str) -> tuple[int, str]:
    """Orders stage groups: IIIB before IVA."""
    roman = stage.rstrip("ABC")
    return (("", "0", "I", "II", "III", "IV").index(roman), stage[len(roman) :])


def _stages(summary: Any) -> Iterator[str]:
    text = summary.get("text") if isinstance(summary, Mapping) else None
    for name in (*(code for _, code in fhir.codes_of(summary)), *_displays(summary), text):
        if isinstance(name, str) and (stage := stage_in(name)):
            yield stage


def _displays(concept: Any) -> Iterator[str]:
    for coding in fhir.each(concept.get("coding")) if isinstance(concept, Mapping) else ():
        if isinstance(coding, Mapping) and isinstance(coding.get("display"), str):
            yield coding["display"]


def histology(condition: fhir.Resource) -> str:
    """What tables/histology.csv calls the tumour's histology, from the mCODE extension or the code of the Condition.

    Two codes that disagree say nothing; `non-small-cell` beside one of its kinds is that kind.
    """
    codes = list(fhir.codes_of(condition.get("code")))
    for extension in fhir.each(condition.get("extension")):
        if isinstance(extension, Mapping) and extension.get("url") == HISTOLOGY_EXTENSION:
            codes += fhir.codes_of(extension.get("valueCodeableConcept"))
    found = histology_of(codes)
    if len(found) > 1:
        found -= {"non-small-cell"}
    return next(iter(found)) if len(found) == 1 else ""


def is_tumour(codes: fhir.Codes) -> bool:
    """Whether an Observation with this code is one of those read here."""
    known = STAGE_GROUPS | {DISEASE_STATUS, TUMOUR_SIZE, LONGEST}
    return any(s in LOINC_SYSTEMS and c in known for s, c in codes)


def read_tumour(resource: fhir.Resource, as_of: datetime) -> Iterator[Coded | Lesion | Gap]:
    """Read one such Observation, final ones only. Raises fhir.Malformed."""
    reference = fhir.reference_of(resource)
    observation = fhir.read(resource, r4.Observation)
    codes = {c for s, c in fhir.codes_of(resource.get("code")) if s in LOINC_SYSTEMS}
    period = observation.effective_period or r4.Period()
    at = fhir.read_start(observation.effective_date_time or period.end or observation.issued, as_of)
    if observation.status not in ("final", "amended", "corrected"):
        yield Gap("bad-status", "tumour", reference)
    elif at is None:
        yield Gap("no-time", "tumour", reference)
    elif fhir.in_future(at, as_of):
        yield Gap("future", "tumour", reference)
    elif codes & STAGE_GROUPS:
        yield _stage_group(resource, observation, at)
    elif DISEASE_STATUS in codes:
        yield _disease_status(resource, observation, at)
    else:
        yield _lesion(resource, observation, at)


def _stage_group(resource: fhir.Resource, observation: r4.Observation, at: datetime) -> Coded | Gap:
    value = resource.get("valueCodeableConcept")
    stage = max(_stages(value), key=rank, default="")
    if not stage:
        return Gap("no-value", "tumour", fhir.reference_of(resource))
    answer = next(iter(fhir.codes_of(value)), ("", ""))
    loinc = next(c for _, c in observation.code.codes if c in STAGE_GROUPS)
    return Coded("stage_group", loinc, answer, stage, at, fhir.source_of(resource), stage)


def _disease_status(resource: fhir.Resource, observation: r4.Observation, at: datetime) -> Coded | Gap:
    """The trend; its meaning ends in `, imaging` where the record says it was judged on images."""
    value = observation.value_codeable_concept or r4.Concept()
    found = {TRENDS[code] for _, code in value.codes if code in TRENDS}
    if len(found) != 1:
        return Gap("no-value", "tumour", fhir.reference_of(resource))
    seen = any(
        isinstance(e, Mapping)
        and e.get("url") in EVIDENCE_EXTENSIONS
        and any(code == IMAGING_EVIDENCE for _, code in fhir.codes_of(e.get("valueCodeableConcept")))
        for e in fhir.each(resource.get("extension"))
    )
    meaning = found.pop() + (", imaging" if seen else "")
    answer = next(code for code in value.codes if code[1] in TRENDS)
    return Coded("disease_status", DISEASE_STATUS, answer, value.words, at, fhir.source_of(resource), meaning)


def _lesion(resource: fhir.Resource, observation: r4.Observation, at: datetime) -> Lesion | Gap:
    """The longest diameter of one tumour. Which one is said by `focus`, else by `bodySite`; unnamed ones are left."""
    reference = fhir.reference_of(resource)
    parts: Iterable[r4.Value] = (observation, *observation.component)
    quantity = next(
        (p.value_quantity for p in parts if any(c == LONGEST for _, c in p.code.codes) and p.value_quantity), None
    )
    name = _which(resource)
    if quantity is None or quantity.value is None or quantity.comparator or not name:
        return Gap("no-value", "tumour", reference)
    factor = MILLIMETRES.get(quantity.code or quantity.unit or "")
    if factor is None:
        return Gap("unknown-unit", "tumour", reference)
    diameter = float(quantity.value) * factor
    if not 0 <= diameter <= LARGEST_MM:
        return Gap("out-of-limits", "tumour", reference)
    return Lesion(name, diameter, at, fhir.source_of(resource))


def _which(resource: fhir.Resource) -> str:
    focus = next(fhir.each(resource.get("focus")), None)
    reference = focus.get("reference") if isinstance(focus, Mapping) else None
    if isinstance(reference, str) and reference:
        return fhir.last_segment(reference)
    return next((code for _, code in fhir.codes_of(resource.get("bodySite"))), "")


Specimen = Literal["tissue", "plasma", ""]
_SPECIMENS: dict[str, Specimen] = {
    # SNOMED CT specimens and HL7 v2-0487.
    **dict.fromkeys(("119376003", "258415003", "441652008", "16214131000119104", "TISS", "TUMOR", "BX"), "tissue"),
    **dict.fromkeys(("119361006", "119297000", "122555007", "PLAS", "BLD", "BLDV", "WB"), "plasma"),
}


def specimen_of(resource: fhir.Resource, supporting: Mapping[str, fhir.Resource]) -> Specimen:
    """Whether a result was made from tissue or from blood; empty where the record does not say."""
    link = next(fhir.each(resource.get("specimen")), None)
    reference = link.get("reference") if isinstance(link, Mapping) else None
    specimen = fhir.referred(resource, reference if isinstance(reference, str) else None, "Specimen", supporting)
    codes = fhir.codes_of(specimen.get("type")) if specimen is not None else ()
    found = {_SPECIMENS[code] for _, code in codes if code in _SPECIMENS}
    return found.pop() if len(found) == 1 else ""


GENETIC_REPORTS = frozenset({"51969-4", "81247-9"})
"""LOINC: genetic analysis report; master HL7 genetic variant reporting panel."""


def read_genetic_report(resource: fhir.Resource, as_of: datetime) -> Coded | Gap | None:
    """A DiagnosticReport of genetics as a Coded `genetic_report`, meaning `final` or `pending`; None for any other.

    What was found stands in Observations. The report itself says that there is, or will be, something to read.
    """
    codes = fhir.codes_of(resource.get("code"))
    loinc = next((c for s, c in codes if s in LOINC_SYSTEMS and c in GENETIC_REPORTS), None)
    if loinc is None:
        return None
    reference, status = fhir.reference_of(resource), fhir.status_of(resource)
    report = fhir.read(resource, r4.DiagnosticReport)
    period = report.effective_period or r4.Period()
    at = fhir.read_start(report.effective_date_time or period.end or report.issued or period.start, as_of)
    if fhir.in_future(at, as_of):
        return Gap("future", "DiagnosticReport", reference)
    if status in ("final", "amended", "corrected", "appended"):
        meaning = "final"
    elif status in ("registered", "partial", "preliminary"):
        meaning = "pending"
    else:
        return Gap("bad-status", "DiagnosticReport", reference)
    return Coded("genetic_report", loinc, ("", ""), report.code.words, at, fhir.source_of(resource), meaning)
