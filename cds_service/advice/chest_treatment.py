"""chest-treatment: is this treatment right for what is in the chest? Rules CT-01 to CT-07.

What raises the question is in `chest_question`; severity and what follows from it in `chest_severity`; what the film
says of the treatment in `chest_film_treatment`; courses, viruses and MRSA cover in `chest_antibiotics`. Drug safety
of the antibiotic (QT, genes, kidney dose) is another service's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice.chest_antibiotics import course_card, mrsa_card, virus_card
from cds_service.advice.chest_film_treatment import diuretic_card, oedema_card
from cds_service.advice.chest_question import ask
from cds_service.advice.chest_severity import discharge_card, steroid_card
from cds_service.advice.gate import closed
from cds_service.advice.packs import pneumonia
from cds_service.cards import Card

if TYPE_CHECKING:
    from cds_service.consult import Case

LOUDNESS = {"critical": 0, "warning": 1, "info": 2}
CARDS = (discharge_card, steroid_card, oedema_card, diuretic_card, virus_card, course_card, mrsa_card)
"""In the order in which one of several equally loud cards is chosen."""


def advise(case: Case) -> list[Card]:
    """At most one card: the loudest."""
    if closed(case) or pneumonia.not_meant(case.record) is not None:
        return []
    question = ask(case)
    if question is None:
        return []
    spoken = [found for make in CARDS if (found := make(question)) is not None]
    return sorted(spoken, key=lambda c: LOUDNESS[c.indicator])[:1]
