"""The bench runs the batches that calibration asks for, whole."""

import numpy as np
import pytest
import torch

from runtime.elastic import ExpertDial
from runtime.experts import Backend
from runtime.step_times import Bench
from tests.runtime.tiny import tiny_model


@pytest.mark.parametrize("max_batch_tokens", [32, 96])
def test_a_decode_batch_is_whole_however_small_the_step(max_batch_tokens: int) -> None:
    """Broke at 32: sixteen decoding requests leave only half a step to prefill the rest."""
    model = tiny_model()
    dial = ExpertDial(model)
    dial.install(Backend.EAGER, torch.arange(8)[None])
    with Bench(model, dial, max_batch_tokens) as bench:
        steps = bench.decode(16, np.random.default_rng(1))
    whole = [
        step for step in steps if (step.work.prefill_tokens, step.work.decode_tokens) == (0, 16)
    ]
    assert len(whole) >= 2
