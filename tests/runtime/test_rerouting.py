"""A router that ranks by more than the weights it gives is asked again for a smaller k'."""

import pytest
import torch

from runtime.elastic import ExpertDial
from runtime.experts import Backend
from runtime.fusion import fuse
from runtime.moe_layers import find_moe_layers, watch_experts
from runtime.native.library import can_run
from runtime.rerouting import Rerouter, ranks_by_weight
from tests.runtime.families import FAMILIES, IDS_BS, NUM_EXPERTS
from tests.training.families import qwen

E = NUM_EXPERTS["num_experts"]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_found_out_by_asking_the_routers(name: str) -> None:
    family = FAMILIES[name]
    model = family.build()
    layers = find_moe_layers(model)
    before = [layer.k for layer in layers]
    assert ranks_by_weight(model, layers, IDS_BS) == family.nested_by_weight
    assert [layer.k for layer in layers] == before
    assert not any(layer.router._forward_pre_hooks for layer in layers)


@pytest.mark.skipif(not can_run(torch.bfloat16), reason="needs AVX-512 BF16 and g++")
def test_a_fused_router_ranks_weights_that_tie_alike_at_every_k() -> None:
    """Broke in bf16: by torch's top-k, ties make one selection at one k, another at the next."""
    model = qwen(num_experts=64, num_experts_per_tok=8).eval().to(torch.bfloat16)
    fuse(model)
    layers = find_moe_layers(model)
    ids_BS = torch.arange(60)[None]
    with watch_experts(layers) as seen, torch.inference_mode():
        model(ids_BS)
    weight_TK = seen[layers[0].name].weight_TK
    assert any(len(set(row)) < len(row) for row in weight_TK.tolist())  # there are ties
    assert ranks_by_weight(model, layers, ids_BS)


@pytest.mark.parametrize("fused", [True, False])
def test_in_bf16_too_a_sequence_runs_as_if_alone(fused: bool) -> None:
    model = qwen(num_experts=64, num_experts_per_tok=8).eval().to(torch.bfloat16)
    if fused:
        fuse(model)
    dial = ExpertDial(model)
    dial.install(Backend.EAGER, torch.arange(60)[None])
    assert dial.not_by_token is None


@torch.inference_mode()
def test_tokens_of_several_ks_get_what_the_router_selects_at_each() -> None:
    model = FAMILIES["deepseek_v3"].build()
    layer = find_moe_layers(model)[0]
    rerouter = Rerouter(layer)
    layer.k = widest = layer.max_k
    with watch_experts([layer]) as seen:
        model(IDS_BS)
    budget_T = 1 + torch.arange(IDS_BS.numel()) % widest
    index_TK, weight_TK = rerouter.merge(seen[layer.name], budget_T, range(1, widest + 1), E)
    assert layer.k == widest
    for k in range(1, widest + 1):
        rows = budget_T == k
        selected = rerouter.select(k)
        assert torch.equal(index_TK[rows, :k], selected.index_TK[rows])
        assert torch.equal(weight_TK[rows, :k], selected.weight_TK[rows])
        assert (index_TK[rows, k:] == E).all()
        assert (weight_TK[rows, k:] == 0).all()
