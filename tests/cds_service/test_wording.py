"""A site's own words on a card: what they replace, and what no manifest may touch."""

from __future__ import annotations

import re

import msgspec
import pytest
from contrast import LOW, METFORMIN, STEADY, chart
from every_rule import PAIRS, Pair
from vignettes import medication, service

from cds_service.cards import Card
from cds_service.manifest import AppliesTo, Rule, Service
from fhir_mappers.read import read_orders


def worded(name: str, wording: dict[str, str]) -> Service:
    """The service with every rule on and worded like this."""
    known = service(name)
    rules = {id_: msgspec.structs.replace(rule, on=True, wording=wording) for id_, rule in known.rules.items()}
    return msgspec.structs.replace(known, rules=rules)


def facts(card: Card) -> list[str]:
    return [line for line in (card.detail or "").splitlines() if line.startswith(("|", "Rule "))]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.rule)
def test_every_rule_speaks_in_the_words_of_the_site_and_its_facts_stay(pair: Pair) -> None:
    (ours,) = pair.fires.cards(pair.service, worded(pair.service, {}))
    word = re.findall(r"[a-z]{4,}", ours.summary)[-1]
    (theirs,) = pair.fires.cards(pair.service, worded(pair.service, {word: word.upper()}))
    assert theirs.summary == ours.summary.replace(word, word.upper()) != ours.summary
    assert facts(theirs) == facts(ours)
    assert theirs.indicator == ours.indicator


def test_a_button_is_reworded_and_what_it_does_is_not() -> None:
    given = chart(LOW, STEADY, METFORMIN)
    (ours,) = given.cards("imaging-safety")
    label = next(s.label for s in ours.suggestions if "metformin" in s.label)
    (theirs,) = given.cards("imaging-safety", worded("imaging-safety", {"metformin": "biguanide"}))
    changed = next(s for s in theirs.suggestions if "biguanide" in s.label)
    assert changed.label == label.replace("metformin", "biguanide")
    assert any("metformin" in row for row in facts(theirs))  # what the medication list says


def test_words_that_do_not_fit_leave_the_card_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    given = chart(LOW, STEADY)
    (ours,) = given.cards("imaging-safety")
    (theirs,) = given.cards("imaging-safety", worded("imaging-safety", {"contrast": "contrast medium " * 10}))
    assert (theirs.summary, theirs.detail) == (ours.summary, ours.detail)
    assert "the site's do not fit" in caplog.text


@pytest.mark.parametrize("phrase", ["eGFR 30", "", "a | b", "<b>bold</b>", "two\nlines", "...", "x" * 201])
def test_a_wording_with_numbers_or_markup_is_refused(phrase: str) -> None:
    rule = service("imaging-safety").rules["IS-01"]
    for wording in ({phrase: "our own words"}, {"our own words": phrase}):
        with pytest.raises(ValueError, match="wording"):
            msgspec.convert({**msgspec.to_builtins(rule), "wording": wording}, Rule)


@pytest.mark.parametrize(
    ("prefix", "code", "concerns"),
    [
        ("J01", "J01CA04", True),  # amoxicillin is an antibacterial for systemic use
        ("J01CA04", "J01CA04", True),
        ("J02", "J01CA04", False),
        ("J01", "A10BA02", False),
    ],
)
def test_drugs_may_be_named_by_the_beginning_of_their_atc_code(prefix: str, code: str, concerns: bool) -> None:
    """Codes from the ATC index of the WHO Collaborating Centre."""
    draft = medication("d1", "0", "a drug", "draft")
    draft["medicationCodeableConcept"] = {"coding": [{"system": "http://www.whocc.no/atc", "code": code}]}
    request = chart(LOW).request("imaging-safety")
    (order,) = read_orders((draft,), request.received_at)
    assert AppliesTo(atc=(prefix,)).order(order) is concerns
    rxnorm = {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": code}]}
    (other,) = read_orders(({**draft, "medicationCodeableConcept": rxnorm},), request.received_at)
    assert not AppliesTo(atc=(prefix,)).order(other)


@pytest.mark.parametrize("prefix", ["", "j01", "J1", "J01C A", "J01CA04X", "01"])
def test_what_is_no_beginning_of_an_atc_code_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="atc"):
        AppliesTo(atc=(prefix,))
