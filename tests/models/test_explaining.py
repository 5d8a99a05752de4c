"""Maps of what a score rests on: asked of an engine that has patients to answer first, and given up in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.answers import Answerer
from models.checkpoint import Stored, load_checkpoint
from models.contract import FilmExplainer, FusionInput, empty_signal
from models.places import explain
from models.serving import MAPS, Engine, EngineBusy, EngineClosed, EngineTimeout

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "models" / "chest-generated"
WIDE_S = 60.0


class Gated(Answerer):
    """The real one; the first map stops after its first patches until `on` is set."""

    def __init__(self, stored: Stored) -> None:
        super().__init__(stored)
        self.begun, self.on = threading.Event(), threading.Event()
        self.done: list[str] = []

    def explain(
        self, pixels: NDArray[np.float32], finding: str, between: Callable[[], None] = lambda: None
    ) -> NDArray[np.float32]:
        def stopped() -> None:
            self.begun.set()
            assert self.on.wait(WIDE_S)
            between()

        found = super().explain(pixels, finding, stopped)
        self.done.append("map")
        return found


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small products on two busy cores wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stored() -> Stored:
    return load_checkpoint(FOLDER)


@pytest.fixture
def gated(stored: Stored) -> Iterator[tuple[Engine, Gated]]:
    answerer = Gated(stored)
    with Engine(answerer, warm_up=False) as engine:
        yield engine, answerer
        answerer.on.set()


def film(size: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((1, size, size), dtype=np.float32)


def nobody(engine: Engine) -> FusionInput:
    names = ("imaging", "labs", "history", "genomics", "context")
    return FusionInput({name: empty_signal(engine.spec, name) for name in names})


def test_an_engine_gives_the_map_that_its_model_gives(stored: Stored) -> None:
    with Engine(Answerer(stored), warm_up=False) as engine:
        assert isinstance(engine, FilmExplainer)
        pixels = film(engine.spec.image.size)
        found = engine.explain(pixels, "effusion", timeout=WIDE_S)
    assert np.array_equal(found, explain(stored.model, pixels, "effusion"))
    assert found.sum() == pytest.approx(1.0, abs=1e-4)


def test_a_patient_who_comes_while_a_map_is_worked_out_does_not_wait_for_its_end(gated: tuple[Engine, Gated]) -> None:
    engine, answerer = gated
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(engine.explain, film(engine.spec.image.size), "effusion", timeout=WIDE_S)
        assert answerer.begun.wait(WIDE_S)
        waiting = pool.submit(engine.assess, nobody(engine), timeout=WIDE_S)
        waiting.add_done_callback(lambda _: answerer.done.append("patient"))
        while not engine._waiting:
            assert not waiting.done()
        answerer.on.set()
        asked.result(WIDE_S)
    assert answerer.done == ["patient", "map"]


def test_a_map_that_is_late_is_given_up_and_the_engine_goes_on(gated: tuple[Engine, Gated]) -> None:
    engine, answerer = gated
    with pytest.raises(EngineTimeout):
        engine.explain(film(engine.spec.image.size), "effusion", timeout=0.05)
    answerer.on.set()
    assert engine.assess(nobody(engine), timeout=WIDE_S).seen == frozenset()
    assert answerer.done == []


def test_only_a_few_maps_may_be_asked_for_at_once_and_a_closed_engine_makes_none(gated: tuple[Engine, Gated]) -> None:
    engine, answerer = gated
    pixels = film(engine.spec.image.size)
    with ThreadPoolExecutor(1 + MAPS) as pool:
        first = pool.submit(engine.explain, pixels, "effusion", timeout=WIDE_S)
        assert answerer.begun.wait(WIDE_S)
        more = [pool.submit(engine.explain, pixels, "effusion", timeout=WIDE_S) for _ in range(MAPS)]
        while len(engine._asked) < MAPS:
            assert not any(m.done() for m in more)
        with pytest.raises(EngineBusy):
            engine.explain(pixels, "effusion", timeout=WIDE_S)
        closing = threading.Thread(target=engine.close)
        closing.start()
        for one in more:
            with pytest.raises(EngineClosed):
                one.result(WIDE_S)
        answerer.on.set()
        with pytest.raises(EngineClosed):
            first.result(WIDE_S)
        closing.join(WIDE_S)
    with pytest.raises(EngineClosed):
        engine.explain(pixels, "effusion", timeout=WIDE_S)


@pytest.mark.parametrize(("size", "finding"), [(8, "effusion"), (96, "fracture")])
def test_a_film_or_a_finding_that_is_not_the_models_own_is_refused(stored: Stored, size: int, finding: str) -> None:
    with Engine(Answerer(stored), warm_up=False) as engine, pytest.raises(ValueError, match="film"):
        engine.explain(film(size), finding, timeout=WIDE_S)
