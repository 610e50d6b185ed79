"""kprime's experts run each token at its own k', on every backend alike, and count what ran."""

import pytest
import torch
from transformers import PreTrainedModel

from runtime.elastic import ExpertDial
from runtime.experts import Backend, best_backend
from runtime.moe_layers import NotElasticError
from runtime.native.library import can_run
from tests.runtime.families import FAMILIES as ALL_FAMILIES
from tests.runtime.families import IDS_BS as DEEPSEEK_IDS_BS
from tests.training.families import FAMILIES, olmoe, qwen

IDS_BS = torch.arange(40).view(2, 20)
DEEPSEEK = ALL_FAMILIES["deepseek_v3"]
ALL = pytest.mark.parametrize("build", FAMILIES)
BACKENDS = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            Backend.NATIVE,
            marks=pytest.mark.skipif(not can_run(torch.float32), reason="needs AVX-512 and g++"),
        ),
        Backend.GROUPED_MM,
        Backend.BATCHED_MM,
        Backend.EAGER,
    ],
)


def installed(build, backend: Backend) -> ExpertDial:  # noqa: ANN001
    dial = ExpertDial(build().eval())
    dial.install(backend, IDS_BS)
    dial.load_LE.zero_()
    return dial


@torch.inference_mode()
def logits(model: PreTrainedModel, ids_BS: torch.Tensor = IDS_BS) -> torch.Tensor:
    return model(ids_BS).logits


@ALL
@BACKENDS
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_a_uniform_k_is_the_model_built_with_it(build, backend: Backend, k: int) -> None:  # noqa: ANN001
    dial = installed(build, backend)
    with dial.at([k, k]):
        ours = logits(dial.model)
    assert (ours - logits(build(num_experts_per_tok=k).eval())).abs().max() <= 1e-5


@ALL
@BACKENDS
def test_a_sequence_runs_at_its_own_k_whoever_shares_the_batch(build, backend: Backend) -> None:  # noqa: ANN001
    dial = installed(build, backend)
    plans = [(1, 4), (5, 2)]
    alone = []
    for number, plan in enumerate(plans):
        with dial.at(plan):
            alone.append(logits(dial.model, IDS_BS[number : number + 1]))
    dial.set_by_token(plans, torch.tensor([0, 1]).repeat_interleave(20))
    assert (logits(dial.model) - torch.cat(alone)).abs().max() <= 1e-5


@BACKENDS
def test_what_every_expert_ran_is_counted(backend: Backend) -> None:
    dial = installed(qwen, backend)
    dial.set_by_token([(1, 2), (3, 2)], torch.tensor([0, 1]).repeat_interleave(20))
    logits(dial.model)
    assert dial.load_LE.sum(1).tolist() == [20 * 1 + 20 * 3, 40 * 2]
    assert (dial.load_LE >= 0).all()


@BACKENDS
def test_the_backends_count_the_same(backend: Backend) -> None:
    loads = []
    for each in (backend, Backend.EAGER):
        dial = installed(qwen, each)
        logits(dial.model)
        loads.append(dial.load_LE)
    assert torch.equal(*loads)


def test_a_plan_of_one_k_forgets_the_budgets() -> None:
    dial = installed(qwen, Backend.EAGER)
    full = logits(dial.model)
    dial.set_by_token([(1, 1), (2, 2)], torch.zeros(40, dtype=torch.long))
    assert not torch.equal(logits(dial.model), full)
    dial.set(dial.trained_plan)
    assert torch.equal(logits(dial.model), full)


def test_a_token_plan_that_cannot_be_changes_nothing() -> None:
    dial = installed(qwen, Backend.EAGER)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp: k'=9 is not in 1\.\.8"):
        dial.set_by_token([(1, 1), (2, 9)], torch.zeros(40, dtype=torch.long))
    assert dial.plan == (2, 2)


@pytest.mark.skipif(not can_run(torch.float32), reason="needs AVX-512 and g++")
def test_the_kernel_is_the_first_choice_and_holds_the_only_copy_of_the_weights() -> None:
    dial = ExpertDial(olmoe().eval())
    assert best_backend(dial.layers) is Backend.NATIVE
    dial.install(Backend.NATIVE, IDS_BS)
    assert not hasattr(dial.layers[0].experts, "gate_up_proj")


def test_experts_that_the_kernel_does_not_know_are_refused_by_name_and_served_otherwise() -> None:
    dial = ExpertDial(qwen(hidden_act="gelu").eval())
    assert best_backend(dial.layers) is Backend.GROUPED_MM
    with pytest.raises(ValueError, match=r"layers\.0\.mlp: Qwen3MoeExperts cannot be run by the"):
        dial.install(Backend.NATIVE, IDS_BS)
    dial.install(Backend.GROUPED_MM, IDS_BS)
    dial.prove(IDS_BS)


def test_a_cap_is_refused_where_routers_do_not_rank_by_weight() -> None:
    dial = ExpertDial(DEEPSEEK.build())
    dial.install(Backend.EAGER, DEEPSEEK_IDS_BS)
    with pytest.raises(NotElasticError, match="cannot be capped: the routers do not rank by"):
        dial.set_by_token([(1, 1)], torch.zeros(24, dtype=torch.long), caps=(4, 4))
    assert dial.plan == dial.trained_plan
