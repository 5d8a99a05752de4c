"""What the coded answers say: pregnant or not, positive or negative, alert or not."""

from __future__ import annotations

from collections.abc import Iterable

from fhir_mappers.codes import LabCode

# Answers of coded observations, each code matched exactly. LOINC answers: 82810-3 (LL4129-4), 67775-7 with
# LA6560-2 for new confusion, presence lists. SNOMED CT codes are single matches, no list of that system is shipped.
_MEANINGS: dict[str, dict[str, str]] = {
    "pregnancy_status": {
        "LA15173-0": "pregnant",
        "77386006": "pregnant",
        "LA26683-5": "not-pregnant",
        "60001007": "not-pregnant",
        "LA4489-6": "unknown",
    },
    "avpu": {
        "LA9340-6": "alert",
        "LA6560-2": "confusion",
        "LA17108-4": "voice",
        "LA17107-6": "pain",
        "LA9343-0": "unresponsive",
        "248234008": "alert",
        "130987000": "confusion",
        "300202002": "voice",
        "450847001": "pain",
        "422768004": "unresponsive",
    },
    # LOINC answer list LL2201-3 and the SNOMED CT concepts US Core and IPS map it to
    "smoking_status": {
        **dict.fromkeys(("LA18976-3", "LA18977-1", "LA18979-7", "LA18981-3", "LA18982-1"), "smoker"),
        **dict.fromkeys(("449868002", "428041000124106", "77176002", "428071000124103", "428061000124105"), "smoker"),
        **dict.fromkeys(("LA15920-4", "8517006"), "former-smoker"),
        **dict.fromkeys(("LA18978-9", "266919005"), "never-smoker"),
    },
    "{presence}": {
        **dict.fromkeys(("LA6576-8", "LA11882-0", "LA9633-4", "10828004", "260373001", "POS"), "positive"),
        **dict.fromkeys(("LA6577-6", "LA11883-8", "LA9634-2", "260385009", "260415000", "NEG"), "negative"),
    },
}
_PRESENCE_WORDS = {
    **dict.fromkeys(("positive", "pos", "detected", "reactive", "present"), "positive"),
    **dict.fromkeys(("negative", "neg", "not detected", "non-reactive", "nonreactive", "absent"), "negative"),
}

_AVPU_WORDS = {
    "alert": "alert",
    "new confusion": "confusion",
    "voice": "voice",
    "pain": "pain",
    "unresponsive": "unresponsive",
}


def is_answer(code: str) -> bool:
    """Whether this is an answer that some coded observation is read by."""
    return any(code in table for table in _MEANINGS.values())


def coded_meaning(row: LabCode, codes: Iterable[tuple[str, str]], text: str) -> str:
    """What a coded answer says, in our own word, or "" where no table knows it.

    Presence tests (hCG, antigens, RNA) may answer with one whole word instead of a code, as many laboratories do
    (labs.csv notes it for hCG), and so may the level of response, which many charts store as the word itself;
    nothing else is ever read from text.
    """
    table = _MEANINGS.get(row.analyte) or _MEANINGS.get(row.unit, {})
    found = {table[code] for _, code in codes if code in table}
    if len(found) == 1:
        return found.pop()
    word = text.strip().rstrip(".").lower()
    if not found and row.unit == "{presence}":
        return _PRESENCE_WORDS.get(word, "")
    if row.analyte == "avpu" and not tuple(codes):
        return _AVPU_WORDS.get(word, "")
    return ""
