"""What a code means, its unit and its plausible range: the only reader of `tables/`.

Codes match by (system, code) or through a site's map; display text is never matched. A unit is converted by
table or refused: a guess at creatinine is wrong by a factor of 88.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources

from fhir_mappers.record import ImagingOrder
from fhir_mappers.units import Conversion, UnknownUnit, normalise_unit, read_conversions

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
ATC = "http://www.whocc.no/atc"
ICD10CM = "http://hl7.org/fhir/sid/icd-10-cm"
ICD10 = "http://hl7.org/fhir/sid/icd-10"

ICD10_SYSTEMS = frozenset({ICD10CM, ICD10, "urn:oid:2.16.840.1.113883.6.90", "urn:oid:2.16.840.1.113883.6.3"})
RXNORM_SYSTEMS = frozenset({RXNORM, "urn:oid:2.16.840.1.113883.6.88"})
ATC_SYSTEMS = frozenset({ATC, "urn:oid:2.16.840.1.113883.6.73", "http://www.whocc.no/atc/"})
LOINC_SYSTEMS = frozenset({LOINC, "urn:oid:2.16.840.1.113883.6.1"})


@dataclass(frozen=True, slots=True, eq=False)
class LabCode:
    """One row of tables/labs.csv or tables/vitals.csv, itself alone its equal: what follows from a row can be kept.

    missing_unit  reject: no unit means no value; assume_canonical: units in use are the same; n/a: coded or nominal
    stale_*       maximum age for a decision; older is history only; None where the table does not say
    ref           adult reference range (low, high) for male, for female; either may be None
    """

    loinc: str
    analyte: str
    name: str
    kind: str
    unit: str
    conversions: dict[str, Conversion]
    reject: tuple[float | None, float | None]
    flag: tuple[float | None, float | None]
    ref_male: tuple[float | None, float | None]
    ref_female: tuple[float | None, float | None]
    stale_inpatient: timedelta | None
    stale_outpatient: timedelta | None
    missing_unit: str
    preferred: bool

    @property
    def coded(self) -> bool:
        return self.missing_unit == "n/a"

    def to_canonical(self, value: float, unit: str | None) -> float:
        """Convert a reported value to this row's own unit (creatinine: 180 umol/L -> 2.036 mg/dL).

        Raises UnknownUnit for a unit the row does not list, and for no unit where the row says `reject`.
        """
        if unit is None or not unit.strip():
            if self.missing_unit == "assume_canonical":
                return value
            raise UnknownUnit("no unit")
        conversion = self.conversions.get(normalise_unit(unit))
        if conversion is None:
            raise UnknownUnit("unit not in the table")
        return conversion(value)

    def reference_range(self, sex: str) -> tuple[float | None, float | None]:
        """The adult range for this sex; for any other sex the wider of the two (README of the tables, rule 9)."""
        if sex == "male":
            return self.ref_male
        if sex == "female":
            return self.ref_female
        lows = (self.ref_male[0], self.ref_female[0])
        highs = (self.ref_male[1], self.ref_female[1])
        return (
            None if None in lows else min(x for x in lows if x is not None),
            None if None in highs else max(x for x in highs if x is not None),
        )


def check_digit_ok(code: str) -> bool:
    """LOINC's mod-10 check digit (README of the tables, rule 2)."""
    match = re.fullmatch(r"(\d+)-(\d)", code)
    if not match:
        return False
    digits, check = match.groups()
    reverse = digits[::-1]
    doubled = str(int(reverse[0::2][::-1]) * 2)
    total = sum(int(d) for d in reverse[1::2][::-1] + doubled)
    return (10 - total % 10) % 10 == int(check)


def _rows(table: str) -> Iterator[dict[str, str]]:
    text = resources.files("fhir_mappers").joinpath("tables", table).read_text(encoding="utf-8")
    yield from csv.DictReader(io.StringIO(text, newline=""))


def _number(text: str | None) -> float | None:
    return float(text) if text not in (None, "") else None


def _duration(text: str | None) -> timedelta | None:
    if not text or text in ("none", "lifetime"):
        return None
    match = re.fullmatch(r"P(?:(\d+)Y)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?)?", text)
    if not match:
        raise ValueError(f"tables: {text!r} is not an ISO 8601 duration in years, days, hours and minutes")
    years, days, hours, minutes = (int(g or 0) for g in match.groups())
    return timedelta(days=days + 365 * years, hours=hours, minutes=minutes)


@functools.cache
def _lab_rows() -> tuple[LabCode, ...]:
    rows = []
    for kind, file, name_column in (("lab", "labs.csv", "analyte"), ("vital", "vitals.csv", "vital")):
        for row in _rows(file):
            male = (row.get("ref_low_m", row.get("ref_low_adult")), row.get("ref_high_m", row.get("ref_high_adult")))
            female = (row.get("ref_low_f", row.get("ref_low_adult")), row.get("ref_high_f", row.get("ref_high_adult")))
            rows.append(
                LabCode(
                    loinc=row["loinc"],
                    analyte=row[name_column],
                    name=row["name"],
                    kind=kind,
                    unit=row["canonical_ucum"],
                    conversions=read_conversions(row["canonical_ucum"], row["alt_units"]),
                    reject=(_number(row["reject_low"]), _number(row["reject_high"])),
                    flag=(_number(row["flag_low"]), _number(row["flag_high"])),
                    ref_male=(_number(male[0]), _number(male[1])),
                    ref_female=(_number(female[0]), _number(female[1])),
                    stale_inpatient=_duration(row["stale_inpatient"]),
                    stale_outpatient=_duration(row["stale_outpatient"]),
                    missing_unit=row["missing_unit"],
                    preferred=row["preferred"] == "y",
                )
            )
    return tuple(rows)


@functools.cache
def lab_codes() -> dict[str, LabCode]:
    """LOINC code -> row, for laboratory results and vital signs together.

    2708-6 stands in both tables: FHIR's vital signs use it for pulse oximetry, laboratories for arterial
    saturation. Here it is the vital sign; `find_lab` tells the two apart by category.
    """
    return {row.loinc: row for row in _lab_rows()}


@functools.cache
def _laboratory_codes() -> dict[str, LabCode]:
    return {**lab_codes(), **{row.loinc: row for row in _lab_rows() if row.kind == "lab"}}


def find_lab(codes: Iterable[tuple[str, str]], *, laboratory: bool = False) -> LabCode | None:
    """The row of the first preferred LOINC code among these, else of the first known one.

    laboratory  the observation says its category is laboratory
    """
    return _find_lab(tuple(codes), laboratory)


@functools.lru_cache(maxsize=1024)
def _find_lab(codes: tuple[tuple[str, str], ...], laboratory: bool) -> LabCode | None:
    table = _laboratory_codes() if laboratory else lab_codes()
    found = [table[code] for system, code in codes if system in LOINC_SYSTEMS and code in table]
    return next((row for row in found if row.preferred), found[0] if found else None)


@functools.cache
def analytes() -> dict[str, LabCode]:
    """Analyte -> its preferred row: the canonical unit, windows and ranges of the analyte."""
    best: dict[str, LabCode] = {}
    for row in lab_codes().values():
        if row.analyte not in best or (row.preferred and not best[row.analyte].preferred):
            best[row.analyte] = row
    return best


@functools.cache
def _condition_prefixes() -> dict[str, tuple[str, ...]]:
    prefixes: dict[str, set[str]] = {}
    for row in _rows("condition_groups.csv"):
        prefixes.setdefault(row["prefix"], set()).add(row["group_id"])
    return {prefix: tuple(sorted(groups)) for prefix, groups in prefixes.items()}


def condition_concepts(codes: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The condition groups whose prefix one of these ICD-10 codes starts with (dots ignored)."""
    table = _condition_prefixes()
    found: set[str] = set()
    for system, code in codes:
        if system in ICD10_SYSTEMS:
            plain = code.replace(".", "").upper()
            for length in range(1, len(plain) + 1):
                found.update(table.get(plain[:length], ()))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Drug:
    """One row of tables/drug_classes.csv."""

    class_id: str
    ingredient: str
    rxcui: str
    atc: str
    qt: str
    nephrotoxin: str
    pulmonary_toxicity: bool


@functools.cache
def drugs() -> tuple[Drug, ...]:
    return tuple(
        Drug(
            row["class_id"],
            row["ingredient"],
            row["rxcui"],
            row["atc"],
            row["qt_label"],
            row["nephrotoxin"],
            bool(row["pulmonary_toxicity"]),
        )
        for row in _rows("drug_classes.csv")
    )


@functools.cache
def _drugs_by_code() -> tuple[dict[str, tuple[Drug, ...]], dict[str, tuple[Drug, ...]]]:
    by_rxcui: dict[str, tuple[Drug, ...]] = {}
    by_atc: dict[str, tuple[Drug, ...]] = {}
    for drug in drugs():
        if drug.rxcui:
            by_rxcui[drug.rxcui] = (*by_rxcui.get(drug.rxcui, ()), drug)
        for atc in filter(None, re.split(r"[;,\s]+", drug.atc)):
            by_atc[atc] = (*by_atc.get(atc, ()), drug)
    return by_rxcui, by_atc


def find_drugs(codes: Iterable[tuple[str, str]]) -> tuple[Drug, ...]:
    """The drug rows these RxNorm ingredient or ATC codes stand for. Product codes need a site's map first."""
    by_rxcui, by_atc = _drugs_by_code()
    found: dict[tuple[str, str], Drug] = {}
    for system, code in codes:
        table = by_rxcui if system in RXNORM_SYSTEMS else by_atc if system in ATC_SYSTEMS else {}
        for drug in table.get(code, ()):
            found[(drug.class_id, drug.ingredient)] = drug
    return tuple(found.values())


def drug_concepts(codes: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Class ids, plus `nephrotoxin` and `pulmonary_toxicity` where a row carries the tag."""
    concepts: set[str] = set()
    for drug in find_drugs(codes):
        concepts.add(drug.class_id)
        if drug.nephrotoxin:
            concepts.add("nephrotoxin")
        if drug.pulmonary_toxicity:
            concepts.add("pulmonary_toxicity")
    return frozenset(concepts)


@functools.cache
def imaging_orders() -> dict[str, ImagingOrder]:
    """LOINC code of an orderable study -> what it is."""
    return {
        row["loinc"]: ImagingOrder(
            row["loinc"],
            row["modality"],
            row["region"],
            row["contrast"],
            row["ionising"] == "y",
            row["duplicate_group"],
            timedelta(hours=float(row["dup_window_h_acute"])),
            timedelta(hours=float(row["dup_window_h_outpatient"])),
        )
        for row in _rows("imaging_orders.csv")
    }


def find_imaging_order(codes: Iterable[tuple[str, str]]) -> ImagingOrder | None:
    table = imaging_orders()
    for system, code in codes:
        if system in LOINC_SYSTEMS and code in table:
            return table[code]
    return None


@functools.cache
def _nodule_terms() -> dict[str, tuple[tuple[str, str], ...]]:
    terms: dict[str, tuple[tuple[str, str], ...]] = {}
    for row in _rows("nodules.csv"):
        terms[row["code"]] = (*terms.get(row["code"], ()), (row["role"], row["meaning"]))
    return terms


def nodule_terms(codes: Iterable[tuple[str, str]], role: str) -> frozenset[str]:
    """What these codes say in one role of tables/nodules.csv: finding, count, attenuation, size, location, margin.

    The systems' codes do not overlap (RadLex RID, RadElement RDE, SNOMED CT numbers), and a coding of RadLex or
    RadElement comes with half a dozen spellings of its system: the code alone is matched.
    """
    table = _nodule_terms()
    return frozenset(meaning for _, code in codes for held, meaning in table.get(code, ()) if held == role)


@functools.cache
def _histologies() -> dict[tuple[str, str], str]:
    return {(row["system"], row["code"]): row["histology"] for row in _rows("histology.csv")}


def histology_of(codes: Iterable[tuple[str, str]]) -> frozenset[str]:
    """What tables/histology.csv calls these codes: adenocarcinoma, squamous, large-cell, small-cell, non-small-cell."""
    table = _histologies()
    return frozenset(table[code] for code in codes if code in table)


def knows_conditions(codes: Iterable[tuple[str, str]]) -> bool:
    """Whether the tables can say what these codes are not: an ICD-10 code in no group is understood, not unknown."""
    return any(system in ICD10_SYSTEMS for system, _ in codes)


_ATC_SUBSTANCE = re.compile(r"[A-Z]\d\d[A-Z]{2}\d\d")


def knows_drugs(codes: Iterable[tuple[str, str]]) -> bool:
    """Whether the tables can say what these codes are not: a whole ATC code can, a RxCUI may be any product."""
    return any(system in ATC_SYSTEMS and _ATC_SUBSTANCE.fullmatch(code) for system, code in codes)


@functools.cache
def _genes() -> dict[str, str]:
    return {row["hgnc"]: row["symbol"] for row in _rows("genes.csv")}


def gene_symbol(codes: Iterable[tuple[str, str]]) -> str:
    """The HGNC symbol of the first HGNC id among these that tables/genes.csv lists, else "".

    The number alone is an id too in HGNC's own system, as the examples of HL7's guide write it.
    """
    table = _genes()
    named = ((code, f"HGNC:{code}" if "genenames.org" in system else code) for system, code in codes)
    return next((table[name] for names in named for name in names if name in table), "")
