"""What each modality adds to a logit: exact Shapley values over every subset of what was seen.

The model answers without any of its modalities, so that the worth of a subset is its own answer and not a guess at
what it would be: sixteen at most, in one pass over encodings that are at hand. Nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from math import factorial


def subsets(players: Sequence[str]) -> tuple[frozenset[str], ...]:
    """All 2^n of them, the largest first."""
    return tuple(frozenset(s) for n in range(len(players), -1, -1) for s in combinations(players, n))


def shapley(worth: Mapping[frozenset[str], float], players: Collection[str]) -> dict[str, float]:
    """Each player's mean gain in worth over all orders in which they can join (Shapley 1953).

    They sum to the worth of all less the worth of none. Raises KeyError where the worth of a subset is not given.
    """
    n = len(players)
    found: dict[str, float] = {}
    for player in sorted(players):
        others = sorted(set(players) - {player})
        found[player] = sum(
            factorial(len(s)) * factorial(n - len(s) - 1) / factorial(n) * (worth[s | {player}] - worth[s])
            for s in subsets(others)
        )
    return found
