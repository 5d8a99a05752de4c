"""Class-conditional conformal sets: the answers that cannot be ruled out, right for nine in ten of either kind.

A set holds `yes`, `no`, both (the model cannot tell) or neither (unlike anyone it was calibrated on). Calibrated
within each class, so that the rarer answer is not missed for the sake of the commoner one (Vovk 2012). The p-values
are those of crepes; only fitting and judging need it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.calibration import Floats
from models.metrics import Estimated

CONFIDENCE = 0.9
FOLDS = 5
MIN_SUBGROUP = 200
"""Cases from which on a subgroup's coverage can be told to within some points."""
RESAMPLES = 500


class Coverage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of the sets on patients they were not calibrated on.

    nominal   share that was promised
    covered   share of cases whose true answer is in the set, over patients drawn anew
    decided   share with exactly one answer; the rest abstains
    right     share of the decided that are right; None where none was
    """

    nominal: float
    cases: int
    covered: Estimated
    decided: float
    right: float | None


def conformal_sets(
    probabilities: Floats,
    labels: Floats,
    patients: NDArray[np.int64],
    *,
    confidence: float = CONFIDENCE,
    folds: int = FOLDS,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """(n, 2) whether `no` and `yes` are in the set of each case; its own patient took no part in calibrating it.

    Raises ValueError where a fold leaves fewer cases of a class than the confidence can be told from: 1 / (1 - c).
    """
    from crepes import ConformalClassifier

    keys, index = np.unique(patients, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(keys)) % folds)[index]
    strangeness = np.stack([probabilities, 1.0 - probabilities], axis=1)
    sets = np.zeros((len(labels), 2), np.bool_)
    for number in range(folds):
        held = fold == number
        for answer in (0, 1):
            known = ~held & (labels == answer)
            if known.sum() + 1 < 1.0 / (1.0 - confidence):
                raise ValueError(f"{int(known.sum())} cases with answer {answer} are too few for {confidence:.0%}")
            fitted = ConformalClassifier().fit(strangeness[known, answer])
            p = fitted.predict_p(strangeness[held, answer][:, None], smoothing=False)[:, 0]
            sets[held, answer] = p > 1.0 - confidence
    return sets


def coverage_of(
    sets: NDArray[np.bool_],
    labels: Floats,
    patients: NDArray[np.int64],
    groups: Mapping[str, NDArray[np.bool_]],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Coverage]:
    """Per subgroup of MIN_SUBGROUP cases or more, and for all, those with and those without the finding."""
    everyone = np.ones(len(labels), np.bool_)
    asked = {"all": everyone, "with": labels == 1, "without": labels == 0, **groups}
    covered = sets[np.arange(len(labels)), labels.astype(int)]
    decided = sets.sum(axis=1) == 1
    found: dict[str, Coverage] = {}
    for name, rows in asked.items():
        if rows.sum() < MIN_SUBGROUP:
            continue
        right = covered[rows & decided]
        found[name] = Coverage(
            nominal=confidence,
            cases=int(rows.sum()),
            covered=_share(covered[rows], patients[rows], seed),
            decided=float(decided[rows].mean()),
            right=float(right.mean()) if len(right) else None,
        )
    return found


def _share(hit: NDArray[np.bool_], patients: NDArray[np.int64], seed: int) -> Estimated:
    keys, index = np.unique(patients, return_inverse=True)
    hits, cases = np.bincount(index, hit.astype(float)), np.bincount(index)
    chance = np.random.default_rng(seed)
    times = chance.multinomial(len(keys), np.full(len(keys), 1.0 / len(keys)), RESAMPLES)
    low, high = np.percentile((times @ hits) / (times @ cases), (2.5, 97.5))
    return Estimated(float(hit.mean()), float(low), float(high))
