"""The optional libraries, imported late and in an order that works beside a CPU build of torch."""

from __future__ import annotations

import functools
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import library

from models.backbones.manifest import BackboneError


def extra(module: str) -> Any:
    """Import `transformers`, `timm` or `peft`. Raises BackboneError where the extra is not installed."""
    _torchvision_operators()
    try:
        found = import_module(module)
    except ImportError as error:
        raise BackboneError(
            f"{module} cannot be imported ({error.name or error}); "
            "pip install -c constraints.txt 'ordersight[backbones]'"
        ) from None
    if module == "transformers":
        found.logging.set_verbosity_error()
        found.logging.disable_progress_bar()
    return found


@functools.cache
def _torchvision_operators() -> None:
    """Let torchvision be imported where its compiled part is a CUDA build and torch is not.

    timm and transformers import torchvision, whose wheel on PyPI is a CUDA build; beside a CPU torch it cannot load its
    operators and fails at the first that it wants to describe. We use none of them, so declaring the two is enough.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(str(Path(spec.origin).parent / "_C.so"))  # type: ignore[no-untyped-call]
    except OSError:
        global _declared  # noqa: PLW0603 - the declaration lives as long as the object
        _declared = library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_declared: Any = None
