"""The fusion model: a sum of what each modality says alone, and a residual that starts at zero.

`logit = bias + sum over modalities of (seen ? head(pooled) : absent) + residual`. Late fusion is where training
begins; the residual is kept only as far as the data reward it. A modality a target was not trained on is masked from
both terms for that target, so it cannot move its logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from models.config import Preset
from models.contract import MODALITIES, InputSpec
from models.encoders import Batch, Block, Encoded, Tokens, build_encoders
from models.encoders.image import ImageEncoder
from models.encoders.labs import LabsEncoder


@dataclass(frozen=True, slots=True)
class Logits:
    """total (B, T); parts: what each signal adds on its own, zero where unseen; residual (B, T); bias (T,)."""

    total: Tensor
    parts: dict[str, Tensor]
    residual: Tensor
    bias: Tensor


def on_seen_rows(encoder: nn.Module, signal: Tokens) -> Encoded:
    """Run an encoder on the rows that have anything of this signal; the others stay exactly zero, and cost nothing."""
    rows = signal.seen.any(dim=1)
    if bool(rows.all()):
        whole: Encoded = encoder(signal)
        return whole
    # One row is kept where there is none, for the shapes; it is masked like any other unseen row.
    index = rows.nonzero()[:, 0] if bool(rows.any()) else torch.zeros(1, dtype=torch.int64, device=rows.device)
    part: Encoded = encoder(Tokens(signal.code[index], signal.values[index], signal.age_h[index], signal.seen[index]))

    def scatter(x: Tensor) -> Tensor:
        return x.new_zeros((len(rows), *x.shape[1:])).index_copy(0, index, x)

    return Encoded(
        scatter(part.tokens),
        scatter(part.visible),
        scatter(part.pooled),
        scatter(part.seen),
        None if part.votes is None else scatter(part.votes),
    )


class FusionModel(nn.Module):
    """Encoders by modality, late-fusion heads, and target queries that attend to all tokens they may see."""

    def __init__(self, spec: InputSpec, preset: Preset) -> None:
        super().__init__()
        self.spec, self.preset = spec, preset
        width, targets = preset.width, len(spec.targets)
        self.encoders = build_encoders(spec, preset)
        self.signals: tuple[str, ...] = tuple(self.encoders)
        reader = self.image_encoder()
        if reader is not None and reader.backbone is not None:
            # A preset file names a folder; what goes into a card is which network that was.
            self.preset = replace(preset, image=replace(preset.image, backbone=reader.backbone.backbone))
        allowed = torch.tensor(
            [[name == "context" or name in t.modalities for t in spec.targets] for name in self.signals]
        )
        self.register_buffer("allowed", allowed, persistent=False)  # (M, T)
        self.heads = nn.ModuleDict({name: nn.Linear(width, targets, bias=False) for name in self.signals})
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(targets)) for name in self.signals})
        self.bias = nn.Parameter(torch.zeros(targets))
        self.modality = nn.Embedding(len(self.signals), width)
        self.queries = nn.Parameter(torch.randn(targets, width) * 0.2)
        self.blocks = nn.ModuleList(
            Block(width, preset.fusion.heads, preset.dropout) for _ in range(preset.fusion.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Parameter(torch.zeros(targets, width))
        nn.init.normal_(self.modality.weight, std=0.1)
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            nn.init.normal_(head.weight, std=0.01)

    def image_encoder(self) -> ImageEncoder | None:
        """The encoder of films, None where no target reads any."""
        encoder = self.encoders["imaging"] if "imaging" in self.signals else None
        return encoder if isinstance(encoder, ImageEncoder) else None

    def add_trees(self, targets: Sequence[str]) -> None:
        """Room for boosted trees of these targets, still empty. Raises ValueError for one not on results alone."""
        encoder = self.labs_encoder()
        modalities = {t.name: t.modalities for t in self.spec.targets}
        for name in targets:
            if encoder is None or modalities.get(name) != ("labs",):
                raise ValueError(f"{name}: boosted trees are for targets that rest on results alone")
            encoder.add_trees(self.spec.target_names().index(name))

    def labs_encoder(self) -> LabsEncoder | None:
        """The encoder of results, None where no target reads any."""
        encoder = self.encoders["labs"] if "labs" in self.signals else None
        return encoder if isinstance(encoder, LabsEncoder) else None

    def encode(self, batch: Batch, films: Tensor | None = None) -> dict[str, Encoded]:
        """Run the encoders; `films` as in `ImageEncoder.forward`."""
        encoded: dict[str, Encoded] = {}
        for name, encoder in self.encoders.items():
            if isinstance(encoder, ImageEncoder):
                encoded[name] = encoder(batch[name], films)
            else:
                encoded[name] = on_seen_rows(encoder, batch[name])
        return encoded

    def fuse(self, encoded: dict[str, Encoded], *, late: bool = False) -> Logits:
        """From encodings (of `encode`, perhaps with rows repeated and modalities masked) to logits.

        late: without the fusion term, which then is not worked out.
        """
        allowed = self.allowed
        assert isinstance(allowed, Tensor)
        parts: dict[str, Tensor] = {}
        total = self.bias.expand(len(encoded["context"].seen), -1)
        for index, name in enumerate(self.signals):
            e, may = encoded[name], allowed[index].to(self.bias.dtype)
            said = self.heads[name](e.pooled)
            parts[name] = (said if e.votes is None else said + e.votes) * may * e.seen[:, None]
            total = total + parts[name] + self.absent[name] * may * ~e.seen[:, None]
        residual = torch.zeros_like(total) if late else self._residual(encoded, allowed)
        return Logits(total + residual, parts, residual, self.bias)

    def _residual(self, encoded: dict[str, Encoded], allowed: Tensor) -> Tensor:
        tokens = torch.cat(
            [
                (encoded[name].tokens + self.modality.weight[index]) * encoded[name].visible[..., None]
                for index, name in enumerate(self.signals)
            ],
            dim=1,
        )
        visible = torch.cat(  # (B, T, K): a target sees only the modalities it was trained on
            [
                encoded[name].visible[:, None, :] & allowed[index][None, :, None]
                for index, name in enumerate(self.signals)
            ],
            dim=2,
        )
        x = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, tokens, visible)
        residual: Tensor = (self.norm(x) * self.readout).sum(dim=-1)
        seen = torch.stack([encoded[name].seen for name in self.signals], dim=1)  # (B, M)
        together = (seen.to(x.dtype) @ allowed.to(x.dtype)) >= 2  # one signal alone leaves nothing to fuse
        return residual * together

    def forward(self, batch: Batch) -> Logits:
        return self.fuse(self.encode(batch))

    def modalities_seen(self, encoded: dict[str, Encoded]) -> dict[str, Tensor]:
        """Per modality with an encoder: (B,) whether the row has any of it."""
        return {m: encoded[m].seen for m in MODALITIES if m in encoded}
