"""The networks by family: how each is built from its architecture, and how it gives a feature map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.densenet import DenseNet
from models.backbones.extras import extra
from models.backbones.manifest import Backbone, BackboneError, Family

Architecture = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One family.

    build     the publisher's own class where a library has it, randomly initialised
    features  (net, prepared film (N, c, S, S)) -> feature map (N, C, h, w)
    adapt     the names of the layers that low-rank adaptation goes to: attention, as in Hu et al. 2021
    rename    tensors as published, under the names that the network built here has
    """

    build: Callable[[Architecture], nn.Module]
    features: Callable[[nn.Module, Tensor], Tensor]
    adapt: tuple[str, ...]
    rename: Callable[[Architecture, Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda _, tensors: tensors


_HOW_SAVED = (
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
    "model_type",
)
"""Keys of a config.json that say how it was saved, or ask for code from elsewhere."""


@dataclass(frozen=True, slots=True)
class _Transformers:
    """A model class of transformers by name, and its configuration's."""

    model: str
    config: str

    def _config(self, architecture: Architecture) -> Any:
        plain = {key: value for key, value in architecture.items() if key not in _HOW_SAVED}
        return getattr(extra("transformers"), self.config)(**plain)

    def build(self, architecture: Architecture) -> nn.Module:
        net: nn.Module = getattr(extra("transformers"), self.model)(self._config(architecture))
        return net

    def rename(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The library knows the names of its older releases, in which most networks are published.

        What it did not take, or lacks, keeps its published name or stays away, for the check of names to find.
        """
        net, info = getattr(extra("transformers"), self.model).from_pretrained(
            None,
            config=self._config(architecture),
            state_dict=dict(tensors),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        found: dict[str, Tensor] = {n: v for n, v in net.state_dict().items() if n not in info["missing_keys"]}
        found |= {n: tensors[n] for n in info["unexpected_keys"] if n in tensors}
        return found | {n: torch.empty(shape) for n, shape, _ in info["mismatched_keys"]}


_DINOV2 = _Transformers("Dinov2Model", "Dinov2Config")
_SIGLIP = _Transformers("SiglipVisionModel", "SiglipVisionConfig")


def _timm(architecture: Architecture) -> nn.Module:
    timm = extra("timm")
    options = dict(architecture)
    model = options.pop("model")
    if not timm.is_model(model):  # also keeps `hf-hub:` names, which would be fetched, away
        raise BackboneError(f"timm has no network {model!r}")
    net: nn.Module = timm.create_model(model, pretrained=False, num_classes=0, **options)
    return net


def _patches(tokens: Tensor, prefix: int) -> Tensor:
    """Tokens (N, prefix + h*h, C) -> (N, C, h, h)."""
    patches = tokens[:, prefix:].transpose(1, 2)
    side = round(patches.shape[2] ** 0.5)
    return patches.reshape(*patches.shape[:2], side, side)


def _timm_features(net: nn.Module, film: Tensor) -> Tensor:
    found: Tensor = net.forward_features(film)  # type: ignore[operator]
    return found if found.dim() == 4 else _patches(found, int(getattr(net, "num_prefix_tokens", 0)))


FAMILIES: Mapping[Family, Kind] = {
    "dinov2": Kind(
        _DINOV2.build,
        lambda net, film: _patches(net(pixel_values=film).last_hidden_state, 1),
        ("q_proj", "v_proj"),
        _DINOV2.rename,
    ),
    "siglip": Kind(
        _SIGLIP.build,
        lambda net, film: _patches(net(pixel_values=film).last_hidden_state, 0),
        ("q_proj", "v_proj"),
        _SIGLIP.rename,
    ),
    "xrv-densenet": Kind(lambda a: DenseNet(**a), lambda net, film: net(film), ("conv1", "conv2")),
    "timm": Kind(_timm, _timm_features, ("qkv", "fc1", "fc2", "pw_exp.conv", "pw_proj.conv")),
}


def build(backbone: Backbone) -> nn.Module:
    """The network of a manifest with random weights. Raises BackboneError for an architecture that cannot be built."""
    try:
        return FAMILIES[backbone.family].build(backbone.architecture)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        if isinstance(error, BackboneError):
            raise
        raise BackboneError(
            f"backbone {backbone.name}: no {backbone.family} network can be built of it ({error})"
        ) from None
