"""The engine under load, late callers and bad patients; and what an assessment says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.answers import Answerer
from models.card import Card
from models.checkpoint import Stored, load_checkpoint
from models.contract import MODALITIES, Assessment, Depth, FusionInput, Signal, collate, without
from models.data import Shard
from models.encoders import to_batch
from models.serving import Engine, EngineBusy, EngineClosed, EngineTimeout


class SlowAnswerer(Answerer):
    """The real one, after waiting for a gate to open; keeps the order in which patients were taken."""

    def __init__(self, stored: Stored) -> None:
        super().__init__(stored)
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.order: list[float] = []

    def answer(self, patients: Sequence[Any], *, remember: bool = True, depth: Depth = "explained") -> list[Assessment]:
        if remember:
            self.entered.set()
            assert self.opened.wait(20)
            self.order += [float(inputs.signals["context"].values[0, 0]) for inputs, _ in patients]
        return super().answer(patients, remember=remember, depth=depth)


@pytest.fixture(scope="module")
def stored(checkpoint: tuple[Path, Card]) -> Stored:
    """With every target usable and the gate open: what is tested here is the engine, not 64 patients' worth of it."""
    found = load_checkpoint(checkpoint[0])
    return replace(found, card=usable(found.card), gate=None)


def usable(card: Card) -> Card:
    import msgspec

    targets = {n: msgspec.structs.replace(t, standing="usable") for n, t in card.targets.items()}
    return msgspec.structs.replace(card, targets=targets)


@pytest.fixture(scope="module")
def engine(stored: Stored) -> Iterator[Engine]:
    with Engine(Answerer(stored)) as engine:
        yield engine


@pytest.fixture(scope="module")
def patients(shards: dict[str, Shard]) -> list[FusionInput]:
    return [shards["generated"].inputs(i) for i in range(24)]


@pytest.fixture(scope="module")
def complete(patients: list[FusionInput]) -> FusionInput:
    """A patient with all four modalities."""
    return next(p for p in patients if p.present() == frozenset(MODALITIES))


def of_age(inputs: FusionInput, years: float) -> FusionInput:
    values = np.array([[years / 10.0, 0.0, 1.0]], np.float32)
    context = Signal(np.array([1]), values, np.zeros(1, np.float32), np.ones(1, np.bool_))
    return FusionInput({**inputs.signals, "context": context})


def answered(assessment: Assessment) -> dict[str, float]:
    return {n: e.probability for n, e in assessment.estimates.items() if e.probability is not None}


def test_masking_a_modality_gives_the_answer_for_a_patient_who_never_had_it(
    engine: Engine, complete: FusionInput
) -> None:
    whole = engine.assess(complete, timeout=60)
    compared = 0
    for target, estimate in whole.estimates.items():
        for modality, probability in estimate.without.items():
            alone = engine.assess(without(complete, modality), timeout=60).estimates[target]
            assert probability == pytest.approx(alone.probability, abs=1e-4)
            compared += 1
    assert compared >= 2


def test_an_estimate_rests_only_on_what_was_seen_and_trained_for_it(engine: Engine, complete: FusionInput) -> None:
    found = engine.assess(without(complete, "history"), timeout=60)
    assert found.seen == {"imaging", "labs", "genomics"}
    assert found.estimates["deterioration_24h"].rested_on == {"imaging", "labs"}
    assert found.estimates["finding.opacity"].rested_on == {"imaging"}


def test_the_interval_holds_the_probability(engine: Engine, patients: list[FusionInput]) -> None:
    seen = 0
    for patient in patients[:8]:
        for estimate in engine.assess(patient, timeout=60).estimates.values():
            if estimate.probability is not None:
                assert estimate.interval is not None
                assert estimate.interval[0] <= estimate.probability <= estimate.interval[1]
                seen += 1
    assert seen > 8


def test_a_film_target_without_a_film_abstains_and_says_why(engine: Engine, complete: FusionInput) -> None:
    found = engine.assess(without(complete, "imaging"), timeout=60).estimates["finding.opacity"]
    assert found.probability is None
    assert found.abstained == "No chest film to go by."


def test_a_child_gets_no_answer_made_for_adults(engine: Engine, complete: FusionInput) -> None:
    child = engine.assess(of_age(complete, 17.0), timeout=60)
    assert not answered(child)
    assert {e.abstained for e in child.estimates.values()} == {"Trained on patients of 18 years and over."}
    assert answered(engine.assess(of_age(complete, 18.0), timeout=60))


def test_the_film_before_is_assessed_alone_where_there_are_two(engine: Engine, patients: list[FusionInput]) -> None:
    two = next(p for p in patients if p.signals["imaging"].seen.sum() == 2)
    imaging = two.signals["imaging"]
    only = Signal(imaging.code, imaging.values, imaging.age_h, np.array([False, True]))
    alone = FusionInput({**two.signals, "imaging": only})
    for modality in ("labs", "history", "genomics"):
        alone = without(alone, modality)
    prior = engine.assess(two, timeout=60).prior
    expected = engine.assess(alone, timeout=60)
    assert prior["finding.opacity"].probability == pytest.approx(expected.estimates["finding.opacity"].probability)
    assert set(prior) == {t.name for t in engine.spec.targets if "imaging" in t.modalities}
    assert not expected.prior


def test_only_the_targets_asked_for_are_answered_and_unknown_ones_are_refused(
    engine: Engine, complete: FusionInput
) -> None:
    found = engine.assess(complete, timeout=60, targets=["finding.opacity"])
    assert set(found.estimates) == {"finding.opacity"}
    with pytest.raises(ValueError, match=r"no target 'finding\.dragon'"):
        engine.assess(complete, timeout=60, targets=["finding.dragon"])


def test_patients_answered_together_get_what_they_get_alone(engine: Engine, patients: list[FusionInput]) -> None:
    alone = [answered(engine.assess(p, timeout=60)) for p in patients]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda p: answered(engine.assess(p, timeout=30)), patients))
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_an_input_laid_out_for_another_model_is_refused_before_it_reaches_the_thread(
    engine: Engine, complete: FusionInput
) -> None:
    imaging = complete.signals["imaging"]
    larger = Signal(imaging.code, np.zeros((len(imaging.code), 1, 64, 64), np.float32), imaging.age_h, imaging.seen)
    with pytest.raises(ValueError, match="imaging"):
        engine.assess(FusionInput({**complete.signals, "imaging": larger}), timeout=60)
    labs = complete.signals["labs"]
    unknown = Signal(labs.code + 1000, labs.values, labs.age_h, labs.seen)
    with pytest.raises(ValueError, match="labs holds a code"):
        engine.assess(FusionInput({**complete.signals, "labs": unknown}), timeout=60)
    missing = {n: s for n, s in complete.signals.items() if n != "genomics"}
    with pytest.raises(ValueError, match="genomics is missing"):
        engine.assess(FusionInput(missing), timeout=60)


def test_a_film_that_is_not_all_numbers_is_not_used_and_harms_nobody(
    engine: Engine, complete: FusionInput, patients: list[FusionInput]
) -> None:
    imaging = complete.signals["imaging"]
    spoilt = Signal(imaging.code, np.full_like(imaging.values, np.nan), imaging.age_h, imaging.seen)
    found = engine.assess(FusionInput({**complete.signals, "imaging": spoilt}), timeout=60)
    assert found.unused == {"imaging": "its pixels are not all numbers"}
    assert found.estimates["finding.opacity"].abstained == "The film was not used: its pixels are not all numbers."
    assert found.estimates["deterioration_24h"].rested_on == {"labs", "history"}
    assert answered(engine.assess(patients[1], timeout=60))


def test_a_result_that_is_not_a_number_counts_as_not_there(engine: Engine, complete: FusionInput) -> None:
    labs = complete.signals["labs"]
    values = labs.values.copy()
    values[0] = np.nan
    broken = Signal(labs.code, values, labs.age_h, labs.seen)
    seen = labs.seen.copy()
    seen[0] = False
    gone = Signal(labs.code, labs.values, labs.age_h, seen)
    found, expected = (
        answered(engine.assess(FusionInput({**complete.signals, "labs": s}), timeout=60)) for s in (broken, gone)
    )
    assert found == pytest.approx(expected)
    assert found


def test_an_answer_that_is_not_a_number_is_no_answer(checkpoint: tuple[Path, Card], complete: FusionInput) -> None:
    broken = load_checkpoint(checkpoint[0])
    column = broken.card.spec.target_names().index("deterioration_24h")
    with torch.no_grad():
        broken.model.bias[column] = float("nan")
    with Engine(Answerer(replace(broken, card=usable(broken.card), gate=None))) as engine:
        found = engine.assess(complete, timeout=60).estimates
        assert found["deterioration_24h"].probability is None
        assert found["deterioration_24h"].abstained == "The model's answer was not a number."
        assert found["finding.opacity"].probability is not None


def test_a_full_queue_says_busy_at_once(stored: Stored, patients: list[FusionInput]) -> None:
    slow = SlowAnswerer(stored)
    with Engine(slow, queue=2, micro_batch=1) as engine, ThreadPoolExecutor(3) as pool:
        running = pool.submit(engine.assess, patients[0], timeout=20)
        assert slow.entered.wait(60)
        queued = [pool.submit(engine.assess, p, timeout=20) for p in patients[1:3]]
        while len(engine._waiting) < 2:
            time.sleep(0.01)
        begun = time.monotonic()
        with pytest.raises(EngineBusy):
            engine.assess(patients[3], timeout=20)
        assert time.monotonic() - begun < 5
        slow.opened.set()
        assert all(f.result(60).estimates for f in (running, *queued))


def test_a_caller_waits_no_longer_than_it_may(stored: Stored, patients: list[FusionInput]) -> None:
    slow = SlowAnswerer(stored)
    with Engine(slow) as engine:
        begun = time.monotonic()
        with pytest.raises(EngineTimeout):
            engine.assess(patients[0], timeout=0.2)
        assert 0.15 < time.monotonic() - begun < 10
        with pytest.raises(EngineTimeout):
            engine.assess(patients[0], timeout=0.0)
        slow.opened.set()
        assert engine.assess(patients[1], timeout=20).estimates


def test_the_most_urgent_goes_first_and_the_late_are_not_computed(stored: Stored, patients: list[FusionInput]) -> None:
    slow = SlowAnswerer(stored)
    with Engine(slow, micro_batch=1) as engine, ThreadPoolExecutor(4) as pool:
        pool.submit(engine.assess, of_age(patients[0], 20), timeout=20)
        assert slow.entered.wait(60)
        late = pool.submit(engine.assess, of_age(patients[1], 30), timeout=0.2)
        patient = pool.submit(engine.assess, of_age(patients[2], 40), timeout=18)
        hurried = pool.submit(engine.assess, of_age(patients[3], 50), timeout=9)
        with pytest.raises(EngineTimeout):
            late.result(5)
        slow.opened.set()
        assert patient.result(60).estimates
        assert hurried.result(60).estimates
    assert slow.order == [2.0, 5.0, 4.0]


def test_one_patient_that_breaks_the_model_breaks_nobody_elses_answer(
    stored: Stored, patients: list[FusionInput]
) -> None:
    class Brittle(SlowAnswerer):
        def answer(
            self, patients: Sequence[Any], *, remember: bool = True, depth: Depth = "explained"
        ) -> list[Assessment]:
            if any(inputs.signals["context"].values[0, 0] == 9.0 for inputs, _ in patients):
                self.entered.set()
                self.opened.wait(20)
                raise RuntimeError("the device is gone")
            return super().answer(patients, remember=remember, depth=depth)

    brittle = Brittle(stored)
    with Engine(brittle) as engine, ThreadPoolExecutor(4) as pool:
        blocker = pool.submit(engine.assess, of_age(patients[0], 20), timeout=20)
        assert brittle.entered.wait(10)
        bad = pool.submit(engine.assess, of_age(patients[1], 90), timeout=20)
        good = pool.submit(engine.assess, of_age(patients[2], 40), timeout=20)
        while len(engine._waiting) < 2:
            time.sleep(0.01)
        brittle.opened.set()
        assert blocker.result(60).estimates
        assert good.result(60).estimates
        with pytest.raises(RuntimeError, match="device is gone"):
            bad.result(60)
        assert engine.ready


def test_a_closed_engine_takes_nobody_and_lets_nobody_wait(stored: Stored, patients: list[FusionInput]) -> None:
    slow = SlowAnswerer(stored)
    engine = Engine(slow, micro_batch=1)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(engine.assess, patients[0], timeout=20)
        assert slow.entered.wait(60)
        waiting = pool.submit(engine.assess, patients[1], timeout=20)
        while not engine._waiting:
            time.sleep(0.01)
        closing = threading.Thread(target=engine.close)
        closing.start()
        with pytest.raises(EngineClosed):
            waiting.result(60)
        slow.opened.set()
        closing.join(60)
        assert running.result(60).estimates
    assert not engine.ready
    with pytest.raises(EngineClosed):
        engine.assess(patients[0], timeout=1)


def test_a_film_is_encoded_once_however_often_it_is_asked_about(stored: Stored, complete: FusionInput) -> None:
    answerer = Answerer(stored)
    encoder = stored.model.image_encoder()
    assert encoder is not None
    counted: list[int] = []
    hook = encoder.trunk.register_forward_hook(lambda _m, args, _o: counted.append(len(args[0])))
    try:
        for _ in range(3):
            answerer.answer([(complete, ("finding.opacity",)), (without(complete, "labs"), ("finding.opacity",))])
    finally:
        hook.remove()
    assert sum(counted) == complete.signals["imaging"].seen.sum()


def test_a_loaded_engine_is_warm_and_names_what_it_runs(checkpoint: tuple[Path, Card]) -> None:
    with Engine.load(checkpoint[0], device="cpu") as engine:
        assert (engine.name, engine.tier) == ("test@0", "generated")
        assert engine.digest == checkpoint[1].weights.sha256
        assert engine.ready


def test_asked_for_less_the_engine_says_the_same_probability_and_leaves_out_what_was_not_asked(
    engine: Engine, patients: list[FusionInput]
) -> None:
    two_films = next(
        p for p in patients if p.present() == frozenset(MODALITIES) and p.signals["imaging"].seen.sum() > 1
    )
    whole = engine.assess(two_films, timeout=20.0)
    ranked = engine.assess(two_films, timeout=20.0, depth="ranked")
    fused = engine.assess(two_films, timeout=20.0, depth="fused")
    assert any(e.without for e in whole.estimates.values())
    assert whole.prior.keys() == ranked.prior.keys() != set()
    assert not fused.prior
    for less in (ranked, fused):
        for name, estimate in less.estimates.items():
            assert not estimate.without
            assert estimate.probability == pytest.approx(whole.estimates[name].probability, abs=1e-5)


def test_late_is_the_sum_of_what_each_modality_says_and_the_fusion_term_is_left_out(
    stored: Stored, complete: FusionInput
) -> None:
    batch = to_batch(collate([complete]))
    with torch.inference_mode():
        logits = stored.model(batch)
        late = stored.model.fuse(stored.model.encode(batch), late=True)
    torch.testing.assert_close(late.total, logits.total - logits.residual)
    (answer,) = Answerer(stored).answer([(complete, stored.card.spec.target_names())], depth="late")
    for column, (name, estimate) in enumerate(answer.estimates.items()):
        found = stored.card.calibration.find(name, estimate.rested_on)
        if estimate.probability is not None and found is not None:
            assert estimate.probability == pytest.approx(found.probability(float(late.total[0, column])), abs=1e-5)
