"""What a clinician reads off a column of results: the last, the first, the extremes, the course, how often and when.

Computed from the set of results alone, in one pass. Sums are of whole numbers (values in steps of 2**-20), which add up
to the same in any order: a tree that splits on a mean must not answer otherwise because a result came second.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STATISTICS = ("last", "first", "lowest", "highest", "mean", "spread", "slope", "count", "newest", "oldest")
"""Per analyte, of scaled values: `spread` their standard deviation; `slope` per e-fold of time towards now; `count` as
log(1 + n); `newest` and `oldest` the age of the last and the first as log(1 + hours)."""

RANGES = ((-3.0, 3.0),) * 5 + ((0.0, 2.0), (-1.5, 1.5), (0.0, 5.0), (0.0, 6.0), (0.0, 6.0))
"""Between these the ramps of `Ramps` lie, one pair per statistic."""

STEP = float(2**20)
SLOPE_PRIOR = 0.05
"""Added to the variance of log-hours, so that two results of the same minute have no slope."""


@torch.no_grad()
def statistics(code: Tensor, scaled: Tensor, age_h: Tensor, seen: Tensor, analytes: int) -> Tensor:
    """(B, analytes, len(STATISTICS)) float32, NaN where an analyte was not measured.

    code (B, S) 1 + index; scaled (B, S) values; age_h (B, S). Unseen slots may hold anything. Results of one analyte at
    the same moment count as their mean where the last or the first is asked for.
    """
    code = torch.where(seen, code, 0)
    value = torch.where(seen, scaled, 0.0).double()
    age = torch.where(seen, age_h, 0.0).clamp(min=0.0).double()
    hours = torch.log1p(age)
    shape = (len(code), analytes + 1)

    def total(x: Tensor) -> Tensor:
        """Sums by analyte, exact in any order."""
        whole = torch.zeros(shape, dtype=torch.int64, device=code.device)
        return whole.scatter_add_(1, code, torch.round(x * STEP).long()).double() / STEP

    def extreme(x: Tensor, how: str, start: float) -> Tensor:
        return torch.full(shape, start, dtype=x.dtype, device=code.device).scatter_reduce_(1, code, x, how)

    count = total(torch.ones_like(value))
    n = count.clamp(min=1.0)
    mean, mean_hours = total(value) / n, total(hours) / n
    variance = (total(value * value) / n - mean * mean).clamp(min=0.0)
    variance_hours = (total(hours * hours) / n - mean_hours * mean_hours).clamp(min=0.0)
    together = total(value * hours) / n - mean * mean_hours
    newest, oldest = extreme(age, "amin", torch.inf), extreme(age, "amax", -torch.inf)

    def at(moment: Tensor) -> Tensor:
        there = (age == moment.gather(1, code)).double()
        return total(value * there) / total(there).clamp(min=1.0)

    found = torch.stack(
        [
            at(newest),
            at(oldest),
            extreme(value, "amin", torch.inf),
            extreme(value, "amax", -torch.inf),
            mean,
            variance.sqrt(),
            -together / (variance_hours + SLOPE_PRIOR),
            torch.log1p(count),
            torch.log1p(newest),
            torch.log1p(oldest.clamp(min=0.0)),
        ],
        dim=-1,
    )
    measured = (count > 0)[..., None]
    return torch.where(measured, found, torch.nan)[:, 1:].float()


class StatisticsTower(nn.Module):
    """Statistics (B, A, F) -> one vector (B, D): every number as ramps between knots, then two hidden layers.

    Ramps let each number act differently in its low, middle and high part, as the splits of a tree do.
    """

    SEGMENTS = 8

    def __init__(self, analytes: int, hidden: int, width: int, dropout: float) -> None:
        super().__init__()
        ranges = torch.tensor(RANGES)
        self.register_buffer("low", ranges[:, 0], persistent=False)
        self.register_buffer("span", ranges[:, 1] - ranges[:, 0], persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(analytes * len(STATISTICS) * (self.SEGMENTS + 1), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )

    def forward(self, found: Tensor) -> Tensor:
        low, span = self.low, self.span
        assert isinstance(low, Tensor)
        assert isinstance(span, Tensor)
        measured = ~torch.isnan(found)
        place = (torch.nan_to_num(found) - low) / span * self.SEGMENTS
        knots = torch.arange(self.SEGMENTS, device=found.device, dtype=found.dtype)
        ramps = (place[..., None] - knots).clamp(0.0, 1.0) * measured[..., None]
        out: Tensor = self.layers(torch.cat([ramps, measured[..., None].to(found.dtype)], dim=-1).flatten(1))
        return out
