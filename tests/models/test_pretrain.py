"""Pretraining on a site's export: it learns, goes on where it was broken off, and fine-tuning starts from it."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fhir_mappers import bulk
from fhir_mappers.cohort.dicom import dicom_bytes
from fhir_mappers.cohort.patients import AS_OF, generate
from fhir_mappers.cohort.resources import write_chart
from fhir_mappers.export import export
from models import pretrain as module
from models.config import Preset, Recipe, Start, load_preset
from models.contract import LabFeature
from models.data import Shard, ShardError, read_shard
from models.encoders.labs import LabsEncoder
from models.fusion import FusionModel
from models.masking import Masker, _greys
from models.pretrain import Plan, PretrainingError, pretrain, start_from
from models.train import fit

CONFIGS = Path(module.__file__).parent / "configs"
PATIENTS = 96


@dataclass(frozen=True)
class Site:
    bulk: Path
    dicom: Path
    shard: Shard
    preset: Path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The generated cohort as a bulk export, its shard, and the tiny preset without dropout."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "bulk").mkdir()
    (folder / "dicom").mkdir()
    files: dict[str, list[bytes]] = {}
    for patient in generate(PATIENTS, 11, film_px=96):
        for resource in write_chart(patient):
            files.setdefault(resource["resourceType"], []).append(msgspec.json.encode(resource))
        for index in range(len(patient.films)):
            (folder / "dicom" / f"{patient.id}-{index}.dcm").write_bytes(dicom_bytes(patient, index))
    for kind, lines in files.items():
        (folder / "bulk" / f"{kind}.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    said = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    said["labs"]["statistics_dropout"] = 0.0
    (folder / "preset.yaml").write_text(yaml.safe_dump({**said, "dropout": 0.0, "width": 32}))
    source = bulk.site_source(bulk.open_export(folder / "bulk"), bulk.index_studies(folder / "dicom"), until=AS_OF)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fhir_mappers.export.MIN_RESULTS", 3)
        export(folder / "bulk", folder, sources=[source], image_size=96)
    return Site(folder / "bulk", folder / "dicom", read_shard(folder / "site.safetensors"), folder / "preset.yaml")


def plan(site: Site, **changes: int | float) -> Plan:
    return msgspec.structs.replace(Plan(str(site.preset), seed=2, steps=8, batch=8, rate=3e-3), **changes)


def test_the_shard_of_an_export_holds_all_modalities_and_no_label(site: Site) -> None:
    shard = site.shard
    assert len(shard.spec.labs) > 10
    assert shard.spec.history
    assert shard.spec.genomics
    assert shard.header.tier == "credentialed"
    assert np.isnan(shard.labels("pretraining")).all()
    for modality in ("imaging", "labs", "history", "genomics"):
        assert shard.has(modality).any(), modality


def test_what_is_hidden_is_not_shown_and_what_is_asked_is_what_was_hidden(site: Site) -> None:
    masker = Masker(site.shard, 2, batch=16, mask=0.5, regions=0.5)
    shown, asked = masker.step(0, "cpu")
    for name, hidden in (("labs", asked.labs), ("history", asked.history)):
        assert hidden.seen.any()
        assert not (hidden.seen & shown[name].seen).any()
    labs = asked.labs
    for row in range(16):  # an analyte is hidden with all its results
        assert not set(labs.code[row][labs.seen[row]].tolist()) & set(
            shown["labs"].code[row][shown["labs"].seen[row]].tolist()
        )
    imaging = shown["imaging"]
    row = int((imaging.seen[:, 0] & asked.cells.any(dim=1)).nonzero()[0, 0])
    cell = int(asked.cells[row].nonzero()[0, 0])
    at = slice(cell // 8 * 12, cell // 8 * 12 + 12), slice(cell % 8 * 12, cell % 8 * 12 + 12)  # 96 pixels / 8
    assert len(imaging.values[row, 0, 0][at].unique()) == 1


def test_the_grey_levels_of_a_square_are_its_own(site: Site) -> None:
    film = np.zeros((96, 96), np.float32)
    film[12:16, 24:28] = 1.0  # the upper left ninth of the square in the second row and the third column
    greys = _greys(film)
    mean, deviation = 16 / 9216, math.sqrt(16 / 9216 - (16 / 9216) ** 2)
    assert greys[8 + 2, 0] == pytest.approx((1 - mean) / deviation, rel=1e-4)
    assert np.allclose(np.delete(greys.ravel(), (8 + 2) * 9), -mean / deviation, rtol=1e-3)


def test_every_kind_of_hidden_part_is_restored_better_than_at_first(site: Site, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    card = pretrain(
        plan(site, steps=50, batch=16), site.shard, tmp_path, progress=lambda _s, _n, losses: seen.append(dict(losses))
    )
    assert card is not None
    assert set(seen[-1]) == {"labs", "history", "genomics", "imaging"}
    for kind, after in seen[-1].items():
        assert after < 0.95 * seen[9][kind], kind
    # On patients kept apart, of whom there are too few with genes to tell.
    for kind in ("labs", "history", "imaging"):
        assert card.losses.last[kind] < card.losses.first[kind], kind
    # Guessing the mean of a standardised grey level costs 1: the film around a hidden square says more.
    assert card.losses.last["imaging"] < 0.8


def test_a_run_broken_off_ends_where_an_unbroken_one_does_bit_for_bit(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 3)

    class PowerCut(Exception):
        pass

    def cut(step: int, _steps: int, _losses: object) -> None:
        if step == 5:
            raise PowerCut

    with pytest.raises(PowerCut):
        pretrain(plan(site), site.shard, tmp_path / "broken", state=tmp_path / "state", progress=cut)
    done: list[int] = []
    resumed = pretrain(
        plan(site), site.shard, tmp_path / "broken", state=tmp_path / "state", progress=lambda s, _n, _l: done.append(s)
    )
    assert done == [4, 5, 6, 7, 8]
    whole = pretrain(plan(site), site.shard, tmp_path / "whole")
    assert resumed is not None
    assert whole is not None
    assert resumed.sha256 == whole.sha256
    assert not (tmp_path / "state" / "state.safetensors").exists()


def test_the_state_of_another_plan_is_not_taken_up(site: Site, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"of": "something else", "step": 2}')
    with pytest.raises(PretrainingError, match="another plan"):
        pretrain(plan(site), site.shard, tmp_path / "out", state=tmp_path)


def test_a_preset_of_other_films_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="films of 96 pixels; preset small reads 192"):
        pretrain(msgspec.structs.replace(plan(site), preset="small"), site.shard, tmp_path)


def test_two_processes_by_torchrun_learn_what_one_learns(site: Site, tmp_path: Path) -> None:
    """Without films: batch normalisation over half a batch is another thing, on a CPU."""
    folder = tmp_path / "two"
    folder.mkdir()
    blind = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
        str(Path(sys.executable).parent / "cds-service"), "pretrain", str(site.bulk), "--out", str(folder),
        "--until", AS_OF.strftime("%Y-%m-%dT%H:%M:%S"), "--preset", str(site.preset), "--steps", "4", "--batch", "8",
        "--seed", "2", "--tensorboard", str(folder / "log"),
    ]  # fmt: skip
    said = subprocess.run(blind, capture_output=True, text=True, timeout=240, check=False)
    assert said.returncode == 0, said.stderr[-2000:]
    shard = read_shard(folder / "site.safetensors")
    assert not shard.has("imaging").any()
    alone: list[dict[str, float]] = []
    one = plan(site, steps=4, rate=1e-3)
    pretrain(one, shard, tmp_path / "one", progress=lambda _s, _n, losses: alone.append(dict(losses)))
    assert "start: {folder:" in said.stderr
    log = EventAccumulator(str(folder / "log"))
    log.Reload()
    for kind in ("labs", "history"):
        # The loss of a step rests on all updates before it: a gradient that two processes got wrong shows from step 2.
        logged = [event.value for event in log.Scalars(f"loss/{kind}")]
        assert logged == pytest.approx([losses[kind] for losses in alone], rel=1e-4)


def test_training_starts_from_the_pretrained_encoders_analyte_by_analyte(
    site: Site, shards: dict[str, Shard], recipe: Recipe, tmp_path: Path
) -> None:
    card = pretrain(plan(site), site.shard, tmp_path)
    assert card is not None
    start = Start(str(tmp_path), card.sha256)
    begun = fit(msgspec.structs.replace(recipe, preset=str(site.preset), phases=(), start=start), shards)
    spec, theirs = begun.spec, site.shard.spec
    known = load_file(tmp_path / "encoders.safetensors")
    name = next(f.name for f in spec.labs if f.name in {t.name for t in theirs.labs})
    ours = [f.name for f in spec.labs].index(name)
    other = [f.name for f in theirs.labs].index(name)
    assert torch.equal(
        begun.state_dict()["encoders.labs.analyte.weight"][1 + ours], known["encoders.labs.analyte.weight"][1 + other]
    )
    assert torch.equal(begun.state_dict()["encoders.imaging.project.weight"], known["encoders.imaging.project.weight"])
    untaught = fit(msgspec.structs.replace(recipe, preset=str(site.preset), phases=()), shards)
    project = "encoders.imaging.project.weight"
    assert not torch.equal(untaught.state_dict()[project], known[project])
    with pytest.raises(PretrainingError, match="which the recipe names"):
        fit(msgspec.structs.replace(recipe, preset=str(site.preset), start=Start(str(tmp_path), "0" * 64)), shards)


def test_a_value_means_the_same_after_a_change_of_scale(site: Site, tmp_path: Path) -> None:
    """Mean m and deviation s in pretraining, m - s / 2 and 2 s in training: a value at z there is at (z + 0.5) / 2."""
    preset: Preset = load_preset(site.preset)
    card = pretrain(plan(site, steps=1), site.shard, tmp_path)
    assert card is not None
    feature = card.spec.labs[0]
    scaled = LabFeature(feature.name, feature.unit, feature.mean - 0.5 * feature.std, 2 * feature.std, feature.log)
    model = FusionModel(msgspec.structs.replace(card.spec, labs=(scaled, *card.spec.labs[1:])), preset)
    left = start_from(model, Start(str(tmp_path), card.sha256))
    assert all(name.startswith("encoders.labs.tower.") for name in left)
    before = FusionModel(card.spec, preset)
    start_from(before, Start(str(tmp_path), card.sha256))
    old, new = before.encoders["labs"], model.encoders["labs"]
    assert isinstance(old, LabsEncoder)
    assert isinstance(new, LabsEncoder)
    code = torch.ones((1, 1), dtype=torch.int64)
    # A knot of the new scale, of which 9 lie between -3 and 3.
    z = torch.tensor([[0.75]])
    with torch.no_grad():
        torch.testing.assert_close(new._value(code, z), old._value(code, 2 * z - 0.5), rtol=1e-4, atol=1e-5)
