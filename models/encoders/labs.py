"""Laboratory results and vital signs: any number of them, in any order, at any age."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import Preset
from models.contract import InputSpec
from models.encoders import AgeEncoding, Block, Encoded, SetPool, Tokens, finish
from models.encoders.statistics import StatisticsTower, statistics
from models.encoders.trees import TreeTable

LIMIT = 3.0
"""Knots of the value embedding span this many standard deviations; beyond, the last segment is continued flat."""


class LabsEncoder(nn.Module):
    """Induced set attention: every analyte is an inducing point that gathers its own results, then analytes attend.

    A result is a token: the analyte's piecewise-linear embedding of the scaled value (knots per analyte, so that high
    potassium and high sodium need not look alike), its age, and whether it lay outside the printed range. Gathering
    costs one matrix product, so the whole is linear in the number of results. Beside it stands a tower on every
    analyte's statistics, and for targets that need them boosted trees on the same statistics, which vote directly.

    code (B, S) 1 + index; values (B, S, 3): scaled value, below range, above range; age_h (B, S).
    """

    def __init__(self, spec: InputSpec, preset: Preset) -> None:
        super().__init__()
        width, p = preset.width, preset.labs
        self.analytes, self.knots, self.heads = len(spec.labs), p.knots, p.heads
        self.value = nn.Embedding((self.analytes + 1) * p.knots, width)
        self.analyte = nn.Embedding(self.analytes + 1, width)
        nn.init.normal_(self.analyte.weight, std=0.1)
        # Start every analyte as a straight line through zero: a value embedding that knows its order from step one.
        line = torch.linspace(-1.0, 1.0, p.knots)[:, None] * torch.randn(1, width) * 0.5
        with torch.no_grad():
            self.value.weight.copy_(line.repeat(self.analytes + 1, 1) + torch.randn_like(self.value.weight) * 0.02)
        self.flags = nn.Linear(2, width)
        self.age = AgeEncoding(width)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.score, self.gather = nn.Linear(width, p.heads), nn.Linear(width, width)
        self.count = nn.Linear(2, width)
        self.blocks = nn.ModuleList(Block(width, p.heads, preset.dropout) for _ in range(p.layers))
        self.pool = SetPool(width, p.heads, p.tokens, preset.dropout)
        self.tower = StatisticsTower(self.analytes, p.statistics, width, p.statistics_dropout) if p.statistics else None
        self.targets = len(spec.targets)
        self.trees = nn.ModuleDict()
        """By the target's place in the spec."""
        self.attend_to: int | None = None
        """In a training step: results of a row that attention looks at, drawn anew; the statistics see all."""

    def add_trees(self, column: int) -> None:
        """Make room for the trees of the target at this place in the spec."""
        self.trees[str(column)] = TreeTable()

    def table(self, column: int) -> TreeTable:
        """The trees of the target at this place in the spec."""
        table = self.trees[str(column)]
        assert isinstance(table, TreeTable)
        return table

    def forward(self, signal: Tokens) -> Encoded:
        found = None
        if self.tower is not None or len(self.trees):
            found = statistics(signal.code, signal.values[..., 0], signal.age_h, signal.seen, self.analytes)
        tokens, pooled = self._attend(signal if self.attend_to is None else self._some(signal, self.attend_to))
        if self.tower is not None and found is not None:
            extra = self.tower(found)
            tokens, pooled = torch.cat([tokens, extra[:, None]], dim=1), pooled + extra
        return finish(tokens, pooled, signal.seen.any(dim=1), None if found is None else self._votes(found))

    def _votes(self, found: Tensor) -> Tensor | None:
        if not len(self.trees):
            return None
        votes = found.new_zeros((len(found), self.targets))
        for column, table in self.trees.items():
            votes[:, int(column)] = table(found.flatten(1))
        return votes

    def _some(self, signal: Tokens, most: int) -> Tokens:
        if signal.seen.shape[1] <= most:
            return signal
        lot = torch.rand(signal.seen.shape, device=signal.seen.device).masked_fill(~signal.seen, -1.0)
        kept = lot.topk(most, dim=1).indices
        values = signal.values.gather(1, kept[..., None].expand(-1, -1, signal.values.shape[2]))
        return Tokens(signal.code.gather(1, kept), values, signal.age_h.gather(1, kept), signal.seen.gather(1, kept))

    def _attend(self, signal: Tokens) -> tuple[Tensor, Tensor]:
        """Tokens (B, K, D) and one vector (B, D), of a set of results."""
        seen = signal.seen
        code = torch.where(seen, signal.code, 0)
        values = torch.where(seen[..., None], signal.values, 0.0)
        x = (
            self._value(code, values[..., 0])
            + self.analyte(code)
            + self.flags(values[..., 1:3])
            + self.age(torch.where(seen, signal.age_h, 0.0))
        )
        x = x + self.mix(x)
        tokens, visible = self._gather(x, code, seen)
        for block in self.blocks:
            tokens = block(tokens, None, visible)
        summary: Tensor
        pooled: Tensor
        summary, pooled = self.pool(tokens * visible[..., None], visible)
        return summary, pooled

    def _value(self, code: Tensor, scaled: Tensor) -> Tensor:
        position = (scaled.clamp(-LIMIT, LIMIT) + LIMIT) / (2 * LIMIT) * (self.knots - 1)
        left = torch.nan_to_num(position.floor()).clamp(0, self.knots - 2)
        part = (position - left)[..., None]
        index = code * self.knots + left.long()
        out: Tensor = self.value(index) * (1 - part) + self.value(index + 1) * part
        return out

    def _gather(self, x: Tensor, code: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Results (B, S, D) -> one token per analyte (B, A, D) and which analytes were measured (B, A)."""
        batch, _, width = x.shape
        member = nn.functional.one_hot(code, self.analytes + 1)[..., 1:].to(x.dtype) * seen[..., None]  # (B, S, A)
        # Scores are bounded, so that the softmax within an analyte needs no maximum and cannot overflow.
        weight = torch.exp(8.0 * torch.tanh(self.score(x) / 8.0))  # (B, S, H)
        value = self.gather(x).view(batch, -1, self.heads, width // self.heads)
        across = member.transpose(1, 2)  # (B, A, S)
        total = across @ weight
        pooled = across @ (value * weight[..., None]).flatten(2)
        pooled = (pooled.view(batch, -1, self.heads, width // self.heads) / (total[..., None] + 1e-9)).flatten(2)
        count = member.sum(dim=1)
        visible = count > 0
        amount = torch.stack([torch.log1p(count), visible.to(x.dtype)], dim=-1)
        tokens = pooled + self.count(amount) + self.analyte.weight[1:]
        return tokens * visible[..., None], visible
