"""What the page says of a model: from model.json, and only where it is of the very weights that answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cds_service.pages.model_card import model_view
from models.contract import Assessment, Estimate, Target

ROOT = Path(__file__).resolve().parents[3]
TARGET = Target("icu_care", "In intensive care", ("imaging", "labs"), "tests")


def assessment(digest: str) -> Assessment:
    estimate = Estimate(TARGET, 0.3, (0.2, 0.4), {}, frozenset({"labs"}))
    return Assessment("chest-open@1", digest, "open", {"icu_care": estimate}, frozenset({"labs"}))


def model_json(folder: Path, **changes: object) -> Path:
    card = {
        "weights": {"sha256": "ab" * 32, "file": "weights.safetensors"},
        "known_limits": ["Not validated for care.", "icu_care: One hospital.", "other: Something else."],
        "sources": [{"title": "Open films", "licence": "CC BY 4.0", "url": "https://example.org", "more": 1}],
        "targets": {
            name: {
                "ages": [18, None],
                "evaluated": "other patients",
                "standing": "flagged",
                "limits": ["One hospital."],
                "figures": {
                    "patients": 53,
                    "positives": 22,
                    "prevalence": 0.4,
                    "auroc": {"value": 0.75, "low": 0.64, "high": 0.85},
                    "ece": None,
                },
            }
            for name in ("icu_care", "other")
        },
        **changes,
    }
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def test_figures_limits_and_patients_are_those_of_the_targets_that_were_asked(tmp_path: Path) -> None:
    view = model_view(assessment("ab" * 32), model_json(tmp_path))
    assert view.card_found
    assert view.limits == ("Not validated for care.",)
    (target,) = view.targets
    assert (target.title, target.standing, target.patients, target.positives) == (
        "In intensive care",
        "flagged",
        53,
        22,
    )
    assert [(f.name, f.value, f.low, f.high) for f in target.figures] == [("AUROC", 0.75, 0.64, 0.85)]
    assert target.limits == ("One hospital.",)
    assert target.ages == "18 years and older"
    assert view.sources == (("Open films", "CC BY 4.0", "https://example.org"),)


def test_a_card_of_other_weights_says_nothing_of_these(tmp_path: Path) -> None:
    view = model_view(assessment("cd" * 32), model_json(tmp_path))
    assert (view.card_found, view.limits, view.targets) == (False, (), ())
    assert view.digest == "cd" * 32


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weights": 3}'])
def test_a_card_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    assert not model_view(assessment("ab" * 32), tmp_path).card_found
    assert not model_view(assessment("ab" * 32), tmp_path / "nowhere").card_found
    assert not model_view(assessment("ab" * 32), None).card_found


@pytest.mark.skipif(not (ROOT / "manifests/models").is_dir(), reason="no model is shipped with this checkout")
def test_every_shipped_model_has_a_card_the_page_can_show() -> None:
    for path in (ROOT / "manifests" / "models").glob("*/model.json"):
        card = json.loads(path.read_text())
        if "targets" not in card:  # networks that read films beside a model, whose card it is that is shown
            continue
        digest = card["weights"]["sha256"]
        view = model_view(assessment(digest), path.parent)
        assert view.card_found, path
        assert view.limits, path
