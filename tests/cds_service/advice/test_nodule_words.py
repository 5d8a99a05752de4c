"""A nodule from the words of a report: one clear sentence proposes, and anything ambiguous proposes nothing."""

from __future__ import annotations

import pytest

from cds_service.advice.nodule_words import Worded, nodule_in


def found(conclusion: str) -> Worded:
    nodule = nodule_in(conclusion)
    assert nodule is not None
    return nodule


@pytest.mark.parametrize(
    ("conclusion", "size", "attenuation", "multiple"),
    [
        ("Solitary solid nodule right upper lobe 7 mm. Incidental.", 7, "solid", False),
        ("There is a 6 mm ground-glass nodule in the left lower lobe.", 6, "ground_glass", False),
        ("Part-solid nodule measuring 1.2 cm in the lingula.", 12, "part_solid", False),
        ("8 x 6 mm solid nodule in the right middle lobe.", 7, "solid", False),
        ("8 mm x 6 mm solid nodule in the right middle lobe.", 7, "solid", False),
        ("9-mm nonsolid nodule in the right upper lobe.", 9, "ground_glass", False),
        ("Several solid nodules, the largest 6 mm.", 6, "solid", True),
        ("A 4.5 mm GGN at the left apex.", 4.5, "ground_glass", False),
    ],
)
def test_one_clear_sentence_gives_size_and_kind(conclusion: str, size: float, attenuation: str, multiple: bool) -> None:
    nodule = found(conclusion)
    assert (nodule.size_mm, nodule.attenuation, nodule.multiple) == (size, attenuation, multiple)


def test_the_sentence_is_kept_as_it_was_written() -> None:
    nodule = found("Lungs clear otherwise. Solitary spiculated solid nodule in the RUL, 7 mm. Incidental.")
    assert nodule.sentence == "Solitary spiculated solid nodule in the RUL, 7 mm."
    assert (nodule.upper_lobe, nodule.spiculated) == (True, True)


@pytest.mark.parametrize(
    "conclusion",
    [
        "",
        "No pulmonary nodule above 6 mm; solid or otherwise.",
        "Stable 7 mm solid nodule.",
        "7 mm solid nodule, unchanged from prior.",
        "Calcified 7 mm solid nodule, benign.",
        "7 mm nodule in the right upper lobe.",  # of no kind
        "Subsolid 7 mm nodule.",  # part-solid, or ground glass?
        "Solid nodule in the right upper lobe.",  # of no size
        "7 mm solid nodule. Another 9 mm ground-glass nodule.",
        "Solid nodule, 7 mm, previously 5 mm.",
        "7 mm solid and 5 mm solid nodule.",
        "7 mm solid thyroid nodule.",
        "12 cm solid nodular mass.",
        "Solid nodule 45 mm.",
        "Solid nodule seen on 3 mm slices.",
        "Resolved 7 mm ground-glass nodule.",
    ],
)
def test_doubt_proposes_nothing(conclusion: str) -> None:
    assert nodule_in(conclusion) is None


def test_a_report_of_any_length_is_read_in_no_time() -> None:
    assert found("solid nodule " * 20_000 + "7 mm").size_mm == 7
    assert nodule_in("1 x " * 50_000) is None
