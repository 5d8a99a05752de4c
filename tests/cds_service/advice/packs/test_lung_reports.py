"""What is read from the words of a report, and what is not."""

from __future__ import annotations

import pytest

from cds_service.advice.packs.lung_reports import read_words


@pytest.mark.parametrize(
    ("conclusion", "bilateral", "newer"),
    [
        ("New bilateral ground-glass opacities.", True, True),
        ("Bilateral opacities.", True, False),
        ("Diffuse interstitial opacities, increased since 2026-02-10.", True, True),
        ("Multifocal infiltrates in both lungs.", True, False),
        ("Right lower zone consolidation. Left lower zone consolidation.", True, False),
        ("Right lower zone consolidation.", False, False),
        ("No bilateral opacities.", False, False),
        ("Bilateral opacities have resolved.", False, False),
        ("Bilateral opacities improved.", False, False),
        ("Bilateral opacities, unchanged.", False, False),
        ("Bilateral pleural effusions. Heart enlarged.", False, False),
        ("Lungs clear.", False, False),
        ("Chronic bilateral interstitial changes.", False, False),
        ("No effusion. New bilateral opacities.", True, True),
        ("", False, False),
    ],
)
def test_a_sentence_counts_only_where_it_affirms_opacities(conclusion: str, bilateral: bool, newer: bool) -> None:
    found = read_words(conclusion)
    assert (found.bilateral, found.newer) == (bilateral, newer)


def test_the_quote_is_the_sentence_that_says_so() -> None:
    assert read_words("Port in place. New bilateral opacities. Heart normal.").quote == "New bilateral opacities."
