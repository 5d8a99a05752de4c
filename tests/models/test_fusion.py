"""What may move a logit, and what can never."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import Preset, load_preset
from models.contract import MODALITIES, SIGNALS, FusionInput, InputSpec, Signal, collate, without
from models.encoders import to_batch
from models.fusion import FusionModel
from models.predict import show_only

from .conftest import make_input

PATTERNS = [frozenset(p) for p in chain.from_iterable(combinations(MODALITIES, n) for n in range(5))]
JUNK = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -7.0, 0.5])


@torch.inference_mode()
def logits(model: FusionModel, *inputs: FusionInput) -> np.ndarray:
    return model(to_batch(collate(inputs))).total.numpy()


def padded(signal: Signal, extra: int, junk: float, code: int) -> Signal:
    """The signal with unseen slots behind it that hold whatever they like."""

    def pad(array: np.ndarray, value: float) -> np.ndarray:
        tail = np.full((extra, *array.shape[1:]), value, array.dtype)
        return np.concatenate([array, tail])

    return Signal(pad(signal.code, code), pad(signal.values, junk), pad(signal.age_h, junk), pad(signal.seen, False))


@settings(max_examples=25, deadline=None)
@given(junk=JUNK, extra=st.integers(1, 4), code=st.integers(-3, 400), seed=st.integers(0, 50))
def test_what_stands_in_an_unseen_slot_cannot_move_a_logit(
    fusion: FusionModel, junk: float, extra: int, code: int, seed: int
) -> None:
    plain = make_input(fusion.spec, seed, films=1)
    signals = {
        name: padded(s, 1 if name == "imaging" else extra, junk, code) if name != "context" else s
        for name, s in plain.signals.items()
    }
    np.testing.assert_allclose(logits(fusion, FusionInput(signals)), logits(fusion, plain), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seeds=st.lists(st.integers(0, 50), min_size=2, max_size=5), data=st.data())
def test_a_batch_gives_the_same_logits_as_its_rows_in_any_order(
    fusion: FusionModel, seeds: list[int], data: st.DataObject
) -> None:
    patterns = [data.draw(st.sampled_from(PATTERNS)) for _ in seeds]
    rows = [
        make_input(fusion.spec, s, seen=p, results=3 + i) for i, (s, p) in enumerate(zip(seeds, patterns, strict=True))
    ]
    together = logits(fusion, *rows)
    np.testing.assert_allclose(together, np.concatenate([logits(fusion, r) for r in rows]), atol=1e-5)
    np.testing.assert_allclose(logits(fusion, *rows[::-1]), together[::-1], atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100))
def test_the_order_of_results_means_nothing(fusion: FusionModel, seed: int) -> None:
    plain = make_input(fusion.spec, seed)
    order = np.random.default_rng(seed).permutation(7)
    labs = plain.signals["labs"]
    shuffled = Signal(labs.code[order], labs.values[order], labs.age_h[order], labs.seen[order])
    mixed = FusionInput({**plain.signals, "labs": shuffled})
    np.testing.assert_allclose(logits(fusion, mixed), logits(fusion, plain), atol=1e-5)


@pytest.mark.parametrize("seen", PATTERNS, ids=lambda p: "+".join(sorted(p)) or "nothing")
def test_every_missing_pattern_gives_a_number(fusion: FusionModel, seen: frozenset[str]) -> None:
    inputs = make_input(fusion.spec, 3, seen=seen)
    assert inputs.present() == seen
    assert np.isfinite(logits(fusion, inputs)).all()


def test_a_patient_of_whom_nothing_is_known_gets_a_number_too(fusion: FusionModel) -> None:
    nothing = make_input(fusion.spec, 3, seen=frozenset())
    assert np.isfinite(logits(fusion, without(nothing, "context"))).all()


def test_a_modality_a_target_was_not_trained_on_cannot_move_its_logit(fusion: FusionModel) -> None:
    one, other = make_input(fusion.spec, 1), make_input(fusion.spec, 2)
    names = fusion.spec.target_names()
    mixed = FusionInput({**one.signals, "labs": other.signals["labs"], "genomics": other.signals["genomics"]})
    before, after = logits(fusion, one)[0], logits(fusion, mixed)[0]
    assert before[names.index("film")] == pytest.approx(after[names.index("film")], abs=1e-6)
    assert before[names.index("both")] != pytest.approx(after[names.index("both")], abs=1e-4)


def test_masking_before_the_encoders_and_after_them_is_the_same(fusion: FusionModel) -> None:
    inputs = make_input(fusion.spec, 4)
    with torch.inference_mode():
        encoded = fusion.encode(to_batch(collate([inputs])))
        after = fusion.fuse(show_only(encoded, ("labs", "history"))).total.numpy()
    before = logits(fusion, without(without(inputs, "imaging"), "genomics"))
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_before_training_the_answer_is_the_sum_of_what_each_modality_says(spec: InputSpec, preset: Preset) -> None:
    torch.manual_seed(1)
    fresh = FusionModel(spec, preset).eval()
    with torch.inference_mode():
        out = fresh(to_batch(collate([make_input(spec, 5)])))
    total = fresh.bias + torch.stack(list(out.parts.values())).sum(dim=0)
    torch.testing.assert_close(out.total, total)
    assert float(out.residual.abs().max()) == 0.0


def test_one_signal_alone_has_no_residual_and_two_have_one(fusion: FusionModel) -> None:
    alone = without(make_input(fusion.spec, 6, seen=frozenset({"imaging"})), "context")
    two = make_input(fusion.spec, 6, seen=frozenset({"imaging", "labs"}))
    with torch.inference_mode():
        residual = [fusion(to_batch(collate([i]))).residual.abs().max() for i in (alone, two)]
    assert float(residual[0]) == 0.0
    assert float(residual[1]) > 0.0


def test_the_film_before_is_read_with_its_own_slot_and_changes_what_fusion_says(fusion: FusionModel) -> None:
    inputs = make_input(fusion.spec, 7, seen=frozenset({"imaging"}))
    films = inputs.signals["imaging"]
    swapped = Signal(films.code[::-1].copy(), films.values[::-1].copy(), films.age_h, films.seen)
    assert not np.allclose(logits(fusion, inputs), logits(fusion, FusionInput({**inputs.signals, "imaging": swapped})))


@pytest.mark.parametrize(("name", "low", "high"), [("small", 2.0e6, 5.0e6), ("tiny", 0.2e6, 1.0e6)])
def test_presets_have_the_size_their_use_allows(spec: InputSpec, name: str, low: float, high: float) -> None:
    preset = load_preset(name)
    model = FusionModel(spec, preset)
    assert low < sum(p.numel() for p in model.parameters()) < high


def test_every_signal_has_an_encoder_and_every_encoder_a_signal(fusion: FusionModel) -> None:
    assert set(fusion.signals) == set(SIGNALS)


@pytest.fixture(scope="module")
def fusion(spec: InputSpec, preset: Preset) -> FusionModel:
    """As the fixture `model`, made once: hypothesis runs many examples on it and none changes it."""
    torch.manual_seed(5)
    model = FusionModel(spec, preset).eval()
    with torch.no_grad():
        model.readout.normal_(generator=torch.Generator().manual_seed(6))
        for absent in model.absent.values():
            absent.normal_(generator=torch.Generator().manual_seed(8))
        for head in model.heads.values():
            head.weight.normal_(generator=torch.Generator().manual_seed(9))
    return model
