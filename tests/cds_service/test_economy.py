"""When a finding is said again: the windows and answers of CLINICAL.md 2.3, each with the moment before and after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cds_service.economy import LATER, PRIORITY, Moment, Verdict, judge, make_room, rank
from cds_service.state.records import AnswerRecord, Crowd, Decision, History, Rival, Shown, ShownCard, Silence

AT = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ORDER, OTHER_ORDER = ("o1",), ("o2",)


def earlier(**changes: Any) -> Shown:
    """A warning shown at AT in encounter e1 in hospital, about order o1, and not answered."""
    fields: dict[str, Any] = {
        "card": "first",
        "indicator": "warning",
        "shown_at": AT,
        "encounter_key": "e1",
        "outcome": None,
        "reasons": (),
        "setting": "inpatient",
        "orders": ORDER,
        "hook_instance": "h1",
    }
    return Shown(**(fields | changes))


def answered(outcome: str, *reasons: str, **changes: Any) -> Shown:
    return earlier(**({"outcome": outcome, "reasons": reasons, "answered_at": AT} | changes))


def later(after: timedelta, **changes: Any) -> Moment:
    fields: dict[str, Any] = {"encounter_key": "e1", "setting": "inpatient", "hook_instance": "h2"}
    return Moment(AT + after, **(fields | changes))


CLINIC = {"setting": "outpatient", "encounter_key": "v2"}
SPOKEN, AGAIN = Verdict(), Verdict(again="first")


def test_what_was_never_said_is_said() -> None:
    assert judge("info", ORDER, History(), later(HOUR)) == SPOKEN


@pytest.mark.parametrize(
    ("indicator", "after", "now", "verdict"),
    [
        ("warning", 24 * HOUR, {}, Verdict("shown")),
        ("warning", 24 * HOUR + timedelta(seconds=1), {}, SPOKEN),
        ("info", 20 * DAY, {}, Verdict("shown")),
        ("info", HOUR, {"encounter_key": "e2"}, SPOKEN),
        ("info", 7 * DAY, CLINIC, Verdict("shown")),
        ("info", 7 * DAY + timedelta(seconds=1), CLINIC, SPOKEN),
        ("critical", timedelta(minutes=1), {}, SPOKEN),
    ],
)
def test_an_unanswered_card_about_another_order_is_silent_for_its_window(
    indicator: Any, after: timedelta, now: dict[str, Any], verdict: Verdict
) -> None:
    """Info 7 days, in hospital the encounter; warning 24 hours; critical never."""
    history = History(earlier(indicator=indicator))
    assert judge(indicator, OTHER_ORDER, history, later(after, **now)) == verdict


@pytest.mark.parametrize("indicator", ["info", "warning", "critical"])
def test_select_and_sign_of_one_order_show_one_card(indicator: Any) -> None:
    history = History(earlier(indicator=indicator))
    assert judge(indicator, ORDER, history, later(timedelta(minutes=5))) == AGAIN


def test_the_ehrs_own_retry_gets_the_same_card_without_any_order() -> None:
    history = History(earlier(orders=()))
    assert judge("warning", (), history, later(timedelta(seconds=2), hook_instance="h1")) == AGAIN
    assert judge("warning", (), history, later(timedelta(seconds=2))) == Verdict("shown")


@pytest.mark.parametrize("reasons", [(), ("action-completed",), ("patient-refuses",)])
def test_select_and_sign_of_one_order_are_one_question_once_answered(reasons: tuple[str, ...]) -> None:
    history = History(answered("overridden", *reasons))
    assert judge("warning", ORDER, history, later(timedelta(minutes=5))) == Verdict("answered")
    assert judge("info", ORDER, History(answered("overridden", indicator="info")), later(HOUR)).cause == "answered"


def test_a_critical_card_is_silent_only_once_answered_with_a_reason_and_in_that_encounter() -> None:
    silent = answered("overridden", "patient-refuses", indicator="critical")
    assert judge("critical", ORDER, History(silent), later(HOUR)) == Verdict("answered")
    assert judge("critical", OTHER_ORDER, History(silent), later(HOUR)) == Verdict("answered")
    assert judge("critical", ORDER, History(silent), later(HOUR, encounter_key="e2")) == SPOKEN
    without = answered("overridden", indicator="critical")
    assert judge("critical", ORDER, History(without), later(timedelta(minutes=1))) == SPOKEN


def test_what_was_accepted_is_not_said_again_unless_the_order_reappears() -> None:
    history = History(answered("accepted"))
    assert judge("warning", ORDER, history, later(HOUR)) == Verdict("accepted")
    assert judge("warning", OTHER_ORDER, history, later(HOUR)) == SPOKEN
    # The EHR numbers its drafts anew for each visit: draft o1 of another visit is another order.
    assert judge("warning", ORDER, history, later(HOUR, encounter_key="e2")) == SPOKEN


def test_what_was_accepted_in_a_chart_without_orders_holds_for_the_stay_or_90_days_of_clinics() -> None:
    stay = History(answered("accepted", orders=()))
    assert judge("warning", (), stay, later(20 * DAY)) == Verdict("accepted")
    assert judge("warning", (), stay, later(2 * DAY, encounter_key="e2")) == SPOKEN
    clinic = History(answered("accepted", orders=(), setting="outpatient", encounter_key="v1"))
    assert judge("warning", (), clinic, later(90 * DAY, **CLINIC)) == Verdict("accepted")
    assert judge("warning", (), clinic, later(91 * DAY, **CLINIC)) == SPOKEN


@pytest.mark.parametrize("reason", ["risk-benefit-ratio", "cds-not-applicable"])
def test_a_lasting_reason_of_anybody_silences_it_for_everybody(reason: str) -> None:
    stay = History(answered=(answered("overridden", reason),))
    assert judge("warning", OTHER_ORDER, stay, later(20 * DAY)) == Verdict("overridden")
    assert judge("warning", OTHER_ORDER, stay, later(2 * DAY, encounter_key="e2")) == SPOKEN
    clinic = History(answered=(answered("overridden", reason, setting="outpatient", encounter_key="v1"),))
    assert judge("warning", OTHER_ORDER, clinic, later(90 * DAY, **CLINIC)) == Verdict("overridden")
    assert judge("warning", OTHER_ORDER, clinic, later(91 * DAY, **CLINIC)) == SPOKEN
    # Admitted, the patient is another question than in the clinic.
    assert judge("warning", OTHER_ORDER, clinic, later(DAY, encounter_key="e9")) == SPOKEN


@pytest.mark.parametrize("reason", ["patient-refuses", "action-completed", LATER])
def test_another_reason_of_somebody_else_silences_nothing(reason: str) -> None:
    assert judge("warning", ORDER, History(answered=(answered("overridden", reason),)), later(HOUR)) == SPOKEN


def test_will_decide_later_is_four_hours_in_hospital_and_the_next_visit_in_a_clinic() -> None:
    stay = History(answered("overridden", LATER))
    assert judge("warning", ORDER, stay, later(4 * HOUR)) == Verdict("later")
    assert judge("warning", ORDER, stay, later(4 * HOUR + timedelta(seconds=1))) == SPOKEN
    visit = History(answered("overridden", LATER, setting="outpatient", encounter_key="v1"))
    assert judge("info", ORDER, visit, later(9 * HOUR, setting="outpatient", encounter_key="v1")).cause == "later"
    assert judge("info", ORDER, visit, later(9 * HOUR, **CLINIC)) == SPOKEN


def test_will_decide_later_is_four_hours_where_nobody_knows_whether_it_is_a_stay_or_a_visit() -> None:
    asked = History(answered("overridden", LATER, indicator="critical"))
    assert judge("critical", ORDER, asked, later(4 * HOUR, setting="")) == Verdict("later")
    assert judge("critical", ORDER, asked, later(5 * HOUR, setting="")) == SPOKEN


def test_a_worse_tier_is_news_whatever_was_answered_to_the_milder_one() -> None:
    for mild in (
        answered("accepted", indicator="info"),
        answered("overridden", "cds-not-applicable", indicator="info"),
    ):
        history = History(mild, answered=(mild,))
        assert judge("warning", ORDER, history, later(HOUR)) == SPOKEN
        assert judge("info", ORDER, history, later(HOUR)) != SPOKEN


def test_a_silence_that_was_set_holds() -> None:
    assert judge("info", ORDER, History(silence=Silence("", None, "site")), later(HOUR)) == Verdict("silenced")


HISTORIES = st.builds(
    earlier,
    indicator=st.sampled_from(["info", "warning", "critical"]),
    encounter_key=st.sampled_from(["", "e1", "e2"]),
    setting=st.sampled_from(["inpatient", "outpatient", ""]),
    orders=st.sampled_from([(), ORDER, OTHER_ORDER]),
)


@given(HISTORIES, st.timedeltas(timedelta(), timedelta(days=200)), st.sampled_from(["", "e1", "e2"]))
def test_a_critical_finding_is_never_silent_before_it_is_answered(
    card: Shown, after: timedelta, encounter: str
) -> None:
    assert judge("critical", ORDER, History(card), later(after, encounter_key=encounter)).cause is None


# Several services, and a week -------------------------------------------------------------------------------------


def record(indicator: Any = "info", *, shadow: bool = False) -> AnswerRecord:
    return AnswerRecord(
        tenant="t",
        hook="order-sign",
        hook_instance="h",
        service="cxr-insight",
        at=AT,
        status=200,
        cards=(ShownCard("c", ("CX-02",), indicator, shadow=shadow),),
        decisions=(Decision("CX-02", "fired", tier=indicator),),
    )


def beside(*indicators: Any) -> Crowd:
    return Crowd(tuple(Rival(f"s{n}", indicator) for n, indicator in enumerate(indicators)))


def test_two_cards_are_shown_for_a_hook_event_and_the_third_is_recorded_as_capped() -> None:
    assert make_room(record(), beside("info")).cards
    capped = make_room(record(), beside("warning", "info"))
    assert capped.cards == ()
    assert capped.decisions == (Decision("CX-02", "capped", "two per event", tier="info"),)


def test_a_louder_card_is_not_cut_by_quieter_ones_that_came_first_nor_a_critical_one_by_any() -> None:
    assert make_room(record("warning"), beside("info", "info")).cards
    assert not make_room(record("warning"), beside("warning", "critical")).cards
    assert make_room(record("critical"), beside("critical", "critical", "critical")).cards


def test_the_ninth_interruption_of_a_week_is_shown_without_interrupting_and_a_critical_one_as_it_is() -> None:
    assert make_room(record("warning"), Crowd(interruptions=7)).cards[0].indicator == "warning"
    lowered = make_room(record("warning"), Crowd(interruptions=8))
    assert lowered.cards[0].indicator == "info"
    assert lowered.decisions == (Decision("CX-02", "fired", "eight per week", tier="info"),)
    assert make_room(record("critical"), Crowd(interruptions=80)).cards[0].indicator == "critical"


@pytest.mark.parametrize(("orders", "allowed"), [(0, 5), (1_000, 5), (1_199, 5), (1_200, 6), (10_000, 50)])
def test_of_a_thousand_orders_five_are_interrupted_and_a_sixth_warning_is_shown_as_info(
    orders: int, allowed: int
) -> None:
    """CLINICAL.md 2.2: interruptive cards on at most 0.5 % of all orders seen, enforced in code."""

    def after(interruptions: int) -> Crowd:
        return Crowd(orders=orders, order_interruptions=interruptions)

    assert make_room(record("warning"), after(allowed - 1)).cards[0].indicator == "warning"
    lowered = make_room(record("warning"), after(allowed))
    assert lowered.cards[0].indicator == "info"
    assert lowered.decisions == (Decision("CX-02", "fired", "five per thousand orders", tier="info"),)
    assert make_room(record("critical"), after(10 * allowed)).cards[0].indicator == "critical"


def test_what_the_budget_turned_into_info_is_not_said_again_for_every_further_order() -> None:
    again = make_room(record("warning"), Crowd(interruptions=8, told=True))
    assert again.cards == ()
    assert again.decisions == (Decision("CX-02", "capped", "eight per week", tier="warning"),)
    assert make_room(record("warning"), Crowd(interruptions=7, told=True)).cards[0].indicator == "warning"
    assert make_room(record("critical"), Crowd(interruptions=8, told=True)).cards


def test_a_card_in_shadow_takes_no_room_and_is_never_capped() -> None:
    assert make_room(record(shadow=True), beside("warning", "warning")).cards


def test_services_speak_in_the_order_of_the_clinical_specification() -> None:
    """CLINICAL.md 2.2: critical > warning > info, then imaging-safety > ... > imaging-timing."""
    assert rank("critical", "imaging-timing") < rank("warning", "imaging-safety") < rank("info", "imaging-safety")
    assert sorted(PRIORITY, key=lambda s: rank("info", s)) == list(PRIORITY)
    assert rank("info", "imaging-timing") < rank("info", "a-service-of-the-site")
