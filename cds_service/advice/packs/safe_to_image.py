"""Whether a study may be offered to this patient at all: the safety check of every study on a card (L12, SR-6).

What counts as a dose to a fetus: ACOG Committee Opinion 723; chest, head and limb studies are none. A fact that is not
known refuses nothing.
"""

from __future__ import annotations

from cds_service.advice.packs.implants import in_the_magnet
from cds_service.advice.packs.kidney import kidney
from cds_service.advice.packs.pregnancy import pregnancy
from fhir_mappers.record import Allergy, ImagingOrder, PatientRecord

EGFR_LIMIT = 30.0
"""Below this, contrast asks for more than a click (ACR-NKF 2020 and 2021)."""


def doses_a_fetus(study: ImagingOrder) -> bool:
    """Ionising, and the abdomen or pelvis in the beam."""
    return study.ionising and ("abdomen" in study.region or "pelvis" in study.region)


def contrast_allergies(record: PatientRecord) -> tuple[Allergy, ...]:
    """Reactions to iodinated contrast, the worst first. A mere intolerance counts only where it was severe.

    Shellfish, povidone and dietary iodine are no contrast: their codes are in no group of the tables.
    """
    rank = ("severe", "unknown", "moderate", "mild")
    found = [
        a
        for a in record.allergies
        if a.concepts & {"iodinated_contrast", "contrast_allergy"} and (a.severity == "severe" or not a.intolerance)
    ]
    return tuple(sorted(found, key=lambda a: rank.index(a.severity)))


def against_study(record: PatientRecord, study: ImagingOrder) -> str | None:
    """What speaks against offering this study, in a word for a card; None where nothing known does."""
    if pregnancy(record).state == "pregnant" and (doses_a_fetus(study) or study.contrast == "gadolinium_iv"):
        return "pregnancy"
    if study.modality == "MR" and any(i.mr != "conditional" for i in in_the_magnet(record)):
        return "implant"
    if study.contrast == "iodinated_iv" and any(a.severity != "mild" for a in contrast_allergies(record)):
        return "allergy to contrast"
    if study.contrast in ("iodinated_iv", "gadolinium_iv"):
        state = kidney(record)
        if state.aki is not None or (state.calculated is not None and state.calculated.below(EGFR_LIMIT)):
            return "kidney function"
    return None
