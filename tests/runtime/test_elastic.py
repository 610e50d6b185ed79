"""The dial turns k' of real MoE layers, exactly, and refuses a model that does not follow."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from runtime.elastic import ExpertDial
from runtime.moe_layers import NotElasticError

IDS_BS = torch.arange(24).view(2, 12)
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # wide, so that the choice of experts shows in the output
}


def qwen3(k: int = 4) -> Qwen3MoeForCausalLM:
    """Random, three layers of eight experts; the weights do not depend on k."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **SHAPE,
        head_dim=8,
        moe_intermediate_size=16,
        num_experts=8,
        num_experts_per_tok=k,
        norm_topk_prob=True,
    )
    return Qwen3MoeForCausalLM(config).eval()


def olmoe(k: int = 4) -> OlmoeForCausalLM:
    torch.manual_seed(0)
    config = OlmoeConfig(**SHAPE, num_experts=8, num_experts_per_tok=k, eos_token_id=0)
    return OlmoeForCausalLM(config).eval()


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS_BS).logits


MODELS = pytest.mark.parametrize("build", [qwen3, olmoe])


@MODELS
def test_finds_every_moe_layer_in_order(build: type[PreTrainedModel]) -> None:
    dial = ExpertDial(build())
    names = [layer.name for layer in dial.layers]
    assert names == ["model.layers.0.mlp", "model.layers.1.mlp", "model.layers.2.mlp"]
    assert dial.plan == dial.trained_plan == (4, 4, 4)
    assert dial.max_k == 8


def test_a_layer_without_experts_is_passed_over() -> None:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**SHAPE, num_experts=8, num_experts_per_tok=4, mlp_only_layers=[1])
    dial = ExpertDial(Qwen3MoeForCausalLM(config))
    assert [layer.name for layer in dial.layers] == ["model.layers.0.mlp", "model.layers.2.mlp"]


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(NotElasticError, match="LlamaForCausalLM has no MoE layer"):
        ExpertDial(LlamaForCausalLM(LlamaConfig(**SHAPE)))


@MODELS
def test_both_kinds_of_model_prove_elastic(build: type[PreTrainedModel]) -> None:
    dial = ExpertDial(build())
    dial.prove(IDS_BS)
    assert dial.plan == dial.trained_plan


@MODELS
@pytest.mark.parametrize("k", [1, 2, 4, 7, 8])
def test_a_uniform_k_is_the_model_built_with_it(build: type[PreTrainedModel], k: int) -> None:
    model = build()
    ExpertDial(model).set([k, k, k])
    assert (logits(model) - logits(build(k))).abs().max() <= 1e-5


def test_the_plan_holds_until_the_next() -> None:
    dial = ExpertDial(qwen3())
    dial.set([1, 8, 3])
    assert dial.plan == (1, 8, 3)
    assert dial.trained_plan == (4, 4, 4)
    dial.set((2, 2, 2))
    assert dial.plan == (2, 2, 2)


@MODELS
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layer_by_itself_changes_the_output_and_restores_bit_for_bit(
    build: type[PreTrainedModel], layer: int
) -> None:
    model = build()
    dial, full = ExpertDial(model), logits(model)
    plan = [4, 4, 4]
    plan[layer] = 1
    with dial.at(plan):
        assert dial.plan == tuple(plan)
        assert not torch.equal(logits(model), full)
    assert dial.plan == (4, 4, 4)
    assert torch.equal(logits(model), full)


def test_a_block_restores_what_was_set_before_it_even_if_it_fails() -> None:
    dial = ExpertDial(qwen3())
    dial.set([3, 3, 3])
    with pytest.raises(KeyError), dial.at([1, 1, 1]), dial.at([2, 2, 2]):
        assert dial.plan == (2, 2, 2)
        raise KeyError
    assert dial.plan == (3, 3, 3)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([], r"plan \[\] has 0 layers, the model 3"),
        ([1, 1], r"plan \[1, 1\] has 2 layers, the model 3"),
        ([1, 1, 1, 1], r"plan \[1, 1, 1, 1\] has 4 layers, the model 3"),
        ([1, 1, 0], r"model.layers.2.mlp: k'=0 is not in 1..8"),
        ([1, 9, 1], r"model.layers.1.mlp: k'=9 is not in 1..8"),
        ([-1, 1, 1], r"model.layers.0.mlp: k'=-1 is not in 1..8"),
    ],
)
def test_a_plan_that_cannot_be_changes_nothing(plan: list[int], message: str) -> None:
    dial = ExpertDial(qwen3())
    with pytest.raises(ValueError, match=message):
        dial.set(plan)
    assert dial.plan == (4, 4, 4)
    with pytest.raises(ValueError, match=message), dial.at(plan):
        pass
    assert dial.plan == (4, 4, 4)


class StubbornRouter(Qwen3MoeTopKRouter):
    """Runs four experts whatever `top_k` says."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        asked, self.top_k = self.top_k, 4
        try:
            return super().forward(hidden_states)
        finally:
            self.top_k = asked


def test_a_router_that_ignores_its_top_k_is_refused_by_name() -> None:
    model = qwen3()
    stubborn = StubbornRouter(model.config)
    stubborn.load_state_dict(model.model.layers[1].mlp.gate.state_dict())
    model.model.layers[1].mlp.gate = stubborn
    dial, full = ExpertDial(model), logits(model)
    with pytest.raises(NotElasticError, match=r"model.layers.1.mlp: set k'=1, but 4 experts ran"):
        dial.prove(IDS_BS)
    assert dial.plan == (4, 4, 4)
    assert torch.equal(logits(model), full)


def test_experts_that_add_nothing_are_refused() -> None:
    model = qwen3()
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mlp.experts.down_proj)
    with pytest.raises(NotElasticError, match="k'=1 leaves the output unchanged"):
        ExpertDial(model).prove(IDS_BS)


class Wearing(torch.nn.Module):
    """A block whose output changes from one call to the next."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block, self.calls = block, 0

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.block(hidden_states) * self.calls


def test_a_model_that_does_not_return_to_its_output_is_refused() -> None:
    model = qwen3()
    model.model.layers[0].mlp = Wearing(model.model.layers[0].mlp)
    with pytest.raises(NotElasticError, match="does not restore the output bit for bit"):
        ExpertDial(model).prove(IDS_BS)


def test_the_proof_leaves_plan_and_hooks_as_they_were() -> None:
    model = qwen3()
    dial = ExpertDial(model)
    dial.prove(IDS_BS)
    assert dial.plan == (4, 4, 4)
    assert not any(layer.experts._forward_pre_hooks for layer in dial.layers)
