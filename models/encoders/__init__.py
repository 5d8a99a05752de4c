"""What an encoder promises, and the encoders by modality.

An encoder turns a batch of one signal into `Encoded`: tokens for the fusion and one pooled vector for the late-fusion
heads. Both are exactly zero where nothing was seen, whatever the unseen slots hold, and a row depends on no other row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.config import Preset
from models.contract import SIGNALS, FusionInput, InputSpec


@dataclass(frozen=True, slots=True)
class Tokens:
    """A batch of one `contract.Signal` as tensors: code (B, S), values (B, S, ...), age_h (B, S), seen (B, S)."""

    code: Tensor
    values: Tensor
    age_h: Tensor
    seen: Tensor


Batch = Mapping[str, Tokens]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One modality after its encoder.

    tokens   (B, K, D)  zero where not visible
    visible  (B, K)     which of them stand for something seen
    pooled   (B, D)     zero where not seen
    seen     (B,)       whether the row has any of this modality
    votes    (B, T)     logits the encoder gives by itself, beside what the heads make of `pooled`; None for none
    """

    tokens: Tensor
    visible: Tensor
    pooled: Tensor
    seen: Tensor
    votes: Tensor | None = None

    def rows(self, index: Tensor) -> Encoded:
        """The same for a selection of rows, repeats allowed."""
        votes = None if self.votes is None else self.votes[index]
        return Encoded(self.tokens[index], self.visible[index], self.pooled[index], self.seen[index], votes)

    def masked(self, keep: Tensor) -> Encoded:
        """As if the rows where `keep` (B,) is False had none of this modality."""
        return Encoded(
            self.tokens * keep[:, None, None],
            self.visible & keep[:, None],
            self.pooled * keep[:, None],
            self.seen & keep,
            None if self.votes is None else self.votes * keep[:, None],
        )


def to_batch(inputs: FusionInput, device: torch.device | str = "cpu") -> Batch:
    """A collated `FusionInput` (leading batch axis) as tensors."""

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return {
        name: Tokens(tensor(s.code), tensor(s.values), tensor(s.age_h), tensor(s.seen))
        for name in SIGNALS
        for s in (inputs.signals[name],)
    }


class AgeEncoding(nn.Module):
    """Hours before `as_of` as log-hours with sine and cosine at four scales, projected to width D.

    age_h (...,) -> (..., D). An hour and a day, a day and a month are equally far apart.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor([0.5, 1.0, 2.0, 4.0]), persistent=False)
        self.project = nn.Linear(9, width)

    def forward(self, age_h: Tensor) -> Tensor:
        log_hours = torch.log1p(age_h.clamp(min=0.0)) / 2.0
        scales = self.scales
        assert isinstance(scales, Tensor)
        waves = log_hours[..., None] * scales
        features = torch.cat([log_hours[..., None], torch.sin(waves), torch.cos(waves)], dim=-1)
        out: Tensor = self.project(features)
        return out


class Attention(nn.Module):
    """Multi-head attention of queries (B, Q, D) over keys (B, K, D), `visible` (B, K) or (B, Q, K).

    A row without a visible key gives zero, never NaN.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        batch, n_queries, width = queries.shape
        n_keys, depth = keys.shape[1], width // self.heads
        q = self.query(queries).view(batch, n_queries, self.heads, depth).transpose(1, 2)
        k, v = self.key_value(keys).view(batch, n_keys, 2, self.heads, depth).permute(2, 0, 3, 1, 4)
        mask = visible[:, None, None, :] if visible.dim() == 2 else visible[:, None, :, :]
        scores = (q @ k.transpose(-1, -2)) * depth**-0.5
        # Unseen keys get no weight by multiplication, not by -inf, so that an empty row is zero rather than NaN.
        scores = scores.masked_fill(~mask, -1e4)
        weights = torch.softmax(scores, dim=-1) * mask
        attended = (weights @ v).transpose(1, 2).reshape(batch, n_queries, width)
        out: Tensor = self.out(attended)
        return out


class Block(nn.Module):
    """Pre-norm attention and feed-forward with residuals; `keys=None` is self-attention."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_queries, self.norm_keys, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor | None, visible: Tensor) -> Tensor:
        normed = self.norm_queries(queries)
        attended = self.attention(normed, normed if keys is None else self.norm_keys(keys), visible)
        x = queries + self.dropout(attended)
        out: Tensor = x + self.dropout(self.feed_forward(self.norm_out(x)))
        return out


class SetPool(nn.Module):
    """Summarise a set of tokens (B, N, D) by K learned queries and one register, linear in N.

    Returns tokens (B, K, D) and pooled (B, D); the register is always visible, so no attention row is empty.
    """

    def __init__(self, width: int, heads: int, tokens: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens + 1, width) * 0.02)
        self.block = Block(width, heads, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.queries.expand(len(tokens), -1, -1)
        out = self.norm(self.block(queries, tokens, visible))
        return out[:, 1:], out[:, 0]


def finish(tokens: Tensor, pooled: Tensor, seen: Tensor, votes: Tensor | None = None) -> Encoded:
    """Encoded with everything zero where the row was not seen."""
    return Encoded(
        tokens * seen[:, None, None],
        seen[:, None].expand(-1, tokens.shape[1]),
        pooled * seen[:, None],
        seen,
        None if votes is None else votes * seen[:, None],
    )


def build_encoders(spec: InputSpec, preset: Preset) -> nn.ModuleDict:
    """One encoder for every signal that some target may rest on; context is always there."""
    used = {m for target in spec.targets for m in target.modalities} | {"context"}
    return nn.ModuleDict({name: build(spec, preset) for name, build in ENCODERS.items() if name in used})


# The encoders import what stands above.
from models.encoders.codes import CodesEncoder, ContextEncoder  # noqa: E402
from models.encoders.image import ImageEncoder  # noqa: E402
from models.encoders.labs import LabsEncoder  # noqa: E402

ENCODERS: dict[str, Callable[[InputSpec, Preset], nn.Module]] = {
    "imaging": ImageEncoder,
    "labs": LabsEncoder,
    "history": lambda spec, preset: CodesEncoder(len(spec.history), preset),
    "genomics": lambda spec, preset: CodesEncoder(len(spec.genomics), preset),
    "context": lambda spec, preset: ContextEncoder(preset),
}
