"""What a layer loses at k', in three ways: which plans run, and what comes out."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from runtime.checkpoint import Checkpoint
from runtime.elastic import ExpertDial
from runtime.evaluate import Quality, Windows, evaluate
from runtime.experts import best_backend
from runtime.fusion import fuse, fuse_layers
from runtime.moe_layers import NotElasticError
from runtime.sensitivity import (
    isolated_losses_by_layer,
    losses_by_layer,
    num_layer_runs,
    num_plans,
    output_changes_by_layer,
)
from tests.runtime.families import FAMILIES, K
from tests.runtime.formula import checkpoint
from tests.runtime.tiny import NUM_LAYERS, TRAINED_K, tiny_model

KS = [1, 2, 4, 8]
UNUSUAL = {"gemma4": "model.layers.0: Gemma4TextDecoderLayer"}  # its layers hold the experts


def tiny() -> Checkpoint:
    model = tiny_model()
    return checkpoint(model, dial=ExpertDial(model))


def windows(count: int) -> Windows:
    """Of a document each."""
    ids = np.random.default_rng(0).integers(0, 128, (count, 40)).tolist()
    return Windows(ids, np.arange(count), num_bytes=39 * count)


class Recorder:
    """Evaluates, and keeps the plans and their loss."""

    def __init__(self) -> None:
        self.nll: dict[tuple[int, ...], float] = {}

    def __call__(self, loaded: Checkpoint, windows: Windows, plan: Sequence[int]) -> Quality:
        quality = evaluate(loaded, windows, plan)
        self.nll[tuple(plan)] = quality.nll.mean
        return quality


def test_a_layer_loses_what_the_model_does_with_that_layer_alone_changed() -> None:
    loaded, ran = tiny(), []
    losses = losses_by_layer(loaded, windows(6), KS, lambda: ran.append(loaded.dial.plan))
    assert len(ran) == num_plans(2, KS) == 7
    assert [sorted(loss) for loss in losses] == [KS, KS]
    assert [loss[TRAINED_K] for loss in losses] == [0.0, 0.0]
    assert all(abs(loss[k]) > 1e-5 for loss in losses for k in (1, 2))
    assert loaded.dial.plan == loaded.dial.trained_plan


def test_alone_all_other_layers_run_at_full_k() -> None:
    recorder = Recorder()
    losses = losses_by_layer(tiny(), windows(3), [2, TRAINED_K], evaluate=recorder)
    assert [*recorder.nll] == [(4, 4), (2, 4), (4, 2)]
    full = recorder.nll[4, 4]
    assert losses[0][2] == pytest.approx(recorder.nll[2, 4] - full)
    assert losses[1][2] == pytest.approx(recorder.nll[4, 2] - full)


def test_isolated_the_layers_behind_run_one_expert() -> None:
    recorder, calls = Recorder(), []
    losses = isolated_losses_by_layer(
        tiny(), windows(3), KS, lambda: calls.append(None), evaluate=recorder
    )
    # (4, 1) is the reference of the first layer, and one expert in the second.
    assert [*recorder.nll] == [(1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (4, 4), (4, 8)]
    assert len(calls) == num_layer_runs(2, KS) == 8
    nll = recorder.nll
    assert losses == [
        {k: pytest.approx(nll[k, 1] - nll[4, 1]) for k in KS},
        {k: pytest.approx(nll[4, k] - nll[4, 4]) for k in KS},
    ]


def test_isolated_and_alone_are_the_same_for_the_last_layer() -> None:
    loaded, text = tiny(), windows(3)
    alone, isolated = (ask(loaded, text, KS) for ask in (losses_by_layer, isolated_losses_by_layer))
    assert isolated[-1] == alone[-1]
    assert isolated[0][1] != alone[0][1]
    assert loaded.dial.plan == loaded.dial.trained_plan


def test_the_trained_k_is_measured_unasked() -> None:
    for losses in (
        isolated_losses_by_layer(tiny(), windows(3), [1]),
        output_changes_by_layer(tiny(), [1]),
    ):
        assert [sorted(loss) for loss in losses] == [[1, TRAINED_K]] * NUM_LAYERS
        assert [loss[TRAINED_K] for loss in losses] == [0.0] * NUM_LAYERS


def test_the_output_changes_more_the_further_k_is_from_full() -> None:
    loaded, ran = tiny(), []
    changes = output_changes_by_layer(loaded, KS, lambda: ran.append(loaded.dial.plan))
    assert len(ran) == num_layer_runs(2, KS) == 8
    for change in changes:
        assert change[1] > change[2] > change[4] == 0
        assert change[8] > 0
    assert loaded.dial.plan == loaded.dial.trained_plan


def test_the_output_of_a_block_is_that_of_its_own_forward_on_seeded_noise() -> None:
    loaded = tiny()
    noise_1BSH = torch.randn(1, 2, 5, 32, generator=torch.Generator().manual_seed(7))
    block = loaded.model.model.layers[1].mlp
    outputs = []
    for k in (2, TRAINED_K):
        with loaded.dial.at([TRAINED_K, k]), torch.inference_mode():
            outputs.append(block(noise_1BSH[0]))
    changes = output_changes_by_layer(loaded, [2], num_draws=1, shape_BS=(2, 5), seed=7)
    assert changes[1][2] == pytest.approx(float((outputs[0] - outputs[1]).norm()))


def test_the_same_seed_draws_the_same() -> None:
    first, again, other = (output_changes_by_layer(tiny(), KS, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_a_layer_whose_experts_give_nothing_changes_nothing() -> None:
    loaded = tiny()
    with torch.no_grad():
        loaded.dial.layers[0].experts.down_proj.zero_()
    changes = output_changes_by_layer(loaded, KS)
    assert changes[0] == dict.fromkeys(KS, 0.0)
    assert changes[1][1] > 0


def test_a_checkpoint_as_it_is_served_is_as_sensitive_as_the_model_itself() -> None:
    """Routers fused, experts packed, whole layers replaced."""
    served = tiny()
    fuse(served.model)
    served.dial.install(best_backend(served.dial.layers), torch.arange(8)[None])
    fuse_layers(served.dial)
    plain, fused = (output_changes_by_layer(each, KS) for each in (tiny(), served))
    for one, other in zip(plain, fused, strict=True):
        assert other == pytest.approx(one, rel=1e-3)


def test_in_bf16_full_k_changes_nothing_and_fewer_experts_as_much_as_in_fp32() -> None:
    model = tiny_model().to(torch.bfloat16)
    changes = output_changes_by_layer(checkpoint(model, dial=ExpertDial(model)), KS)
    for change, expected in zip(changes, output_changes_by_layer(tiny(), KS), strict=True):
        assert change == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_blocks_of_every_family_run_alone_or_are_refused_by_name(name: str) -> None:
    model = FAMILIES[name].build()
    loaded = checkpoint(model, dial=ExpertDial(model))
    if name in UNUSUAL:
        with pytest.raises(NotElasticError, match=f"{UNUSUAL[name]} does not run on hidden states"):
            output_changes_by_layer(loaded, [1], shape_BS=(2, 8))
        return
    changes = output_changes_by_layer(loaded, [1, K], num_draws=2, shape_BS=(2, 8))
    assert len(changes) == len(loaded.dial.layers)
    assert all(change[1] > change[K] == 0 for change in changes)
