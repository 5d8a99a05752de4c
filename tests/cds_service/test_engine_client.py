"""Models in a process of their own, as a web worker sees them: the same answers, and no engine is no error."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cds_service.engine_client import EngineGone, EngineLink, RemoteEngine
from cds_service.engine_process import EngineServer
from cds_service.engine_wire import LENGTH, BadFrame, Follow, Here, receive, said, send
from cds_service.thinking import SteppedAssessor
from models.contract import EngineBusy, EngineTimeout, FilmEncoder, FilmExplainer, FusionInput
from models.registry import Registry, vectors
from models.rollout import ServedModels
from models.serving import Engine

MODELS = Path(__file__).resolve().parent.parent.parent / "manifests/models"
NAME = "chest-generated"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(MODELS / NAME, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def patient(engine: Engine) -> FusionInput:
    """With every modality, made up."""
    return vectors(engine.spec)[0]


@pytest.fixture
def served(engine: Engine, tmp_path: Path) -> Iterator[tuple[Path, ServedModels]]:
    path = tmp_path / "engine.sock"
    models = ServedModels(Registry(MODELS), {NAME: engine})
    server = EngineServer(path, models)
    yield path, models
    server.close()


@pytest.fixture
def link(served: tuple[Path, ServedModels]) -> Iterator[EngineLink]:
    link = EngineLink(served[0])
    assert link.wait(30)
    yield link
    link.close()


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_answer_over_the_socket_is_the_engines_own_to_the_last_digit(
    link: EngineLink, engine: Engine, patient: FusionInput
) -> None:
    far = link[NAME]
    for depth in ("explained", "late"):
        assert far.assess(patient, timeout=30, depth=depth) == engine.assess(patient, timeout=30, depth=depth)
    some = engine.spec.target_names()[:2]
    assert set(far.assess(patient, timeout=30, targets=some).estimates) == set(some)


def test_a_worker_knows_of_the_engine_what_it_needs_before_it_asks(link: EngineLink, engine: Engine) -> None:
    far = link[NAME]
    assert isinstance(far, SteppedAssessor)
    assert isinstance(far, FilmEncoder)
    assert far.spec == engine.spec
    assert (far.name, far.digest, far.device, far.encoder) == (
        engine.name,
        engine.digest,
        engine.device,
        engine.encoder,
    )
    assert far.ready


def test_a_film_that_was_encoded_over_the_socket_is_taken_by_the_engine(
    link: EngineLink, engine: Engine, patient: FusionInput
) -> None:
    pixels = patient.signals["imaging"].values[0]
    film, same = link[NAME].encode(pixels, timeout=30), engine.encode(pixels, timeout=30)
    assert (film.encoder, film.refusal) == (same.encoder, same.refusal)
    assert np.array_equal(film.features, same.features)
    encoded = replace(patient, films={0: film})
    assert link[NAME].assess(encoded, timeout=30) == engine.assess(encoded, timeout=30)


def test_a_map_of_a_finding_over_the_socket_is_the_engines_own(
    link: EngineLink, engine: Engine, patient: FusionInput
) -> None:
    pixels = patient.signals["imaging"].values[0]
    finding = next(t.removeprefix("finding.") for t in engine.spec.target_names() if t.startswith("finding."))
    assert isinstance(link[NAME], FilmExplainer)
    far, near = (e.explain(pixels, finding, timeout=60) for e in (link[NAME], engine))
    assert far.shape == pixels.shape[1:]
    assert np.array_equal(far, near)


def test_what_the_engine_refuses_is_refused_in_its_own_words(link: EngineLink, patient: FusionInput) -> None:
    with pytest.raises(ValueError, match="has no target 'nonsense'"):
        link[NAME].assess(patient, timeout=30, targets=["nonsense"])
    with pytest.raises(ValueError, match=r"a film of \(1, 3, 3\)"):
        link[NAME].encode(np.zeros((1, 3, 3), np.float32), timeout=30)
    with pytest.raises(EngineTimeout):
        link[NAME].assess(patient, timeout=0.0)


def test_an_engine_that_went_is_busy_at_once_and_another_in_its_place_is_found(
    engine: Engine, patient: FusionInput, tmp_path: Path
) -> None:
    path, models = tmp_path / "engine.sock", ServedModels(Registry(MODELS), {NAME: engine})
    before = EngineServer(path, models)
    link = EngineLink(path)
    assert link.wait(30)
    far = link[NAME]
    far.assess(patient, timeout=30)
    before.close()
    until(lambda: not far.ready)
    with pytest.raises(EngineGone) as gone:
        far.assess(patient, timeout=30)
    assert isinstance(gone.value, EngineBusy)
    after = EngineServer(path, models)
    until(lambda: far.ready)
    assert far.assess(patient, timeout=30) == engine.assess(patient, timeout=30)
    link.close()
    after.close()


def test_a_call_keeps_the_version_it_began_with_when_another_takes_over(
    served: tuple[Path, ServedModels], link: EngineLink, engine: Engine, patient: FusionInput
) -> None:
    """What `turn_to` does when a version is activated, with the same weights under another name's digest."""
    _, models = served
    began = link[NAME]
    with Engine.load(MODELS / "chest-open", device="cpu") as newer:
        models._engines[NAME] = newer
        models._retired.append((float("inf"), engine))
        until(lambda: link[NAME].digest == newer.digest)
        assert began.assess(patient, timeout=30).digest == engine.digest
        models._engines[NAME] = engine
        models._retired.clear()


def test_noise_on_the_socket_ends_that_connection_and_nothing_else(
    served: tuple[Path, ServedModels], link: EngineLink, patient: FusionInput
) -> None:
    for noise in (b"\xff\xff\xff\xff", LENGTH.pack(3) + b"abc", LENGTH.pack(1) + b"\xc0"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(served[0]))
            sock.sendall(noise)
            sock.settimeout(30)
            assert sock.recv(1) == b""
    assert link[NAME].assess(patient, timeout=30).model.startswith(NAME)


def test_whoever_follows_hears_every_second_how_old_the_batch_under_way_is(served: tuple[Path, ServedModels]) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(served[0]))
        send(sock, Follow())
        heard = [receive(sock, said, time.monotonic() + 30) for _ in range(2)]
    assert all(isinstance(here, Here) and here.busy_s == 0.0 for here in heard)


def test_a_frame_that_breaks_off_is_told_from_one_that_is_late() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(LENGTH.pack(10) + b"abc")
        with pytest.raises(TimeoutError):
            receive(near, said, time.monotonic() + 0.05)
        far.close()
        with pytest.raises(BadFrame):
            receive(near, said)


def test_an_engine_of_a_link_that_was_never_told_is_not_there(tmp_path: Path) -> None:
    link = EngineLink(tmp_path / "nobody.sock")
    assert len(link) == 0
    assert not link.connected
    assert link.get(NAME) is None
    link.close()


def test_what_is_looked_up_is_typed_by_the_contract(link: EngineLink) -> None:
    assert isinstance(link[NAME], RemoteEngine)
    assert list(link) == [NAME]
