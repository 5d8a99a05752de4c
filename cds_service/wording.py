"""A site's own words on a card: phrases of ours that its manifest replaces, rule by rule. Facts stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from cds_service.cards import Card, CardError
from cds_service.manifest import Rule

log = logging.getLogger(__name__)


def reworded(card: Card, rules: Sequence[Rule]) -> Card:
    """The card in the words of its rules' `wording`.

    A card that would grow over the limits of a card keeps our words: a card in other words is better than none.
    """
    phrases = {ours: theirs for rule in rules for ours, theirs in rule.wording.items()}
    if not phrases:
        return card
    try:
        return msgspec.structs.replace(
            card,
            summary=_text(card.summary, phrases),
            detail=None if card.detail is None else _detail(card.detail, phrases),
            suggestions=tuple(msgspec.structs.replace(s, label=_text(s.label, phrases)) for s in card.suggestions),
        )
    except CardError as error:
        fields = {"rules": card.basis.rules if card.basis else (), "why": str(error)}
        log.warning("a card kept our words: the site's do not fit", extra={"fields": fields})
        return card


def _detail(text: str, phrases: Mapping[str, str]) -> str:
    """Rows of the table are the patient's facts, and the last line names rule and version: neither is reworded."""
    return "\n".join(line if line.startswith(("|", "Rule ")) else _text(line, phrases) for line in text.split("\n"))


def _text(text: str, phrases: Mapping[str, str]) -> str:
    """Longer phrases first, so that none is hidden by a part of itself."""
    for ours in sorted(phrases, key=len, reverse=True):
        text = text.replace(ours, phrases[ours])
    return text
