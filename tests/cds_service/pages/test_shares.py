"""What each kind of evidence did to an answer, as the evidence page says it."""

from __future__ import annotations

import math
import re

import pytest

from cds_service.pages.evidence import pages
from cds_service.pages.plots import scale
from cds_service.pages.snapshot import EstimateView
from cds_service.pages.words import odds_factor


@pytest.mark.parametrize(
    ("factor", "said"),
    [(2.0, "2"), (2.27, "2.3"), (0.741, "0.74"), (12.4, "12"), (1e9, "over 100"), (1e-9, "under 0.01")],
)
def test_a_share_of_the_log_odds_is_said_as_a_factor_of_the_odds(factor: float, said: str) -> None:
    assert odds_factor(math.log(factor)) == said


def test_the_page_names_each_kind_of_evidence_with_its_factor_and_nothing_where_none_was_measured() -> None:
    """Odds of 3 from 0.5 by a film that doubles them and results that treble them: 0.75."""
    view = EstimateView(
        title="Worsening",
        on_card=True,
        probability=0.75,
        interval=(0.6, 0.9),
        without=(("chest film", 0.6),),
        rested_on=("chest film", "laboratory results"),
        shares=(("chest film", math.log(2.0)), ("laboratory results", math.log(3.0))),
    )
    drawn = pages.get_template("pages/parts.html").module

    def text(of: EstimateView) -> str:
        return " ".join(re.sub(r"<[^>]+>", " ", str(drawn.estimate(of, scale(of), "e1"))).split())

    assert "over age and sex alone: chest film times 2, laboratory results times 3" in text(view)
    bare = EstimateView(
        title="Worsening", on_card=True, probability=0.75, interval=None, without=(), rested_on=("chest film",)
    )
    assert "times" not in text(bare)
