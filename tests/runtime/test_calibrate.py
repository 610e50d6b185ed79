"""Which plans become rungs."""

import numpy as np
import pytest
import torch

from runtime import calibrate
from runtime.calibrate import candidates, pareto
from runtime.checkpoint import Checkpoint
from runtime.elastic import ExpertDial
from runtime.evaluate import TextError, Windows
from runtime.sensitivity import losses_by_layer, num_plans
from tests.fakes import profile
from tests.runtime.formula import checkpoint
from tests.runtime.tiny import TRAINED_K, tiny_model

KS = [1, 2, 4, 8]


def tiny() -> Checkpoint:
    model = tiny_model()
    return checkpoint(model, dial=ExpertDial(model))


def windows(count: int, seed: int = 0) -> Windows:
    """Of a document each."""
    ids = np.random.default_rng(seed).integers(0, 128, (count, 40)).tolist()
    return Windows(ids, np.arange(count), num_bytes=39 * count)


def test_a_layer_loses_what_the_model_does_with_that_layer_alone_changed() -> None:
    loaded, ran = tiny(), []
    losses = losses_by_layer(loaded, windows(6), KS, lambda: ran.append(loaded.dial.plan))
    assert len(ran) == num_plans(2, KS) == 7
    assert [sorted(loss) for loss in losses] == [KS, KS]
    assert [loss[TRAINED_K] for loss in losses] == [0.0, 0.0]
    assert all(abs(loss[k]) > 1e-5 for loss in losses for k in (1, 2))
    assert loaded.dial.plan == loaded.dial.trained_plan


@pytest.fixture
def unequal(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Candidates of a model whose second layer gains nothing, and whose first gains much."""
    monkeypatch.setattr(
        calibrate,
        "losses_by_layer",
        lambda *_: [{1: 1.0, 2: 0.5, 4: 0.0, 8: -0.1}, {1: 0.0, 2: 0.0, 4: 0.0, 8: 0.0}],
    )
    return candidates(tiny(), windows(1), KS)


def test_a_budget_goes_to_the_layer_that_needs_it(unequal: dict) -> None:
    assert unequal[2] == ((2, 2), (2, 1))


def test_full_k_is_the_model_as_it_is(unequal: dict) -> None:
    assert unequal[TRAINED_K] == ((4, 4), (4, 4))


def test_above_full_k_a_plan_runs_more_experts_than_full_k(unequal: dict) -> None:
    assert unequal[8] == ((8, 8), (8, 1))


def test_rungs_are_in_order_one_of_a_mean_k_and_none_above_full_k_for_nothing() -> None:
    one, two, four, eight = profile().rungs
    worse = two.model_copy(update={"quality": 0.7})
    assert pareto([eight, worse, one, two, four], full_k=4) == [one, two, four, eight]
    vain = eight.model_copy(update={"quality": 0.9})
    assert pareto([one, two, four, vain], full_k=4) == [one, two, four]


def test_windows_that_choose_measure_nothing() -> None:
    whole = windows(7)
    choosing, measuring = whole.split(3)
    assert choosing.ids == [whole.ids[2], whole.ids[5]]
    assert choosing.documents_W.tolist() == [2, 5]
    assert measuring.documents_W.tolist() == [0, 1, 3, 4, 6]
    assert torch.isclose(torch.tensor(choosing.num_bytes + measuring.num_bytes), torch.tensor(273))
    with pytest.raises(TextError, match="2 windows; 3 or more are needed"):
        windows(2).split(3)
