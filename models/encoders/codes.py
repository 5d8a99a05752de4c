"""History, genomics and context: sets of concept codes with an age, and who the patient is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import Preset
from models.encoders import AgeEncoding, Encoded, SetPool, Tokens, finish


class CodesEncoder(nn.Module):
    """Encode a set of concepts (conditions, drugs, variants); order and repeats of padding do not matter.

    code (B, S) 1 + index, 0 unseen; values (B, S, 1) still active; age_h (B, S).
    """

    def __init__(self, concepts: int, preset: Preset) -> None:
        super().__init__()
        width = preset.width
        self.code = nn.Embedding(concepts + 1, width)
        nn.init.normal_(self.code.weight, std=0.1)
        self.value = nn.Linear(1, width)
        self.age = AgeEncoding(width)
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(width, width))
        self.pool = SetPool(width, preset.codes.heads, preset.codes.tokens, preset.dropout)

    def forward(self, signal: Tokens) -> Encoded:
        seen = signal.seen
        code = torch.where(seen, signal.code, 0)
        values = torch.where(seen[..., None], signal.values, 0.0)
        age_h = torch.where(seen, signal.age_h, 0.0)
        x = self.code(code) + self.value(values) + self.age(age_h)
        tokens, pooled = self.pool((x + self.mix(x)) * seen[..., None], seen)
        return finish(tokens, pooled, seen.any(dim=1))


class ContextEncoder(nn.Module):
    """Age in decades (piecewise-linear, knots a decade apart) and recorded sex.

    code 1: age known, 2: age not known; values (B, 1, 3): decades, female, male.
    """

    DECADES = 11

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        width = preset.width
        self.mlp = nn.Sequential(
            nn.Linear(self.DECADES + 3, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)
        )

    def forward(self, signal: Tokens) -> Encoded:
        seen, code = signal.seen[:, 0], signal.code[:, 0]
        values = torch.where(seen[:, None], signal.values[:, 0], 0.0)
        known = (code == 1) & seen
        decades = torch.where(known, values[:, 0], 0.0).clamp(0.0, float(self.DECADES))
        knots = torch.arange(self.DECADES, device=decades.device, dtype=decades.dtype)
        ramps = (decades[:, None] - knots).clamp(0.0, 1.0)
        features = torch.cat([ramps, values[:, 1:3], known[:, None].to(values.dtype)], dim=1)
        pooled: Tensor = self.mlp(features)
        return finish(pooled[:, None], pooled, seen)
