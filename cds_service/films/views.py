"""`Views`: the views from the side of each study of a call, kept beside the frontal film and never read as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fhir_mappers.dicom import Header
from fhir_mappers.imaging import view_of
from fhir_mappers.record import Instance, Study
from fhir_mappers.studies import choose_films

MOST_TRIED = 3
"""Images of one study whose headers turn out to be of laterals, before no more is tried."""


@dataclass(slots=True)
class Views:
    """`found` by study UID: SOP instance UIDs whose headers say LATERAL, where no label did."""

    found: dict[str, set[str]] = field(default_factory=dict)

    def instead(self, study: Study, image: Instance, metadata: Mapping[str, Any], as_of: datetime) -> Instance | None:
        """Which image of the study to read where this one's header says that it is a lateral; None to stay with it."""
        if view_of(Header(metadata)) != "LATERAL":
            return None
        laterals = self.found.setdefault(study.uid, set())
        laterals.add(image.sop_uid)
        left = tuple(i for i in study.instances if i.sop_uid not in laterals)
        return next(iter(choose_films([replace(study, instances=left)], 1, as_of)), None) if self._more(study) else None

    def beside(self, study: Study, image: Instance) -> int:
        """How many laterals the study has besides this image."""
        labelled = {i.sop_uid for i in study.instances if i.lateral}
        return len((labelled | self.found.get(study.uid, set())) - {image.sop_uid})

    def _more(self, study: Study) -> bool:
        return len(self.found[study.uid]) < MOST_TRIED
