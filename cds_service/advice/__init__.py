"""`load_advice(name)`: advice functions by entry point, ours and other packages' alike."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cds_service.consult import Advice

GROUP = "cds_service.advice"


class UnknownAdvice(LookupError):
    """No installed package declares an advice function of this name."""


@functools.cache
def load_advice(name: str) -> Advice:
    """The advice function `name` of the entry-point group `cds_service.advice`.

    Raises UnknownAdvice, naming the ones that are installed.
    """
    found = entry_points(group=GROUP)
    for point in found:
        if point.name == name:
            advice: Advice = point.load()
            return advice
    known = ", ".join(sorted(p.name for p in found)) or "none"
    raise UnknownAdvice(f"no advice {name!r} is installed under {GROUP}; installed: {known}")
