"""A patient's inputs as an answer may rest on them: of an age it was trained for, and of numbers only."""

from __future__ import annotations

import numpy as np

from models.card import TargetCard
from models.contract import FusionInput, Signal


def outside(card: TargetCard, inputs: FusionInput) -> str | None:
    """Why the patient's age keeps the target from answering, if it does. An unknown age is taken for an adult's."""
    context = inputs.signals["context"]
    youngest, oldest = card.ages
    known = bool(context.seen[0]) and int(context.code[0]) == 1
    if not known:
        return "The age is not known, and this answers for children only." if youngest < 18 and oldest else None
    age = round(float(context.values[0, 0]) * 10.0, 2)  # 1.8 decades in float32 are 17.9999995 years
    if age < youngest:
        return f"Trained on patients of {youngest} years and over."
    if oldest is not None and age >= oldest + 1:
        return f"Trained on patients of {youngest} to {oldest} years."
    return None


def finite(inputs: FusionInput) -> FusionInput:
    """The input with every slot unseen that holds something other than numbers (films are looked at by the gate)."""
    signals = dict(inputs.signals)
    for name, s in inputs.signals.items():
        finite = np.isfinite(s.age_h)
        if name != "imaging":
            finite &= np.isfinite(s.values).all(axis=1)
        if not finite[s.seen].all():
            signals[name] = Signal(s.code, s.values, s.age_h, s.seen & finite)
    return FusionInput(signals, films=inputs.films)


def without_pixels(inputs: FusionInput) -> FusionInput:
    """The input without the films' pixels, whose encodings are at hand."""
    imaging = inputs.signals["imaging"]
    slim = np.zeros((len(imaging.seen), 1, 1, 1), np.float32)
    return FusionInput({**inputs.signals, "imaging": Signal(imaging.code, slim, imaging.age_h, imaging.seen)})
