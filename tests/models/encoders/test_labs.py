"""How many results attention looks at in a training step."""

from __future__ import annotations

import pytest
import torch

from models.contract import InputSpec, collate
from models.encoders import to_batch
from models.fusion import FusionModel

from ..conftest import make_input


@pytest.mark.parametrize(("results", "most", "looked_at"), [(40, None, 40), (40, 5, 5), (3, 5, 3)])
def test_attention_looks_at_no_more_results_than_asked_and_prefers_none_that_is_unseen(
    spec: InputSpec, preset: object, results: int, most: int | None, looked_at: int
) -> None:
    model = FusionModel(spec, preset).eval()  # type: ignore[arg-type]
    encoder = model.labs_encoder()
    assert encoder is not None
    encoder.attend_to = most
    given: list[torch.Tensor] = []
    encoder.analyte.register_forward_hook(lambda _module, codes, _out: given.append(codes[0]))
    # The second patient's forty results pad the first one's row with unseen slots.
    with torch.inference_mode():
        model(to_batch(collate([make_input(spec, 1, results=results), make_input(spec, 2, results=40)])))
    (codes,) = given
    assert int((codes[0] > 0).sum()) == looked_at
