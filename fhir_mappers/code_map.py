"""`CodeMap`: a site's own codes and units in terms of the tables, put beside them before anything is read.

A map adds codings and units and takes none away: what the EHR wrote is still there, and what the map added never
goes back to it (`as_sent`). A code is mapped by a row or stays unknown; display text is never matched (DQ-7).
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fhir_mappers import codes, fhir
from fhir_mappers.answers import is_answer
from fhir_mappers.codes import LOINC_SYSTEMS, UCUM, LabCode
from fhir_mappers.devices import implant_kinds
from fhir_mappers.genomics import METABOLIZERS, is_genomic
from fhir_mappers.units import UnknownUnit

COLUMNS = ("system", "code", "target", "unit", "written")
_CONCEPTS = (
    "code",
    "medicationCodeableConcept",
    "valueCodeableConcept",
    "itemCodeableConcept",
    "substance",
    "type",
    "reasonCode",
    "orderDetail",
)
_PARTS = ("component", "contained", "ingredient", "reaction")
Code = tuple[str, str]


class CodeMapError(ValueError):
    """A row of a map cannot be used: which line, what would be right."""


class Added(dict[str, Any]):
    """A coding that a map added."""


@dataclass(frozen=True, slots=True)
class CodeMap:
    """One site's table.

    targets  local (system, code) -> the tables' codes for it; "" is the system of a code without one
    units    local (system, code) -> unit as the laboratory writes it, or "" for none -> the UCUM unit meant
    """

    targets: Mapping[Code, tuple[Code, ...]] = field(default_factory=dict)
    units: Mapping[Code, Mapping[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.targets or self.units)

    def read(self, resource: fhir.Resource) -> fhir.Resource:
        """The resource with what the map knows of its codes and units; the same object where that is nothing."""
        changed: dict[str, Any] = {}
        for name in _CONCEPTS:
            if (value := resource.get(name)) is not None and (new := self._concepts(value)) is not value:
                changed[name] = new
        for name in _PARTS:
            parts = resource.get(name)
            if isinstance(parts, list):
                read = [self.read(part) if isinstance(part, fhir.Object) else part for part in parts]
                if any(new is not old for new, old in zip(read, parts, strict=True)):
                    changed[name] = read
        if self.units and "valueQuantity" in resource:
            changed |= self._measured(resource)
        return {**resource, **changed} if changed else resource

    def local(self, target: Code) -> tuple[Code, ...]:
        """The site's own codes for one of the tables': what a search for it has to name as well."""
        return tuple(code for code, targets in self.targets.items() if target in targets and code != target)

    def _concepts(self, value: Any) -> Any:
        if isinstance(value, list):
            read = [self._concept(each) for each in value]
            return read if any(new is not old for new, old in zip(read, value, strict=True)) else value
        return self._concept(value)

    def _concept(self, concept: Any) -> Any:
        known = fhir.codes_of(concept)
        added = [t for code in known for t in self.targets.get(code, ())]
        # What the EHR says in a code of the tables is not said again, nor otherwise.
        if not added or not isinstance(concept, fhir.Object) or any(meaning(code) for code in known):
            return concept
        codings = [Added(system=system, code=code) for system, code in dict.fromkeys(added)]
        return {**concept, "coding": [*fhir.each(concept.get("coding")), *codings]}

    def _measured(self, resource: fhir.Resource) -> dict[str, Any]:
        units = next((self.units[code] for code in fhir.codes_of(resource.get("code")) if code in self.units), None)
        if units is None:
            return {}
        changed = {"valueQuantity": _quantity(units, resource["valueQuantity"])}
        ranges = resource.get("referenceRange")
        if isinstance(ranges, list):
            changed["referenceRange"] = [
                {k: _quantity(units, v) if k in ("low", "high") else v for k, v in each.items()}
                if isinstance(each, fhir.Object)
                else each
                for each in ranges
            ]
        return changed


def _quantity(units: Mapping[str, str], quantity: Any) -> Any:
    """With the unit the map gives for what is written; a quantity in any other unit is what it says it is."""
    if not isinstance(quantity, fhir.Object):
        return quantity
    # As when a unit is read: a UCUM code says it, else what is printed; a map overrules neither.
    code = quantity.get("code") if quantity.get("system") in (UCUM, None) else None
    written = code or quantity.get("unit") or ""
    unit = units.get(written.strip()) if isinstance(written, str) else None
    if unit is None:
        return quantity
    return {**quantity, "unit": quantity.get("unit") or unit, "code": unit, "system": UCUM}


def read_code_map(text: str) -> CodeMap:
    """Read the CSV of a map. Raises CodeMapError, naming the line, for a row that could not mean anything.

    The columns are those of `COLUMNS`: `target` is `system|code` of a table, `unit` UCUM, `written` the unit as the
    laboratory writes it, empty for results without one.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    targets: dict[Code, tuple[Code, ...]] = {}
    units: dict[Code, dict[str, str]] = {}
    try:
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise CodeMapError(f"line 1: the columns are {','.join(COLUMNS)}")
        for row in rows:
            try:
                _add(row, targets, units)
            except CodeMapError as error:
                raise CodeMapError(f"line {rows.line_num}: {error}") from None
    except csv.Error as error:
        raise CodeMapError(f"line {rows.line_num}: {error}") from None
    return CodeMap(targets, units)


def _add(row: dict[str, Any], targets: dict[Code, tuple[Code, ...]], units: dict[Code, dict[str, str]]) -> None:
    if None in row or None in row.values():
        raise CodeMapError(f"write {len(COLUMNS)} columns")
    system, code, written, unit, target = (row[c].strip() for c in ("system", "code", "written", "unit", "target"))
    if not code:
        raise CodeMapError("there is no code")
    name, meant = (system, code), (target.rpartition("|")[0], target.rpartition("|")[2])
    kind = meaning(meant)
    if kind is None:
        raise CodeMapError(f"no table here knows the target {target!r}; write system|code, as http://loinc.org|2160-0")
    if name != meant and meaning(name) is not None:
        raise CodeMapError(f"the code {code!r} has a meaning here already, which a map cannot change")
    lab = codes.lab_codes()[meant[1]] if kind == "result" else None
    if (unit or written) and (lab is None or not _converts(lab, unit)):
        raise CodeMapError(f"{target} has no unit {unit!r}" if unit else "`written` needs the UCUM `unit` it means")
    if lab is not None and written and _converts(lab, written):
        raise CodeMapError(f"the unit {written!r} is known here already; a map cannot change it")
    if not unit and name == meant:
        raise CodeMapError("a code that is known here already is mapped for its unit alone, and there is none")
    others = [t for t in targets.get(name, ()) if t != meant]
    if others and {kind, *(meaning(t) for t in others)} != {"drug"}:
        raise CodeMapError(f"the code {code!r} has another target already; only a drug has several, its ingredients")
    if written in units.get(name, {}) or (meant in targets.get(name, ()) and not unit):
        raise CodeMapError(f"the code {code!r} is mapped already" + (f" in {written!r}" if written else ""))
    targets[name] = tuple(dict.fromkeys((*targets.get(name, ()), meant)))
    if unit:
        units.setdefault(name, {})[written] = unit


def _converts(lab: LabCode, unit: str) -> bool:
    try:
        lab.to_canonical(1.0, unit or None)
    except UnknownUnit:
        return False
    return bool(unit) and not lab.coded


@functools.lru_cache(maxsize=4096)
def meaning(code: Code) -> str | None:
    """What kind of thing the tables read this code as, None where they do not read it."""
    system, value = code
    if system in LOINC_SYSTEMS and value in codes.lab_codes():
        return "result"
    if codes.find_imaging_order([code]) is not None:
        return "study"
    if codes.find_drugs([code]):
        return "drug"
    if codes.condition_concepts([code]):
        return "condition"
    if code in implant_kinds():
        return "implant"
    if codes.histology_of([code]):
        return "histology"
    if is_genomic((code,)):
        return "gene"
    return "answer" if is_answer(value) or value in METABOLIZERS else None


def as_sent(value: Any) -> Any:
    """JSON as the EHR wrote it: without the codings a map added; the same object where there is none."""
    if isinstance(value, list):
        kept = [as_sent(each) for each in value if not isinstance(each, Added)]
        return kept if len(kept) != len(value) or any(n is not o for n, o in zip(kept, value, strict=True)) else value
    if isinstance(value, dict):
        read = {name: as_sent(each) for name, each in value.items()}
        return read if any(read[name] is not each for name, each in value.items()) else value
    return value
