"""IS-08: implants before a magnet."""

from __future__ import annotations

import msgspec
import pytest
from contrast import CT, NAME, NORMAL, card_of, chart, labels, text, written
from r4 import validate_r4
from safety_charts import MR_BRAIN, PREGNANT, WOMAN, device
from vignettes import Chart, Resource, condition, imaging_order, observation, service

from cds_service.evidence import Shortfall


def scanned(*resources: Resource, draft: Resource = MR_BRAIN, **more: object) -> Chart:
    return chart(*resources, drafts=(draft,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "tier", "summary"),
    [
        (
            "C106047",
            "critical",
            "Pacemaker: labelled unsafe for MRI; do not scan, ask MRI safety or choose another study.",
        ),
        (None, "warning", "Pacemaker: MRI safety not documented; send device details to MRI safety first."),
        ("C113844", "warning", "Pacemaker: MRI safety not documented; send device details to MRI safety first."),
        ("C106046", "info", "Pacemaker is MRI conditional: scan only within its conditions, checked by MRI safety."),
    ],
)
def test_the_label_decides_how_loud_the_card_is(label: str | None, tier: str, summary: str) -> None:
    card = card_of(scanned(device(label)))
    assert (card.indicator, card.summary) == (tier, summary)


@pytest.mark.parametrize("icd10", ["Z95.0", "Z95.810", "Z96.21", "Z98.2", "Z96.82", "Z18.10"])
def test_an_implant_on_the_problem_list_alone_goes_to_mri_safety(icd10: str) -> None:
    card = card_of(scanned(condition("c1", icd10)))
    assert card.indicator == "warning"
    (task,) = written(card)
    assert (task["code"]["text"], task["focus"]) == ("MRI safety review", {"reference": "Condition/c1"})
    validate_r4(task)


@pytest.mark.parametrize(
    "given",
    [
        scanned(),
        scanned(device("C106045")),
        scanned(device("C106045"), condition("c1", "Z95.0")),  # the device speaks for the same problem
        scanned(device("C106047"), draft=CT),
        scanned(device("C106047", status="inactive")),
        scanned(device("C106047", status="entered-in-error")),
        scanned(device("C106047", patient={"reference": "Patient/p2"})),
        scanned(device(None, code="58938008", name="Wheelchair")),
        scanned(condition("c1", "Z95.5")),  # a coronary stent needs no review
        scanned(condition("c1", "Z95.0", "resolved")),
    ],
)
def test_no_implant_a_safe_one_or_no_magnet_says_nothing(given: Chart) -> None:
    assert [c for c in given.cards(NAME) if c.basis and "IS-08" in c.basis.rules] == []


def test_an_unsafe_implant_is_said_in_an_emergency_too() -> None:
    stat = imaging_order("d1", "30657-1", "MRI brain", priority="stat")
    assert card_of(scanned(device("C106047"), draft=stat)).indicator == "critical"
    shock = observation("v1", "8480-6", 82, "mm[Hg]", "2026-03-10T13:50:00Z")
    assert card_of(scanned(device(None), shock)).indicator == "warning"


def test_another_study_is_offered_for_an_unsafe_device_and_no_abdominal_ct_in_pregnancy() -> None:
    card = card_of(scanned(device("C106047")))
    assert labels(card) == ["Send device details to MRI safety", "Change to CT head without contrast"]
    changed = msgspec.to_builtins(card.suggestions[1].actions[0])["resource"]
    assert (changed["id"], changed["code"]["coding"][0]["code"]) == ("d1", "30799-1")
    validate_r4(changed)
    abdomen = imaging_order("d1", "30668-8", "MRI abdomen")
    assert labels(card_of(scanned(device("C106047"), draft=abdomen, who=WOMAN)))[1:] == [
        "Change to CT abdomen without contrast"
    ]
    assert labels(card_of(scanned(device("C106047"), PREGNANT, draft=abdomen, who=WOMAN)))[1:] == []


def test_the_conditions_of_a_conditional_device_are_shown_and_missing_ones_named() -> None:
    noted = device("C106046", note=[{"text": "1.5 T, whole body SAR under 2 W/kg"}])
    assert "1.5 T, whole body SAR under 2 W/kg" in text(card_of(scanned(noted)))
    assert "Not known: its conditions" in text(card_of(scanned(device("C106046"))))


def test_of_two_implants_the_more_dangerous_decides_and_both_are_shown() -> None:
    two = (device("C106046"), device("C106047", "43252007", "Cochlear implant", id="v2"))
    card = card_of(scanned(*two))
    assert card.summary.startswith("Cochlear implant: labelled unsafe")
    assert "| Pacemaker | MRI conditional |" in text(card)


def test_a_site_may_have_a_further_device_reviewed_and_name_who_does_it() -> None:
    manifest = service(NAME)
    own = {"reviewed_implants": "http://snomed.info/sct|58938008", "mr_safety_group": "Group/mri"}
    changed = msgspec.structs.replace(manifest, settings={**manifest.settings, **own})
    card = card_of(scanned(device(None, "58938008", "Infusion pump")), changed)
    assert card.indicator == "warning"
    assert written(card)[0]["owner"] == {"reference": "Group/mri"}


def test_a_device_list_that_could_not_be_had_is_named() -> None:
    given = scanned(condition("c1", "Z95.0"), NORMAL, shortfalls=(Shortfall("devices", "timeout"),))
    assert "device list (did not arrive in time)" in text(card_of(given))
