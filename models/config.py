"""What a preset and a training recipe may say: `configs/*.yaml`, read strictly."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec
import yaml

from models.backbones.manifest import Backbone
from models.contract import Tier


class ConfigError(ValueError):
    """A preset or recipe file that cannot be used; says which file and what is wrong with it."""


class ImagePreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Channels after each halving of the film, and residual blocks at each; `regions` learned region queries.

    backbone  a published network in place of those convolutions: the path of its folder in a preset file, and in a
              checkpoint's card what it is (its weights lie beside the card)
    """

    channels: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    regions: int = 8
    backbone: str | Backbone | None = None

    def __post_init__(self) -> None:
        if self.backbone is None and not (self.channels and len(self.channels) == len(self.blocks)):
            raise ValueError("image needs channels and as many blocks, or a backbone")


class LabsPreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`knots` of the piecewise-linear value embedding; self-attention layers over analytes; tokens handed on.

    statistics         hidden width of the tower that reads each analyte's statistics; 0 for none
    statistics_dropout its dropout: it sees thousands of numbers of a few thousand patients
    """

    knots: int = 17
    heads: int = 4
    layers: int = 2
    tokens: int = 8
    statistics: int = 0
    statistics_dropout: float = 0.3


class CodesPreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    heads: int = 4
    tokens: int = 4


class FusionPreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    heads: int = 4
    layers: int = 2


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sizes of a model; `width` is the token width D that all encoders share."""

    name: str
    width: int
    image_size: int
    image: ImagePreset
    labs: LabsPreset
    codes: CodesPreset
    fusion: FusionPreset
    dropout: float = 0.1


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stretch of training.

    sources          share of each batch by shard name; mixed in every batch, so that no source has its own statistics
    freeze           modules that keep their weights: `imaging`, `labs`, `history`, `genomics`, `context`, `fusion`
    drop_modality    chance that a row is shown only a random proper subset of what it has
    drop_tokens      chance that a row keeps only a random part of its results
    max_tokens       results of one row that attention looks at in a training step
    """

    name: str
    sources: dict[str, float]
    steps: int
    batch: int
    rate: float
    freeze: tuple[str, ...] = ()
    weight_decay: float = 0.05
    drop_modality: float = 0.3
    drop_tokens: float = 0.5
    max_tokens: int = 192
    augment: bool = True
    auxiliary: float = 0.3


class FrozenHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A target with too few patients to move a tower: linear heads on frozen towers, cross-validated by `fold`."""

    target: str
    source: str
    l2: float = 10.0


class BoostedHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A target on results whose neural answer does not reach boosted trees: theirs is mixed in, `share` of the logit.

    Only targets that rest on results alone; the trees are fitted on the training rows and kept as plain arrays.
    """

    target: str
    share: float


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pretraining to start from: its folder, and the sha-256 of its encoders, so that a recipe says which it was."""

    folder: str
    sha256: str


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole training run, reproducible from this file, the shards and the seed."""

    name: str
    version: str
    tier: Tier
    preset: str
    seed: int
    phases: tuple[Phase, ...]
    frozen_heads: tuple[FrozenHead, ...] = ()
    boosted_heads: tuple[BoostedHead, ...] = ()
    start: Start | None = None
    ema: float = 0.998
    precision: str = "float16"


def _read(name_or_path: str | Path, kind: type[Preset] | type[Recipe]) -> Preset | Recipe:
    path = Path(name_or_path)
    if path.suffix == ".yaml":
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    else:
        file = resources.files("models").joinpath("configs", f"{name_or_path}.yaml")
        if not file.is_file():
            raise ConfigError(f"there is no preset or recipe {str(name_or_path)!r}; see models/configs/")
        text = file.read_text(encoding="utf-8")
    try:
        return msgspec.convert(yaml.safe_load(text), kind)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{name_or_path}: {error}") from None


def load_preset(name_or_path: str | Path) -> Preset:
    """A preset by name (`small`, `tiny`) or from a YAML file."""
    preset = _read(name_or_path, Preset)
    assert isinstance(preset, Preset)
    return preset


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe by name (`chest-open`, `chest-generated`) or from a YAML file."""
    recipe = _read(name_or_path, Recipe)
    assert isinstance(recipe, Recipe)
    return recipe
