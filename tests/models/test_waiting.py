"""Films that are encoded ahead of any order stand back while patients come."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from models.registry import vectors
from models.serving import Engine
from models.waiting import Rest

CHECKPOINT = Path(__file__).resolve().parent.parent.parent / "manifests/models/chest-generated"


def test_while_no_patient_comes_a_film_follows_another_at_once() -> None:
    rest = Rest()
    assert rest.over
    rest.film_took(60.0)
    assert rest.over


def test_a_rest_is_twenty_nine_times_what_the_film_took_and_never_longer_than_it_may_be() -> None:
    """A thirtieth of the time for the film leaves twenty-nine for patients."""
    for took_s, most_s, at_least_s in ((0.01, 5.0, 0.29), (60.0, 0.2, 0.2)):
        rest = Rest(lately_s=3600.0, most_s=most_s)
        rest.patient_came()
        began = time.monotonic()
        rest.film_took(took_s)
        while not rest.over:
            time.sleep(0.001)
        assert time.monotonic() - began >= at_least_s


def test_a_rest_ends_when_patients_stay_away() -> None:
    rest = Rest(lately_s=0.05, most_s=3600.0)
    rest.patient_came()
    rest.film_took(3600.0)
    assert not rest.over
    end = time.monotonic() + 30
    while not rest.over:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_patients_are_answered_while_a_film_rests_and_the_film_comes_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Engine.load(CHECKPOINT, device="cpu") as engine:
        monkeypatch.setattr(engine, "_rest", Rest(lately_s=3600.0, most_s=0.5, share=1e-9))
        patient = vectors(engine.spec)[0]
        pixels = patient.signals["imaging"].values[0]
        engine.assess(patient, timeout=60)
        began = time.monotonic()
        engine.encode(pixels, timeout=60)
        ended: list[float] = []
        film = threading.Thread(target=lambda: (engine.encode(pixels, timeout=60), ended.append(time.monotonic())))
        film.start()
        answered = 0
        while not ended:
            engine.assess(patient, timeout=60)
            answered += 1
        film.join()
        assert answered > 0
        assert ended[0] - began >= 0.5
