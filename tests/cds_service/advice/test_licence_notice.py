"""What the licence of a film network asks to be said is on every card that rests on a film, and on no other."""

from __future__ import annotations

from cds_service.advice.estimates import RESEARCH, with_licence
from cds_service.cards import DETAIL_LIMIT, Card, Source
from models.backbones.manifest import Licence
from models.contract import Assessment

NOTICE = Licence("msrla", "research_only").notice("rad-dino")


def assessed(notice: str = NOTICE) -> Assessment:
    return Assessment("site@1", "0" * 64, "open", {}, frozenset({"imaging"}), notice=notice)


def card(detail: str | None) -> Card:
    return Card("Effusion likely", "info", Source("Ordersight"), detail=detail)


def test_a_card_on_a_film_names_the_network_and_its_terms_and_a_card_on_rules_does_not() -> None:
    film, rules, bare = with_licence([card(f"Text. {RESEARCH}"), card("Text."), card(None)], assessed())
    assert film.detail == (
        "Text. Research use: not cleared. Reads films with rad-dino, licensed for research only (msrla); "
        "accepted by this site."
    )
    assert (rules.detail, bare.detail) == ("Text.", None)


def test_a_card_without_room_says_it_beside_its_source() -> None:
    full = "x" * (DETAIL_LIMIT - len(RESEARCH)) + RESEARCH
    (said,) = with_licence([card(full)], assessed())
    assert said.detail == full
    assert NOTICE in said.source.label


def test_cards_of_a_model_with_networks_of_its_own_stay_as_they_are() -> None:
    cards = [card(f"Text. {RESEARCH}")]
    assert with_licence(cards, assessed("")) == cards
    assert with_licence(cards, None) == cards
