"""Who sees what, and which patients we say nothing about: the same for every service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cds_service.advice.packs import care

if TYPE_CHECKING:
    from cds_service.consult import Case

_NOT_A_CLINICIAN = re.compile(r"(?:^|/)(?:Patient|RelatedPerson)/")


def closed(case: Case) -> str | None:
    """Why no card may be shown at all, or None.

    Patients and relatives never see a card; roles among clinicians are not in the context of CDS Hooks 2.0 and
    stay with the EHR's own configuration of which user gets which service.
    """
    if _NOT_A_CLINICIAN.search(case.request.context.user_id or ""):
        return "not a clinician"
    return care.silence(case.record)
