"""The names genetic laboratories write: CPIC's phenotype terms, star alleles, activity scores, presence of an allele.

These are closed vocabularies, so a whole answer that is one of their terms is read as the code it is; anything else,
a term with words around it included, is no answer. Source: CPIC term standardization (Caudle 2017, PMID 27441996).
"""

from __future__ import annotations

import re

_METABOLIZER = ("Poor", "Intermediate", "Normal", "Rapid", "Ultrarapid")
_TERMS = (
    *(f"{word} Metabolizer" for word in _METABOLIZER),
    *(f"{how} {word} Metabolizer" for how in ("Likely", "Possible") for word in ("Intermediate", "Poor")),
    *(f"{word} Function" for word in ("Poor", "Decreased", "Possible Decreased", "Normal", "Increased")),
    "Indeterminate",
    "Deficient",
    "Variable",
    "Normal",
    "Malignant Hyperthermia Susceptible",
    "Uncertain Susceptibility",
    "increased risk",
    "normal risk",
    "uncertain risk",
)
_PHENOTYPES = {term.lower(): term for term in _TERMS} | {
    "extensive metabolizer": "Normal Metabolizer",
    "malignant hyperthermia susceptibility": "Malignant Hyperthermia Susceptible",
    "deficient with cnsha": "Deficient",
    **{
        f"{how} risk of aminoglycoside-induced hearing loss": f"{how} risk"
        for how in ("increased", "normal", "uncertain")
    },
}
_ONLY = {"G6PD": frozenset({"Deficient", "Variable", "Normal", "Indeterminate"})}
"""`Normal` alone says something of G6PD only: elsewhere it may be a normal result of anything."""

_STAR = r"\*\d+[A-Z]*(?:\.\d+)?(?:x(?:\d+|N))?"
_CHANGE = r"[cgm]\.[-*]?\d+(?:[+-]\d+)?(?:_\d+)?(?:[ACGT]+>[ACGT]+|del[ACGT]*|dup[ACGT]*|ins[ACGT]+)"
_ALLELE = rf"(?:{_STAR}|Reference|HapB3|{_CHANGE})"
_DIPLOTYPE = re.compile(rf"{_ALLELE}(?:/{_ALLELE})?")
_HLA = re.compile(r"(?:(?:HLA-)?[A-Z]+\d*)?(\*\d{2,3}:\d{2,3})(?::\d+)*[A-Z]?")
_HLA_ANSWER = re.compile(r"(?:HLA-)?[A-Z]*(\*\d{2,3}:\d{2,3}) (positive|negative|present|absent|detected|not detected)")
_SYNONYM = re.compile(r"[^/()]+ \((\*\d+[A-Z]?|HapB3)\)")
_VKORC1 = re.compile(r"(?:c\.)?-1639 ?([AG])[/>]?([AG])")
_SCORE = re.compile(r"(?i)activity score:? ?([≥>]=? ?)?(\d(?:\.\d{1,2})?)")


def _plain(gene: str, text: str) -> str:
    """The answer without the gene's name in front of it, as laboratories like to repeat it."""
    return text.strip().rstrip(".").removeprefix(gene).lstrip(": ").strip()


def phenotype(gene: str, text: str) -> str:
    """CPIC's term for the answer, or "": `CYP2C19 poor metaboliser` -> `Poor Metabolizer`."""
    found = _PHENOTYPES.get(_plain(gene, text).lower().replace("metaboliser", "metabolizer"), "")
    if found in ("Normal", "Variable", "Deficient") and gene not in _ONLY:
        return ""
    return found if gene not in _ONLY or found in _ONLY[gene] else ""


def diplotype(gene: str, text: str) -> str:
    """The two alleles, or the one of a mitochondrial gene or a haplotype; "" for what is none.

    `CYP2D6 *1/*41` -> `*1/*41`; `Reference/c.1905+1G>A (*2A)` -> `Reference/*2A`; `HLA-B*57:01/HLA-B*08:01` ->
    `*57:01/*08:01`; `-1639 A/G` of VKORC1 -> `-1639 GA`.
    """
    if gene.startswith("HLA-"):
        alleles = [_HLA.fullmatch(part.strip()) for part in text.strip().split("/")]
        return "/".join(a[1] for a in alleles if a) if 1 <= len(alleles) <= 2 and all(alleles) else ""
    plain = _SYNONYM.sub(r"\1", _plain(gene, text).replace(f"/{gene} ", "/").replace(f"/{gene}*", "/*"))
    if gene == "VKORC1" and (match := _VKORC1.fullmatch(plain)):
        return "-1639 " + "".join(sorted(match.groups(), reverse=True))
    plain = plain.rpartition(":")[2] if plain.startswith(("NC_", "NM_", "NG_")) else plain
    return plain if _DIPLOTYPE.fullmatch(plain) else ""


def hla_answer(gene: str, text: str) -> tuple[str, str]:
    """(allele's own name, positive or negative) of `*58:01 positive` for HLA-B; ("", "") for anything else."""
    match = _HLA_ANSWER.fullmatch(text.strip()) if gene in ("HLA-A", "HLA-B") else None
    if match is None:
        return "", ""
    return f"{gene}{match[1]}", "positive" if match[2] in ("positive", "present", "detected") else "negative"


def activity_score(gene: str, text: str) -> str:
    """`1.0` of `DPYD activity score 1.0`, `3.0` of a score of at least 3; "" for anything else."""
    match = _SCORE.fullmatch(_plain(gene, text))
    return f"{float(match[2])}" if match else ""
