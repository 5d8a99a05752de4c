"""A nodule from the words of a report: it only proposes, quotes its sentence, and gives up on anything ambiguous.

One sentence about a nodule, one size, one kind. A negation, a comparison, a benign pattern or a second nodule in the
same report, and nothing is proposed at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cds_service.advice.packs.fleischner import Attenuation
from cds_service.advice.prior_studies import sentences

_NODULE = re.compile(r"(?i)\bnodul(?:e|es|ar)\b|\bGGNs?\b")
_SEVERAL = re.compile(r"(?i)\bnodules\b|\bGGNs\b|\b(multiple|several|numerous|bilateral)\b")
_SIZE = re.compile(
    r"(?i)(?<![\d.,-])(\d{1,2}(?:\.\d)?)(?:\s*(?:mm|cm)?\s*x\s*(\d{1,2}(?:\.\d)?))?\s*-?(mm|cm)\b(?!\s*(?:slice|from|deep))"
)
_UNSURE = re.compile(
    r"(?i)\b(no|not|without|resol\w+|unchanged|stable|previous\w*|prior|interval|decreas\w+|increas\w+|calcif\w+"
    r"|granuloma\w*|hamartoma|benign|perifissural|metasta\w+|mass|cavit\w+|thyroid|adrenal|pleural|liver|breast)\b"
)
_KINDS: tuple[tuple[Attenuation, re.Pattern[str]], ...] = (
    ("part_solid", re.compile(r"(?i)\b(?:part(?:ly|ial|ially)?|semi)[ -]solid\b")),
    ("ground_glass", re.compile(r"(?i)\bground[ -]?glass\b|\bnon[ -]?solid\b|\bGGNs?\b")),
    ("solid", re.compile(r"(?i)(?<!part[ -])(?<!partly[ -])(?<!partial[ -])(?<!partially[ -])(?<!semi[ -])(?<!non[ -])"
                         r"(?<!sub[ -])\bsolid\b")),
)  # fmt: skip
_UPPER = re.compile(r"(?i)\bupper lobe\b|\b[RL]UL\b")
_SPICULATED = re.compile(r"(?i)\bspiculated\b")
SMALLEST_MM, LARGEST_MM = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Worded:
    """What one sentence of a report says of one nodule, or of several of which it gives one size."""

    size_mm: float
    attenuation: Attenuation
    multiple: bool
    upper_lobe: bool
    spiculated: bool
    sentence: str


def nodule_in(conclusion: str) -> Worded | None:
    """The nodule a report's conclusion names, where there is no doubt about it."""
    about = [s for s in sentences(conclusion) if _NODULE.search(s)]
    if len(about) != 1 or _UNSURE.search(about[0]):
        return None
    sentence = about[0]
    sizes = list(_SIZE.finditer(sentence))
    kinds = [kind for kind, pattern in _KINDS if pattern.search(sentence)]
    if len(sizes) != 1 or len(kinds) != 1:
        return None
    long, short, unit = sizes[0].groups()
    factor = 10.0 if unit.lower() == "cm" else 1.0
    size = factor * (float(long) if short is None else (float(long) + float(short)) / 2)
    if not SMALLEST_MM <= size <= LARGEST_MM:
        return None
    return Worded(
        size,
        kinds[0],
        _SEVERAL.search(sentence) is not None,
        _UPPER.search(sentence) is not None,
        _SPICULATED.search(sentence) is not None,
        sentence,
    )
