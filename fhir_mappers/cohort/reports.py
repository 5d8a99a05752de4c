"""What radiology writes of a generated film: one plain sentence per sign, nothing that is not on it."""

from __future__ import annotations

from fhir_mappers.cohort.films import Opacity, Signs
from fhir_mappers.cohort.latent import CARDIOMEGALY_CTR

PATTERNS = {"consolidation": "consolidation", "ground_glass": "ground-glass opacity", "reticular": "reticular opacity"}


def write_report(signs: Signs, ctr: float) -> str:
    """The conclusion of a report on these signs."""
    found = [_opacity(o) for o in signs.opacities]
    found += [f"{_size(volume)} {side} pleural effusion." for side, volume in signs.effusions]
    if signs.pneumothorax:
        side, size = signs.pneumothorax
        found.append(f"{_size(size)} {side} pneumothorax.")
    if signs.nodule:
        found.append(f"{2 * signs.nodule.radius_mm:.0f} mm nodule, {signs.nodule.side} {signs.nodule.zone} zone.")
    if ctr > CARDIOMEGALY_CTR:
        found.append("Heart enlarged.")
    return " ".join(found) or "No abnormality."


def _opacity(opacity: Opacity) -> str:
    return f"{opacity.side.capitalize()} {opacity.zone} zone {PATTERNS[opacity.pattern]}."


def _size(share: float) -> str:
    return "Small" if share < 0.25 else "Moderate" if share < 0.5 else "Large"
