"""Laboratory results and vital signs: any number of them, in any order, at any age."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import Preset
from models.contract import InputSpec
from models.encoders import AgeEncoding, Block, Encoded, SetPool, Tokens, finish

LIMIT = 3.0
"""Knots of the value embedding span this many standard deviations; beyond, the last segment is continued flat."""


class LabsEncoder(nn.Module):
    """Induced set attention: every analyte is an inducing point that gathers its own results, then analytes attend.

    A result is a token: the analyte's piecewise-linear embedding of the scaled value (knots per analyte, so that high
    potassium and high sodium need not look alike), its age, and whether it lay outside the printed range. Gathering
    costs one matrix product, so the whole is linear in the number of results.

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

    def forward(self, signal: Tokens) -> Encoded:
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
        summary, pooled = self.pool(tokens * visible[..., None], visible)
        return finish(summary, pooled, seen.any(dim=1))

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
