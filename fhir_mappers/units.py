"""Units as laboratories print them, brought to UCUM, and how one converts to another: by table, never by guess."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass


class UnknownUnit(ValueError):
    """The table lists no conversion from this unit; the value cannot be used."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """canonical = reported * factor + offset (README of the tables, rule 3)."""

    factor: float
    offset: float = 0.0

    def __call__(self, value: float) -> float:
        return value * self.factor + self.offset


_SPELLINGS = {
    # README of the tables, rule 4: spellings laboratories print that are not UCUM.
    **dict.fromkeys(("mEq/L", "meq/l", "mEq/l", "MEQ/L"), "meq/L"),
    **dict.fromkeys(("IU/L", "units/L", "[IU]/L", "[iU]/L", "iU/L", "U/l"), "U/L"),
    **dict.fromkeys(
        ("K/uL", "K/UL", "x10E3/uL", "10^3/uL", "thou/uL", "10*3/mm3", "10e3/uL", "x10(3)/uL", "10*3/ul"), "10*3/uL"
    ),
    **dict.fromkeys(("10^9/L", "G/L", "x10^9/L", "10*9/l"), "10*9/L"),
    **dict.fromkeys(("mmHg", "mm Hg", "mm(Hg)"), "mm[Hg]"),
    **dict.fromkeys(("C", "degC", "°C"), "Cel"),
    **dict.fromkeys(("F", "degF", "°F"), "[degF]"),
    **dict.fromkeys(("lb", "lbs"), "[lb_av]"),
    "in": "[in_i]",
    **dict.fromkeys(("sec", "SECONDS", "seconds"), "s"),
    **dict.fromkeys(("bpm", "beats/min", "breaths/min", "/minute"), "/min"),
    **dict.fromkeys(("MG/DL", "mg/dl"), "mg/dL"),
    **dict.fromkeys(("g/dl", "G/DL"), "g/dL"),
    **dict.fromkeys(("ng/ml", "NG/ML"), "ng/mL"),
    **dict.fromkeys(("pH", "units", "[pH]", "pH units"), "[pH]"),
    **dict.fromkeys(("mm/hr", "mm/h"), "mm/h"),
    **dict.fromkeys(("(score)", "score"), "{score}"),
    **dict.fromkeys(("mIU/mL",), "m[IU]/mL"),
    **dict.fromkeys(("mIU/L",), "m[IU]/L"),
    **dict.fromkeys(("uIU/mL",), "u[IU]/mL"),
}
_PER_1_73 = re.compile(r"(?i)^ml/min/\[?\{?\(?1\.73_?\s?m(?:2|\^2|²)\]?\}?\)?$|^ml/min per 1\.73 ?m2$")
_D_DIMER = re.compile(r"(\S+)\s+\(?(FEU|DDU)\)?")
"""`ng/mL FEU`, `mg/L (DDU)`: which of the two D-dimer units a laboratory prints after the mass."""
_LITRE = re.compile(r"(?<![A-Za-z{\[])([dcmunpf]?)l(?![A-Za-z])")


@functools.lru_cache(maxsize=1024)
def normalise_unit(unit: str) -> str:
    """Bring a printed unit to its UCUM spelling; case matters afterwards. Unknown spellings pass unchanged.

    UCUM itself spells the litre `l` or `L`, and the arbitrary international unit `[iU]` or `[IU]`: one of each here.
    """
    text = unit.strip().replace("µ", "u").replace("μ", "u")
    if d_dimer := _D_DIMER.fullmatch(text):
        return f"{normalise_unit(d_dimer[1])}{{{d_dimer[2]}}}"
    if _PER_1_73.match(text):
        return "mL/min/{1.73_m2}"
    if text.startswith("mcg"):
        text = "ug" + text[3:]
    text = _SPELLINGS.get(text, text)
    text = _LITRE.sub(r"\1L", text).replace("[iU]", "[IU]")
    return _SPELLINGS.get(text, text)


def read_conversions(canonical: str, alternatives: str) -> dict[str, Conversion]:
    """`umol/L:0.0113;mmol/mol:0.09148+2.152` of a table as unit -> conversion, the canonical unit included."""
    table = {normalise_unit(canonical): Conversion(1.0)}
    for part in filter(None, (p.strip() for p in alternatives.split(";"))):
        unit, _, rule = part.rpartition(":")
        match = re.fullmatch(r"(-?[\d.eE-]+?)(?:([+-])([\d.]+))?", rule)
        if not match:
            raise ValueError(f"tables: {part!r} is not unit:factor or unit:factor+offset")
        factor, sign, offset = match.groups()
        table[normalise_unit(unit)] = Conversion(
            float(factor), float(offset) * (-1 if sign == "-" else 1) if offset else 0.0
        )
    return table
