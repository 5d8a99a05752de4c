"""The finding of QT-01 and QT-02: a drug that prolongs QTc for a heart that cannot bear it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cds_service.advice import ordering
from cds_service.advice.packs.qt import HIGH_RISK, MODERATE, POTASSIUM_LOW, Rhythm, qt_drugs, rhythm
from cds_service.advice.packs.quality import Reading, below
from cds_service.advice.packs.safe_to_offer import Offer, judge, offers
from cds_service.advice.prescribing import (
    Finding,
    Ordered,
    fell_short,
    new_drug,
    not_asked,
    offer_sentences,
    offer_unknowns,
    removal,
    replacement,
    source_words,
)
from cds_service.advice.writing import Fact, as_printed, band, day, rule_on, shown, span, taken
from cds_service.cards import Action, Indicator, Suggestion
from cds_service.manifest import Rule
from fhir_mappers.codes import LOINC, RXNORM, find_drugs
from fhir_mappers.offers import QtAlternative, qt_alternatives

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cds_service.advice.packs.genes import GeneState
    from cds_service.consult import Case

QTC = "8636-3"
POTASSIUM, MAGNESIUM = "8591", "6585"


def rhythm_finding(case: Case, drug: Ordered, states: Mapping[str, GeneState]) -> Finding | None:
    """QT-02 in congenital long QT, else QT-01 where a set of facts holds, else the missing electrocardiogram."""
    found = next((d for d in qt_drugs(((RXNORM, drug.rxcui),)) if d.rxcui == drug.rxcui), None)
    if found is None:
        return None
    state = rhythm(case.record, drug.first)
    congenital, acquired = rule_on(case.service, "QT-02"), rule_on(case.service, "QT-01")
    if state.congenital is not None and congenital is not None:
        return _Wording(case, drug, state, states, congenital).congenital()
    if acquired is None:
        return None
    if state.sets:
        return _Wording(case, drug, state, states, acquired).long()
    none = state.qtc.lab is None and state.qtc.conflict is None and not fell_short(case, "qt")
    if found.qt == "high" and none and state.tisdale.low >= MODERATE:
        return _Wording(case, drug, state, states, acquired).unrecorded()
    return None


class _Wording:
    """The sentences and suggestions of one finding."""

    def __init__(self, case: Case, drug: Ordered, state: Rhythm, states: Mapping[str, GeneState], rule: Rule) -> None:
        self.case, self.drug, self.state, self.rule = case, drug, state, rule
        other = qt_alternatives().get(drug.rxcui)
        fits = other is not None and self._fits(other)
        self.offered, self.refused = offers(
            case.record, [other.alternative] if other is not None and fits else [], replacing=drug.first, states=states
        )
        self.electrolytes = self._electrolytes()

    def _fits(self, other: QtAlternative) -> bool:
        """Whether the alternative serves what the drug is given for, as far as the problem list shows."""
        return bool(self.case.record.active(*other.conditions))

    def congenital(self) -> Finding:
        event = self.state.congenital
        assert event is not None
        fact = Fact("Long QT syndrome", event.text or "recorded", day(event.start), source_words(event))
        head = "Long QT syndrome"
        say = f"{self.drug.name.capitalize()} can cause a fatal rhythm in long QT syndrome."
        return self._finding("QT-02", self.rule.tier, head, (fact, *self._facts()), (say,))

    def long(self) -> Finding:
        qtc = self.state.qtc.lab
        assert qtc is not None
        tier: Indicator = self.rule.tier
        if len(self.state.sets) > 1 and tier == "warning":
            tier = "critical"
        paced = self.state.paced
        if paced is not None or qtc.preliminary:
            tier = "info"
        head = f"QTc {as_printed(qtc)}"
        if "QTc rose by 60 ms or more" in self.state.sets[:1] and self.state.lead is not None:
            head += f", up from {as_printed(self.state.lead)}"
        low = [
            f"{name} {as_printed(what.lab)}"
            for name, what, limit in (
                ("potassium", self.state.potassium, POTASSIUM_LOW),
                ("magnesium", self.state.magnesium, 1.6),
            )
            if what.lab is not None and below(what.lab, limit) is True
        ]
        head += "".join(f", {words}" for words in low[:1])
        say = [f"{self.state.sets[-1] if len(self.state.sets) == 1 else ' and '.join(self.state.sets)}."]
        if paced is not None:
            say.append("With a pacemaker QTc overstates the risk, so this informs only.")
        return self._finding("QT-01", tier, head, self._facts(), tuple(say))

    def unrecorded(self) -> Finding:
        state = self.state
        days = state.qtc.window.days if state.qtc.window is not None else 0
        grade = "high" if state.tisdale.low >= HIGH_RISK else "moderate"
        old = state.qtc.history
        facts = (Fact("QTc", f"none in {days} days", "", "Electrocardiogram"), *self._facts())
        if old is not None:
            age = span(self.case.record.age_of(old.at))
            facts = (Fact("Last QTc, too old", f"{shown(old)}, {age} old", taken(old), "Electrocardiogram"), *facts)
        pending = _pending(self.case)
        do = "the electrocardiogram is ordered" if pending else "record an electrocardiogram first"
        drug, score = self.drug.name.capitalize(), f"score {state.tisdale} ({grade} risk)"
        return Finding(
            "QT-01",
            self.rule,
            self.drug,
            "info",
            (
                f"{drug} can prolong QTc, none in {days} days, {score}: {do}.",
                f"{drug} can prolong QTc and none is recorded: {do}.",
            ),
            facts,
            (f"Without a QTc the Tisdale score is {state.tisdale}, {grade} risk: {self._items()}.",),
            () if pending else (self._ecg(),),
            ("QTc", *self._unknown()),
            deciding=("no QTc", grade),
        )

    def _finding(self, name: str, tier: Indicator, head: str, facts: tuple[Fact, ...], say: tuple[str, ...]) -> Finding:
        drug = self.drug.name
        do = f"use {self.offered[0].name}" if self.offered else f"replace {drug} or correct the cause first"
        score = self.state.tisdale
        grade = "high" if score.low >= HIGH_RISK else "moderate" if score.low >= MODERATE else "low"
        return Finding(
            name,
            self.rule,
            self.drug,
            tier,
            (
                f"{head}: {drug} can cause a dangerous rhythm; {do}.",
                f"{head}: {drug} can cause a dangerous rhythm.",
                f"{head.partition(',')[0]}: replace {drug}.",
            ),
            facts,
            (
                *say,
                f"Tisdale score {score} ({grade}): {self._items()}.",
                *offer_sentences((*self.offered, *self.electrolytes), self.refused),
            ),
            self._suggestions(name),
            self._unknown(),
            deciding=(
                f"QTc {band(qtc.value, 450, 481, 501, 550)}" if (qtc := self.state.qtc.lab) is not None else "",
                grade,
            ),
        )

    def _items(self) -> str:
        return ", ".join(f"{words} {points}" for words, points in self.state.tisdale.items)

    def _facts(self) -> tuple[Fact, ...]:
        state, found = self.state, []
        if state.qtc.lab is not None:
            found.append(Fact("QTc", shown(state.qtc.lab), taken(state.qtc.lab), "Electrocardiogram"))
        if state.lead is not None:
            found.append(Fact("Shortest QTc before", shown(state.lead), taken(state.lead), "Electrocardiogram"))
        for name, what in (("Potassium", state.potassium), ("Magnesium", state.magnesium)):
            if what.lab is not None:
                found.append(Fact(name, shown(what.lab), taken(what.lab), "Laboratory"))
        if state.others:
            found.append(Fact("Other QT drugs", ", ".join(state.others), "", "Medication list"))
        if state.paced is not None:
            event = state.paced
            found.append(Fact("Paced", event.text or "pacemaker", day(event.start), source_words(event)))
        return tuple(found)

    def _unknown(self) -> tuple[str, ...]:
        state = self.state
        found = ["QRS width"] if state.sets and state.paced is None else []
        found += [n for n, what in (("potassium", state.potassium), ("magnesium", state.magnesium)) if what.lab is None]
        found += offer_unknowns((*self.offered, *self.electrolytes))
        return tuple(dict.fromkeys((*found, *not_asked(self.case, "qt", "lytes", "meds", "conditions", "allergies"))))

    # --- suggestions --------------------------------------------------------------------------------------------

    def _electrolytes(self) -> tuple[Offer, ...]:
        """What is below its reference range and may be given."""
        judged = [
            judge(self.case.record, rxcui)
            for rxcui, what in ((POTASSIUM, self.state.potassium), (MAGNESIUM, self.state.magnesium))
            if _deficient(what)
        ]
        return tuple(offer for offer in judged if offer.safe)

    def _suggestions(self, name: str) -> tuple[Suggestion, ...]:
        firm = name == "QT-01" and len(self.state.sets) > 0 and self.state.paced is None
        found = [replacement(self.case, self.drug, o, recommended=firm) for o in self.offered[:1]]
        if not self.offered:
            found.append(removal(self.drug))
        if self.electrolytes:
            names = " and ".join(find_drugs(((RXNORM, o.rxcui),))[0].class_id for o in self.electrolytes)
            actions = tuple(new_drug(self.case, o) for o in self.electrolytes)
            found.append(Suggestion(f"Order {names} replacement", actions))
        if not _pending(self.case):
            found.append(self._ecg())
        return tuple(s for s in found if s is not None)

    def _ecg(self) -> Suggestion:
        code: dict[str, Any] = ordering.concept(LOINC, QTC, "12-lead electrocardiogram with QTc")
        action: Action = ordering.service_request(self.case, code, priority="urgent")
        return Suggestion("Order an electrocardiogram", (action,))


def _deficient(what: Reading) -> bool:
    return what.lab is not None and what.lab.low is not None and below(what.lab, what.lab.low) is True


def _pending(case: Case) -> bool:
    return bool(ordering.ordered(case.record.orders, frozenset({QTC})))
