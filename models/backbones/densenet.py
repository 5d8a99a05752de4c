"""DenseNet as TorchXRayVision publishes it: one grey channel, the names of its state dict, without torchvision.

Source: Huang et al. 2017 (arXiv 1608.06993), table 1; mlmed/torchxrayvision, models.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class _Layer(nn.Sequential):
    """Batch norm, 1x1 and 3x3 convolution; gives `growth` channels more."""

    def __init__(self, before: int, growth: int, widen: int) -> None:
        super().__init__(
            OrderedDict(
                norm1=nn.BatchNorm2d(before),
                relu1=nn.ReLU(),
                conv1=nn.Conv2d(before, widen * growth, 1, bias=False),
                norm2=nn.BatchNorm2d(widen * growth),
                relu2=nn.ReLU(),
                conv2=nn.Conv2d(widen * growth, growth, 3, padding=1, bias=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        grown: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return torch.cat([x, grown], dim=1)


class DenseNet(nn.Module):
    """Film (N, channels, H, W) -> feature map (N, C, H/32, W/32), after the last batch norm and a ReLU."""

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (6, 12, 24, 16),
        growth: int = 32,
        stem: int = 64,
        widen: int = 4,
        channels: int = 1,
    ) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(channels, stem, 7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(stem),
            relu0=nn.ReLU(),
            pool0=nn.MaxPool2d(3, stride=2, padding=1),
        )
        width = stem
        for number, depth in enumerate(blocks, start=1):
            layers = OrderedDict(
                (f"denselayer{i + 1}", _Layer(width + i * growth, growth, widen)) for i in range(depth)
            )
            parts[f"denseblock{number}"] = nn.Sequential(layers)  # type: ignore[arg-type]
            width += depth * growth
            if number < len(blocks):
                parts[f"transition{number}"] = nn.Sequential(
                    OrderedDict(
                        norm=nn.BatchNorm2d(width),
                        relu=nn.ReLU(),
                        conv=nn.Conv2d(width, width // 2, 1, bias=False),
                        pool=nn.AvgPool2d(2, stride=2),
                    )
                )
                width //= 2
        parts["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential(parts)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.features(x))
