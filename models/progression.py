"""How a finding stands against the film before: new, worse, stable, improved or resolved, from two films' encodings.

Factorised: is it there now, was it there before, and if both, in which direction its severity went. Presence is a
function of one film and the direction of a difference, so that exchanging the films exchanges new with resolved and
worse with improved, to the last bit. A finding that is taken to be absent from both films has no course.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from models.contract import Change, Course
from models.gates import summary

Floats = NDArray[np.float64]
COURSES: tuple[Course, ...] = get_args(Course)
REVERSED: dict[Course, Course] = {
    "new": "resolved",
    "worse": "improved",
    "stable": "stable",
    "improved": "worse",
    "resolved": "new",
}
PRESENT = 0.5
"""A course is considered from this probability on that the finding is on either film."""
CONFIDENT = 0.5
"""A course is named only where it is likelier than all others together."""


class CourseNumbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of one finding beside its tensors.

    slope, offset  log-odds of presence = slope * (what the imaging head says) + offset
    persistence    factor on the probability of a change: findings outlast the time between films (1 has no effect)
    band           half width of `stable` on the severity difference; None where no pair with a known direction taught
                   it: worse, stable and improved are then equally likely, and none of them is ever named
    named          whether courses are named at all: shown to beat "no change" on pairs kept apart
    """

    slope: float
    offset: float
    persistence: float
    band: float | None
    named: bool


@dataclass(frozen=True, slots=True)
class Progression:
    """The courses of one model's findings.

    numbers  by finding
    tensors  presence and severity (F, 2 D), by row in the order of `numbers`; centre and scale (2 D,)
    """

    numbers: Mapping[str, CourseNumbers]
    tensors: Mapping[str, NDArray[np.float32]]

    def changes(self, now: NDArray[np.float32], before: NDArray[np.float32]) -> dict[str, Change]:
        """By finding, from the encodings (1 + K, D) of the newer and the older film."""
        (here, there) = (self._film(summary(x[None]))[:, 0] for x in (now, before))
        found: dict[str, Change] = {}
        for row, (name, n) in enumerate(self.numbers.items()):
            p, q = (presence(n, x[0, row]) for x in (here, there))
            joint = joint_probabilities(n, p, q, here[1, row] - there[1, row])
            either = 1.0 - (1.0 - p) * (1.0 - q)
            if either >= PRESENT:
                found[name] = Change(name, _name(joint) if n.named else None, joint)
        return found

    def _film(self, x: Floats) -> Floats:
        """Summaries (N, 2 D) -> (2, N, F): what the imaging head says, and severity."""
        z = (x - self.tensors["centre"]) / self.tensors["scale"]
        return np.stack([x @ self.tensors["presence"].T, z @ self.tensors["severity"].T]).astype(np.float64)

    def films(self, features: NDArray[np.float32]) -> Floats:
        """Encodings (N, 1 + K, D) -> (2, N, F) as in `_film`."""
        return self._film(summary(features)).transpose(0, 1, 2)


def presence(n: CourseNumbers, said: float) -> float:
    return float(1.0 / (1.0 + np.exp(-np.clip(n.slope * said + n.offset, -40.0, 40.0))))


def joint_probabilities(n: CourseNumbers, now: float, before: float, difference: float) -> dict[Course, float]:
    """The five courses given that the finding is on at least one of the films; they sum to 1.

    Every term is written so that exchanging the films exchanges terms and changes no rounding.
    """
    appeared, gone = n.persistence * (now * (1.0 - before)), n.persistence * (before * (1.0 - now))
    both = now * before
    if n.band is None:
        worse = improved = stable = both / 3.0
    else:
        up, down = _above(difference - n.band), _above(-difference - n.band)
        worse, improved, stable = both * up, both * down, both * (1.0 - (up + down))
    total = (appeared + gone) + (worse + improved) + stable
    if total <= 0.0:
        return {"new": 0.0, "worse": 0.0, "stable": 1.0, "improved": 0.0, "resolved": 0.0}
    parts = {"new": appeared, "worse": worse, "stable": stable, "improved": improved, "resolved": gone}
    return {course: part / total for course, part in parts.items()}  # type: ignore[misc]


def _above(x: float) -> float:
    return float(1.0 / (1.0 + np.exp(-np.clip(x, -40.0, 40.0))))


def _name(probabilities: Mapping[Course, float]) -> Course | None:
    best = max(COURSES, key=lambda c: probabilities[c])
    return best if probabilities[best] > CONFIDENT else None


def likeliest(probabilities: Mapping[Course, float]) -> Course:
    """The course with the highest probability, where none may be withheld; a tie is stable, whichever way round."""
    top = max(probabilities.values())
    best = [c for c in COURSES if probabilities[c] == top]
    return best[0] if len(best) == 1 else "stable"


# ---------------------------------------------------------------------------------------------- fitting


def course_of(now: float, before: float) -> Course | None:
    """The course that follows from two sizes (0 absent); None where the finding is on neither film."""
    if now <= 0.0 and before <= 0.0:
        return None
    if before <= 0.0:
        return "new"
    if now <= 0.0:
        return "resolved"
    return "stable" if now == before else "worse" if now > before else "improved"


def fit_direction(differences: Floats, courses: Sequence[Course], *, l2: float = 0.02) -> tuple[Floats, float]:
    """Severity weights (2 D,) and the half width of `stable` by maximum likelihood, on pairs with the finding on both.

    differences (N, 2 D) of standardised summaries, newer less older. The likelihood is that of `joint_probabilities`.
    """
    x = torch.from_numpy(differences)
    wanted = torch.tensor([{"worse": 0, "stable": 1, "improved": 2}[c] for c in courses])
    weights = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    raw = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, raw], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        d, band = x @ weights, F.softplus(raw)
        up, down = torch.sigmoid(d - band), torch.sigmoid(-d - band)
        p = torch.stack([up, 1.0 - (up + down), down], dim=1).clamp(min=1e-9)
        loss = F.nll_loss(p.log(), wanted) + l2 * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach().numpy(), float(F.softplus(raw).detach())


def fit_persistence(now: Floats, before: Floats, same: NDArray[np.bool_]) -> float:
    """The factor on changes under which presences (N,) explain best which pairs did change; 0.02 to 1."""
    change, keep = now * (1.0 - before) + before * (1.0 - now), now * before + (1.0 - now) * (1.0 - before)
    grid = np.geomspace(0.02, 1.0, 60)
    p = grid[:, None] * change / (grid[:, None] * change + keep)
    p = np.clip(p, 1e-9, 1.0 - 1e-9)
    return float(grid[int(np.where(same, np.log(1.0 - p), np.log(p)).sum(axis=1).argmax())])
