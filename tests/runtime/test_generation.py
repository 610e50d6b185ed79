"""How far a plan's own answers are those that full k' would have given."""

import numpy as np
import torch

from runtime.checkpoint import Checkpoint
from runtime.elastic import ExpertDial
from runtime.evaluate import Windows
from runtime.experts import Backend
from runtime.generation import ANSWER_TOKENS, PROMPT_TOKENS, agreement, hits_by_window
from tests.runtime.formula import checkpoint
from tests.runtime.tiny import TRAINED_K, VOCAB, tiny_model


def tiny() -> Checkpoint:
    model = tiny_model()
    dial = ExpertDial(model)
    dial.install(Backend.EAGER, torch.arange(8)[None])
    return checkpoint(model, dial=dial)


def windows(count: int) -> Windows:
    ids = np.random.default_rng(0).integers(0, VOCAB, (count, PROMPT_TOKENS + 10)).tolist()
    return Windows(ids, np.arange(count), num_bytes=1)


def test_full_k_agrees_with_itself_and_one_expert_does_not() -> None:
    loaded, chosen = tiny(), windows(20)
    full = hits_by_window(loaded, chosen, (TRAINED_K, TRAINED_K), 96)
    assert full.tolist() == [ANSWER_TOKENS] * 20
    one = hits_by_window(loaded, chosen, (1, 1), 96)
    assert 0 < one.sum() < 0.9 * full.sum()
    assert agreement(chosen, one).mean == one.sum() / (20 * ANSWER_TOKENS)


def test_the_model_can_be_called_by_itself_again() -> None:
    loaded = tiny()
    ids_1S = torch.arange(12)[None]
    with torch.inference_mode():
        before = loaded.model(ids_1S).logits
        hits_by_window(loaded, windows(2), (1, 1), 96)
        assert torch.equal(loaded.model(ids_1S).logits, before)
    assert loaded.dial.plan == loaded.dial.trained_plan
