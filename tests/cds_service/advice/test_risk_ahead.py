"""DT-05 over several calls: an estimate has to last, and nobody hears it before the site has measured it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from vignettes import SERVICES, Answers, Chart
from ward_charts import NAME, NOW, card_of, chart, lab, rules, site, text, vitals
from ward_house import ward

from cds_service.manifest import ManifestError, Rule, Service, load_service
from cds_service.state.records import Earlier

AT = datetime.fromisoformat(NOW)
WORSE = Answers({"deterioration_24h": (0.41, 0.33, 0.50)}, modalities=("labs",))
CRP = lab("1988-5", 180, "mg/L")


def risk(*before: tuple[float, float | None], model: Answers = WORSE, **more: Any) -> Chart:
    """An estimate of 0.41 now, the threshold being 0.30; `before` are (minutes ago, probability)."""
    said = tuple(Earlier("deterioration_24h", AT - timedelta(minutes=ago), p) for ago, p in before)
    return chart(*vitals(), CRP, model=model, earlier=said, **more)


def test_an_estimate_that_lasted_half_an_hour_informs_and_says_so() -> None:
    card = card_of(risk((31, 0.36)))
    assert card.indicator == "info"
    assert "at or above this site's threshold of 0.30, as it was at least 30 min ago." in text(card)


@pytest.mark.parametrize(
    "before",
    [
        (),  # the first call
        ((29, 0.36),),
        ((31, 0.29),),
        ((60, 0.36), (20, 0.2)),
        ((31, None),),
    ],
)
def test_an_estimate_that_has_not_lasted_is_silent(before: tuple[tuple[float, float | None], ...]) -> None:
    assert rules(risk(*before)) == ()


def test_an_earlier_answer_whose_interval_left_the_threshold_open_confirms_nothing() -> None:
    """MX-2: wider than 0.30 across the threshold."""
    open_ = (Earlier("deterioration_24h", AT - timedelta(minutes=31), 0.36, 0.15, 0.60),)
    assert rules(chart(*vitals(), CRP, model=WORSE, earlier=open_)) == ()


def test_another_target_confirms_nothing() -> None:
    other = (Earlier("icu_care", AT - timedelta(minutes=31), 0.9),)
    assert rules(chart(*vitals(), CRP, model=WORSE, earlier=other)) == ()


def test_the_alarm_stands_until_two_hours_of_calls_well_below() -> None:
    lower = Answers({"deterioration_24h": (0.22, 0.15, 0.30)}, modalities=("labs",))
    card = card_of(risk((240, 0.4), (200, 0.4), (60, 0.2), model=lower))
    assert "is not yet far enough below it for long enough" in text(card)
    assert rules(risk((240, 0.4), (200, 0.4), (121, 0.2), model=lower)) == ()


def test_with_a_news2_of_5_the_score_speaks_and_the_estimate_is_its_line() -> None:
    sick = chart(*vitals(rr=22, hr=112, temp=38.4), CRP, model=WORSE)
    assert rules(sick) == ("DT-02",)
    assert "Model chest-open@1" in text(card_of(sick))


# --- the share that silent mode has to show -------------------------------------------------------------------------


def written(tmp_path: Path, ppv: str) -> Path:
    text_ = (SERVICES / f"{NAME}.yaml").read_text(encoding="utf-8")
    assert text_.count("    ppv_at_least: 0.25\n") == 1
    path = tmp_path / f"{NAME}.yaml"
    path.write_text(text_.replace("    ppv_at_least: 0.25\n", f"    ppv_at_least: 0.25\n{ppv}"), encoding="utf-8")
    return path


def test_a_share_below_a_quarter_is_refused_when_the_manifest_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"ppv is 0.24, and ppv_at_least asks for 0.25.*rules"):
        load_service(written(tmp_path, "    ppv: 0.24\n"))
    with pytest.raises(ManifestError, match=r"ppv is 25.*a share from 0 to 1"):
        load_service(written(tmp_path, "    ppv: 25\n"))
    assert load_service(written(tmp_path, "    ppv: 0.25\n")).rules["DT-05"].unproven is False
    assert load_service(written(tmp_path, "    ppv: 0.24\n    on: false\n")).rules["DT-05"].on is False
    assert load_service(written(tmp_path, "")).rules["DT-05"].unproven


# --- over HTTP, with the store ----------------------------------------------------------------------------------------


def proven() -> Service:
    manifest = site()
    rule: Rule = msgspec.structs.replace(manifest.rules["DT-05"], ppv=0.31)
    return msgspec.structs.replace(manifest, rules={**manifest.rules, "DT-05": rule})


def test_the_second_call_half_an_hour_later_speaks_whoever_made_the_first(tmp_path: Path) -> None:
    with ward(tmp_path, proven(), WORSE) as house:
        assert house.open_chart(risk()) == []
        house.later(10)
        assert house.open_chart(risk()) == []
        house.later(21)
        (card,) = house.open_chart(risk(), user="Practitioner/u2")
        assert card["summary"].startswith("Estimate 0.41 for worsening within 24 h")
        assert house.decisions() == [("DT-05", "fired", "")]


def test_calls_about_another_patient_or_of_yesterday_confirm_nothing(tmp_path: Path) -> None:
    with ward(tmp_path, proven(), WORSE) as house:
        assert house.open_chart(risk()) == []
        house.later(24 * 60 + 1)
        assert house.open_chart(risk()) == []  # remembers_h: 24
        house.later(31)
        body = (
            orjson.dumps(orjson.loads(risk().body(NAME)))
            .replace(b'"p1"', b'"p2"')
            .replace(b"Patient/p1", b"Patient/p2")
        )
        assert house.post(orjson.loads(body)) == []
        assert len(house.open_chart(risk())) == 1


def test_until_its_share_is_measured_the_rule_is_worked_out_and_shown_to_nobody(tmp_path: Path) -> None:
    with ward(tmp_path, site(), WORSE) as house:
        house.open_chart(risk())
        house.later(31)
        assert house.open_chart(risk()) == []
        assert house.decisions() == [("DT-05", "fired", "shadow")]
        house.app.state.switch("rule", "DT-05", "on", who="the committee", why="a test")
        house.later(31)
        assert house.open_chart(risk()) == []
        assert house.decisions() == [("DT-05", "fired", "shadow")]
