"""The fast experts are transformers' own, output and gradients, and step aside elsewhere."""

import pytest
import torch
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedModel

from tests.training.families import SHAPE, mixtral, olmoe, qwen
from training.experts import NAME, use_fast_experts


def loss_and_gradients(model: PreTrainedModel) -> tuple[float, dict[str, torch.Tensor]]:
    ids_BS = torch.arange(40).view(2, 20) % 64
    model.zero_grad()
    loss = model(ids_BS, labels=ids_BS).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("build", [qwen, olmoe, mixtral])
def test_loss_and_gradients_are_those_of_the_loop_over_experts(build) -> None:  # noqa: ANN001
    model = build(num_experts_per_tok=3)
    model.set_experts_implementation("eager")
    expected_loss, expected = loss_and_gradients(model)
    use_fast_experts(model)
    assert model.config._experts_implementation == NAME
    loss, gradients = loss_and_gradients(model)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in gradients.items():
        size = expected[name].abs().max().item()
        assert torch.allclose(gradient, expected[name], atol=1e-5 * size), name


def test_slots_of_no_expert_are_skipped_as_by_transformers() -> None:
    """Output and every gradient, with a third of the slots empty and one token without any."""
    model = qwen(num_experts_per_tok=3)
    num_experts = model.config.num_experts

    def empty_some(_experts: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden_TD, index_TK, weight_TK = args
        empty_TK = torch.arange(index_TK.numel()).view(index_TK.shape) % 3 == 1
        empty_TK[7] = True
        weight_TK = weight_TK.masked_fill(empty_TK, 0)
        return hidden_TD, index_TK.masked_fill(empty_TK, num_experts), weight_TK

    for layer in model.model.layers:
        layer.mlp.experts.register_forward_pre_hook(empty_some)
    model.set_experts_implementation("eager")
    expected_loss, expected = loss_and_gradients(model)
    use_fast_experts(model)
    loss, gradients = loss_and_gradients(model)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in gradients.items():
        size = expected[name].abs().max().item()
        assert torch.allclose(gradient, expected[name], atol=1e-5 * size), name


def test_half_precision_stays_close_to_single() -> None:
    model = qwen()
    use_fast_experts(model)
    expected_loss, expected = loss_and_gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradients = loss_and_gradients(model)
    assert loss == pytest.approx(expected_loss, rel=0.01)
    name = "model.layers.1.mlp.experts.down_proj"
    assert gradients[name].dtype == torch.float32
    cosine = torch.cosine_similarity(gradients[name].flatten(), expected[name].flatten(), dim=0)
    assert cosine > 0.99


def test_experts_that_no_token_picks_get_no_gradient() -> None:
    model = qwen()
    use_fast_experts(model)
    for layer in model.model.layers:
        with torch.no_grad():  # the softmax of four equal rows ties; the rest are never picked
            layer.mlp.gate.weight[4:] = layer.mlp.gate.weight[:1] - 100 * torch.sign(
                layer.mlp.gate.weight[:1]
            )
        layer.mlp.gate.top_k = 1
    _loss, gradients = loss_and_gradients(model)
    weights = gradients["model.layers.0.mlp.experts.gate_up_proj"]
    assert weights.isfinite().all()
    assert (weights.abs().amax(dim=(1, 2)) == 0).any()


def test_experts_of_another_make_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = GptOssForCausalLM(GptOssConfig(**SHAPE, head_dim=8, num_local_experts=4))
    use_fast_experts(model)
    assert model.config._experts_implementation == "eager"
