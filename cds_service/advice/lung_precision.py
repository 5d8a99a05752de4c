"""lung-precision: right drug for this tumour's genes, and is the chest responding or being harmed? LC-01 to LC-06.

Which cancer and which drugs raise the question is in `lung_question`; genes in `lung_drivers`; harm to the lungs in
`lung_injury` and `lung_pictures`; progression and interactions in `lung_course`. Adults with an active lung cancer
that is not small cell, outside trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice.drafts import touched
from cds_service.advice.gate import closed
from cds_service.advice.lung_course import interaction_card, progression_card
from cds_service.advice.lung_drivers import driver_card, options_card, testing_card
from cds_service.advice.lung_injury import injury_card
from cds_service.advice.lung_question import ask
from cds_service.advice.packs import care
from cds_service.cards import Card

if TYPE_CHECKING:
    from cds_service.consult import Case

LOUDNESS = {"critical": 0, "warning": 1, "info": 2}
CARDS = (driver_card, injury_card, testing_card, interaction_card, progression_card, options_card)
"""In the order in which one of several equally loud cards is chosen."""


def advise(case: Case) -> list[Card]:
    """At most one card: the loudest."""
    if closed(case) or care.under(case.record, 18) is not False:
        return []
    drafts = case.record.drafts()
    if drafts and not touched(case, drafts):
        return []
    question = ask(case)
    if question is None:
        return []
    spoken = [found for make in CARDS if (found := make(question)) is not None]
    return sorted(spoken, key=lambda c: LOUDNESS[c.indicator])[:1]
