"""Rotary positions come from a table, and from the model beyond it."""

import pytest
import torch

from runtime.fusion import modules
from runtime.fusion.modules import FusedRotary
from runtime.fusion.unusual import Unusual
from tests.training.families import qwen

POSITIONS_1T = torch.tensor([[0, 5, 5, 99, 17]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_positions_are_the_models_bit_for_bit(dtype: torch.dtype) -> None:
    rotary = qwen().model.rotary_emb
    hidden = torch.zeros(1, 5, 32, dtype=dtype)
    expected = rotary(hidden, POSITIONS_1T)
    fused = FusedRotary(rotary, dtype)(hidden, POSITIONS_1T)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(fused, expected, strict=True))


def test_positions_beyond_the_table_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "TABLE_POSITIONS", 50)
    rotary = qwen().model.rotary_emb
    hidden = torch.zeros(1, 5, 32)
    expected = rotary(hidden, POSITIONS_1T)
    fused = FusedRotary(rotary, torch.float32)(hidden, POSITIONS_1T)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(fused, expected, strict=True))


def test_rotary_positions_that_follow_the_longest_request_stay_with_the_model() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(Unusual):
        FusedRotary(qwen(rope_parameters=rope).model.rotary_emb, torch.float32)
