"""A small model with every step of the degrade order: a logistic sum over laboratory results and history."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cds_service.thinking import DEPTHS
from models.contract import (
    Assessment,
    Depth,
    EncodedFilm,
    Estimate,
    FusionInput,
    ImageSpec,
    InputSpec,
    LabFeature,
    Target,
)
from models.serving import EngineTimeout

TARGET = Target("worse", "worsening", ("labs", "history"), "tests")
SPEC = InputSpec(
    image=ImageSpec(size=8),
    labs=(LabFeature("creatinine", "mg/dL", 1.0, 0.5), LabFeature("potassium", "mmol/L", 4.0, 0.5)),
    history=("ckd",),
    genomics=(),
    targets=(TARGET,),
)


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


@dataclass
class WholeModel:
    """An engine as the contract has it: everything or nothing.

    costs_s  what each depth takes; `pass_time` lets that time pass
    fault    raised instead of an answer, or a number to answer with
    """

    pass_time: Callable[[float], None]
    costs_s: Mapping[Depth, float]
    fault: Exception | float | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def spec(self) -> InputSpec:
        return SPEC

    def assess(self, inputs: FusionInput, *, timeout: float, targets: Sequence[str] | None = None) -> Assessment:
        return self.answer(inputs, timeout, "explained")

    def answer(self, inputs: FusionInput, timeout: float, depth: Depth) -> Assessment:
        self.asked.append(depth)
        cost = self.costs_s[depth]
        self.pass_time(min(cost, timeout))
        if cost > timeout:
            raise EngineTimeout("the model did not answer in time")
        if isinstance(self.fault, Exception):
            raise self.fault
        labs = inputs.signals["labs"]
        alone = float(labs.values[labs.seen][:, 0].sum())
        fused = 0.0 if depth == "late" else 0.1 * alone
        p = self.fault if self.fault is not None else sigmoid(alone + fused)
        without = {"labs": 0.5} if depth == "explained" else {}
        estimate = Estimate(TARGET, p, None, without, frozenset({"labs"}))
        return Assessment("small@1", "0" * 64, "generated", {"worse": estimate}, inputs.present())


@dataclass
class SteppedModel(WholeModel):
    """An engine that can do with less."""

    @property
    def depths(self) -> frozenset[Depth]:
        return frozenset(DEPTHS)

    def assess(
        self, inputs: FusionInput, *, timeout: float, targets: Sequence[str] | None = None, depth: Depth = "explained"
    ) -> Assessment:
        return self.answer(inputs, timeout, depth)


class MeanGrey:
    """A small model that reads films: their mean grey level."""

    spec: InputSpec = SPEC
    encoder = "e" * 64

    def assess(self, inputs: FusionInput, *, timeout: float, targets: Sequence[str] | None = None) -> Assessment:
        raise AssertionError("nobody asks for an assessment here")

    def encode(self, pixels: NDArray[np.float32], *, timeout: float) -> EncodedFilm:
        return EncodedFilm(self.encoder, np.full((2, 1), pixels.mean(), np.float32), None)
