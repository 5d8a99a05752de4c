"""All source attributes of every service are written, their figures those of the model's card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cds_service.manifest import ManifestError, load_services
from cds_service.source_attributes import EVIDENCE, PREDICTIVE, Sheet, load_texts, sheet
from models.checkpoint import read_card

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
SERVICES = {s.id: s for s in load_services(MANIFESTS / "services").all}
PARAGRAPHS = {"1": 4, "2": 4, "3": 2, "4": 4, "5": 2, "6": 4, "7": 5, "8": 4, "9": 2}
"""How many attributes each paragraph of 45 CFR 170.315(b)(11)(iv)(B) has; 31 in all."""
NO_EXTERNAL = ("ext.source", "perf.external_validity", "perf.external_fairness")


def made(service_id: str, model: str = "chest-open") -> Sheet:
    return sheet(SERVICES[service_id], read_card(MANIFESTS / "models" / model), load_texts(MANIFESTS))


def test_the_31_predictive_and_13_evidence_attributes_are_those_of_the_rule() -> None:
    assert len(PREDICTIVE) == sum(PARAGRAPHS.values()) == 31
    cites = [cite for cite, _ in PREDICTIVE.values()]
    roman = ("i", "ii", "iii", "iv", "v")
    assert cites == [f"({p})({roman[n]})" for p, count in PARAGRAPHS.items() for n in range(count)]
    assert [cite for cite, _ in EVIDENCE.values()] == [f"({n})" for n in range(1, 14)]


@pytest.mark.parametrize("service_id", sorted(SERVICES))
def test_every_attribute_of_every_service_says_something(service_id: str) -> None:
    found = made(service_id)
    assert [a.key for a in found.evidence] == list(EVIDENCE)
    wanted = list(PREDICTIVE) if SERVICES[service_id].model else []
    assert [a.key for a in found.predictive] == wanted
    for attribute in (*found.predictive, *found.evidence):
        assert len(attribute.text) > 8, attribute.key
    assert len(found.evidence[0].figures) == len(SERVICES[service_id].rules)


def test_no_external_assessment_is_claimed_that_was_not_made() -> None:
    said = {a.key: a.text.lower() for a in made("deterioration").predictive}
    assert all(said[key].startswith(("none", "not measured")) for key in NO_EXTERNAL)


def test_the_figures_are_those_of_the_card() -> None:
    card = json.loads((MANIFESTS / "models" / "chest-open" / "model.json").read_text())
    found = made("deterioration")
    auroc = card["targets"]["icu_care"]["figures"]["auroc"]
    figures = {a.key: a.figures for a in found.predictive}
    wanted = f"icu_care: AUROC {auroc['value']:.2f} ({auroc['low']:.2f} to {auroc['high']:.2f})"
    assert figures["perf.internal_validity"][0].startswith(wanted)
    assert "deterioration_24h: not answered by the installed model" in figures["details.output_value"]
    assert found.digest == card["weights"]["sha256"]
    male = card["targets"]["icu_care"]["subgroups"]["male"]["patients"]
    assert f"icu_care: male, {male} of 53 patients" in figures["dev.representativeness"]


def test_limits_of_targets_the_service_does_not_ask_for_stay_out() -> None:
    risks = next(a for a in made("deterioration").predictive if a.key == "caution.risks").figures
    assert any(line.startswith("icu_care:") for line in risks)
    assert any(line.startswith("Not validated for care") for line in risks)
    assert not any(line.startswith("sepsis_onset:") for line in risks)


def test_without_the_models_card_the_words_stay_and_the_figures_go() -> None:
    found = sheet(SERVICES["deterioration"], None, load_texts(MANIFESTS))
    assert len(found.predictive) == 31
    assert (found.model, found.digest) == ("", "")
    assert not any(a.figures for a in found.predictive)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    details.funding: None. The", "    details.fundings: None. The", "no source attribute"),
        ("    ethnicity: Not used.", "    ethnicity: n/a", "says nothing"),
        ("    ethnicity: Not used.", "    ethnicity: Not applicable.", "says nothing"),
        ("evidence:\n", "evidences:\n", "evidence"),
    ],
)
def test_a_file_that_leaves_something_open_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = (MANIFESTS / "source_attributes.yaml").read_text()
    assert old in text
    (tmp_path / "source_attributes.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ManifestError, match=told):
        load_texts(tmp_path)


def test_an_attribute_nobody_wrote_is_named(tmp_path: Path) -> None:
    shutil.copy(MANIFESTS / "source_attributes.yaml", tmp_path)
    path = tmp_path / "source_attributes.yaml"
    path.write_text(path.read_text().replace("    ethnicity: Not used.\n", "", 1))
    with pytest.raises(ManifestError, match="ethnicity"):
        sheet(SERVICES["imaging-safety"], None, load_texts(tmp_path))
