"""deterioration: is this patient getting sicker than the plan assumes? Rules DT-01 to DT-05.

What a planned discharge runs into (DT-04) comes first, then suspected sepsis (DT-03), then NEWS2 (DT-01, DT-02); each
takes what else was found onto its card. The model speaks alone (DT-05) only where none of them does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice.discharge import discharge_card, leaving
from cds_service.advice.early_warning import score_card
from cds_service.advice.gate import closed
from cds_service.advice.risk_ahead import risk_card
from cds_service.advice.sepsis import find_sepsis, sepsis_card
from cds_service.advice.ward_question import already_called, ask, elsewhere
from cds_service.cards import Card

if TYPE_CHECKING:
    from cds_service.consult import Case


def advise(case: Case) -> list[Card]:
    """At most one card."""
    if closed(case) or elsewhere(case) or already_called(case):
        return []
    q = ask(case)
    if case.request.hook == "order-select" and not leaving(q):
        return []  # another draft was selected beside one that discharges
    sepsis = find_sepsis(q)
    found = discharge_card(q, sepsis) or sepsis_card(q, sepsis) or score_card(q) or risk_card(q)
    return [found] if found else []
