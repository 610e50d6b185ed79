"""One contract for the MoE families of transformers: k' is what runs, and nothing else changes.

Each family is a tiny random model of `tests.runtime.families`; so is each that is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from runtime.elastic import ExpertDial
from runtime.experts import Backend
from runtime.moe_layers import (
    MoeLayer,
    NotElasticError,
    Routing,
    find_moe_layers,
    fixed_layers,
    renormalising,
    watch_experts,
)
from tests.runtime.families import (
    FAMILIES,
    GROUPS,
    IDS_BS,
    LEFT_OUT,
    NUM_EXPERTS,
    REFUSED,
    SHAPE,
    Family,
    K,
)

NOT_BY_TOKEN = {
    # Its router also weighs the shared experts, by a sum that the routed ones take part in.
    "InklingForCausalLM": "one k' for all tokens of a step: at k'=1",
}
NO_GROUPS = {"n_group": None, "topk_group": None}
MODELING_FILES = Path(transformers.__file__).parent.glob("models/*/modeling_*.py")


class Case(NamedTuple):
    family: Family
    model: PreTrainedModel
    layers: list[MoeLayer]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    """Built once for all tests: each leaves every layer at K."""
    family = FAMILIES[request.param]
    model = family.build()
    return Case(family, model, find_moe_layers(model))


@contextmanager
def k_of(layers: list[MoeLayer], k: int) -> Iterator[None]:
    for layer in layers:
        layer.k = k
    yield
    for layer in layers:
        layer.k = K


@torch.inference_mode()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(IDS_BS).logits


@torch.inference_mode()
def routings(model: PreTrainedModel, layers: list[MoeLayer]) -> list[Routing]:
    with watch_experts(layers) as seen:
        model(IDS_BS)
    return [seen[layer.name] for layer in layers]


def num_run(layer: MoeLayer, routing: Routing) -> int:
    """Experts that ran for each token: so many, all of them experts, none of them twice."""
    width = routing.index_TK.shape[-1]
    assert routing.index_TK.shape == routing.weight_TK.shape == (IDS_BS.numel(), width)
    assert routing.index_TK.min() >= 0
    assert routing.index_TK.max() < layer.num_experts
    assert all(len(set(token)) == width for token in routing.index_TK.tolist())
    return width


def some_ks(family: Family) -> list[int]:
    return [1, 2, family.max_k]


def test_every_family_on_the_experts_interface_is_here_or_left_out_with_a_reason() -> None:
    with_experts = {
        file.parent.name for file in MODELING_FILES if "@use_experts_impl" in file.read_text()
    }
    assert with_experts == FAMILIES.keys() | LEFT_OUT.keys()
    assert not FAMILIES.keys() & LEFT_OUT.keys()


def test_every_moe_layer_is_found_with_its_experts(case: Case) -> None:
    assert len(case.layers) >= 2
    for layer in case.layers:
        assert (layer.k, layer.num_experts, layer.max_k) == (K, 8, case.family.max_k)


def test_k_is_the_number_of_experts_that_run_in_all_layers(case: Case) -> None:
    for k in some_ks(case.family):
        with k_of(case.layers, k):
            ran = routings(case.model, case.layers)
        assert [num_run(*pair) for pair in zip(case.layers, ran, strict=True)] == [k] * len(ran)


def test_every_k_changes_the_output_and_restoring_restores_every_bit(case: Case) -> None:
    full = logits(case.model)
    for k in some_ks(case.family):
        with k_of(case.layers, k):
            assert not torch.equal(logits(case.model), full)
        assert torch.equal(logits(case.model), full)


def test_a_layer_is_turned_by_itself(case: Case) -> None:
    full = logits(case.model)
    for turned in case.layers:
        with k_of([turned], 1):
            ran = routings(case.model, case.layers)
            assert not torch.equal(logits(case.model), full)
        widths = [num_run(*pair) for pair in zip(case.layers, ran, strict=True)]
        assert widths == [1 if layer is turned else K for layer in case.layers]
        assert torch.equal(logits(case.model), full)


def test_a_uniform_k_is_the_model_built_with_it(case: Case) -> None:
    for k in some_ks(case.family):
        built = case.family.build(k)
        built.load_state_dict(case.model.state_dict())
        with k_of(case.layers, k):
            assert (logits(case.model) - logits(built)).abs().max() <= 1e-5


def test_the_dial_proves_elastic(case: Case) -> None:
    dial = ExpertDial(case.model)
    dial.prove(IDS_BS)
    assert dial.plan == dial.trained_plan == (K,) * len(case.layers)
    assert dial.max_k == case.family.max_k


def test_kprimes_own_experts_give_the_unmodified_model_bit_for_bit(case: Case) -> None:
    model = case.family.build()
    model.set_experts_implementation("eager")
    unmodified = logits(model)
    dial = ExpertDial(model)
    dial.install(Backend.EAGER, IDS_BS)
    assert torch.equal(logits(model), unmodified)


@pytest.mark.parametrize("backend", [Backend.EAGER, Backend.GROUPED_MM, Backend.BATCHED_MM])
def test_a_sequence_beside_one_of_another_k_runs_as_if_alone(case: Case, backend: Backend) -> None:
    dial = ExpertDial(case.family.build())
    dial.install(backend, IDS_BS)
    plans = [[1] * len(case.layers), [2] * len(case.layers)]
    if reason := NOT_BY_TOKEN.get(case.family.model):
        with pytest.raises(NotElasticError, match=reason):
            dial.set_by_token(plans, torch.zeros(IDS_BS.numel(), dtype=torch.long))
        return
    alone = []
    for plan, ids_S in zip(plans, IDS_BS, strict=True):
        with dial.at(plan), torch.inference_mode():
            alone.append(dial.model(ids_S[None]).logits)
    dial.set_by_token(plans, torch.tensor([0, 1]).repeat_interleave(IDS_BS.shape[1]))
    assert (logits(dial.model) - torch.cat(alone)).abs().max() <= 1e-5


def test_each_token_runs_as_many_experts_as_its_plan_says(case: Case) -> None:
    dial = ExpertDial(case.family.build())
    dial.install(Backend.EAGER, IDS_BS)
    if case.family.model in NOT_BY_TOKEN:
        return
    plans = [[k] * len(case.layers) for k in some_ks(case.family)]
    choice_T = torch.arange(IDS_BS.numel()) % len(plans)
    dial.load_LE.zero_()
    dial.set_by_token(plans, choice_T)
    logits(dial.model)
    slots = sum(plans[choice][0] for choice in choice_T.tolist())
    assert dial.load_LE.sum(1).tolist() == [slots] * len(case.layers)


@torch.inference_mode()
def test_the_router_returns_what_the_table_says(case: Case) -> None:
    layer, outputs = case.layers[0], []
    handle = layer.router.register_forward_hook(lambda _m, _args, output: outputs.append(output))
    routing = routings(case.model, case.layers)[0]
    handle.remove()
    returned = outputs[0] if isinstance(outputs[0], tuple) else outputs
    assert tuple(what(each, routing, layer) for each in returned) == case.family.returns


def what(tensor: torch.Tensor, routing: Routing, layer: MoeLayer) -> str:
    """What a router returned, by comparison with what the experts got."""
    if torch.equal(tensor, routing.index_TK):
        return "indices"
    if torch.equal(tensor, routing.weight_TK):
        return "weights"
    if tensor.shape == IDS_BS.shape + (case_width := tensor.shape[-1:]):
        return "hidden states" if case_width != (layer.num_experts,) else "logits"
    if tensor.shape[-1] != layer.num_experts:
        return "other"
    sums_to_one = torch.allclose(tensor.sum(-1), torch.ones(len(tensor)))
    return "probabilities" if sums_to_one else "logits"


def test_the_largest_weights_are_the_narrower_selection_where_the_table_says_so(
    case: Case,
) -> None:
    # The first layer alone: the hidden states of the others change with k'.
    first = case.layers[:1]
    with k_of(first, case.family.max_k):
        index_TK, weight_TK = routings(case.model, first)[0]
    nested = True
    for k in range(1, case.family.max_k):
        with k_of(first, k):
            selected_TK = routings(case.model, first)[0].index_TK
        largest_TK = index_TK.gather(-1, weight_TK.topk(k, dim=-1).indices)
        nested &= torch.equal(selected_TK.sort(-1).values, largest_TK.sort(-1).values)
    assert nested == case.family.nested_by_weight


def test_the_weights_keep_their_sum_where_the_table_says_so(case: Case) -> None:
    kept = renormalising(case.model, case.layers, IDS_BS)
    assert kept == [case.family.renormalises] * len(case.layers)
    assert [layer.k for layer in case.layers] == [K] * len(case.layers)


# Not AXK2: what it masks scores 0, and so may beat what is open, after a negative bias.
GROUPED = [name for name, family in FAMILIES.items() if family.max_k < 8 and name != "axk2"]


@pytest.mark.parametrize("name", GROUPED)
def test_beyond_max_k_a_router_would_select_from_groups_that_it_masked(name: str) -> None:
    model = FAMILIES[name].build()
    first = find_moe_layers(model)[:1]
    assert num_groups_of_a_token(model, first, first[0].max_k) <= GROUPS["topk_group"]
    assert num_groups_of_a_token(model, first, first[0].max_k + 1) > GROUPS["topk_group"]


def num_groups_of_a_token(model: PreTrainedModel, layers: list[MoeLayer], k: int) -> int:
    """The most groups that the experts of one token belong to."""
    with k_of(layers, k):
        index_TK = routings(model, layers)[0].index_TK
    groups_TK = index_TK // (layers[0].num_experts // GROUPS["n_group"])
    return max(len(set(groups)) for groups in groups_TK.tolist())


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_a_dial_is_refused_with_the_reason(name: str) -> None:
    family, k, layer, reason = REFUSED[name]
    with pytest.raises(NotElasticError, match=f"{family.model}: {layer}: {reason}"):
        find_moe_layers(family.build(k))


def test_a_dense_model_has_nothing_to_turn() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    with pytest.raises(NotElasticError, match="LlamaForCausalLM has no MoE layer"):
        find_moe_layers(model)
    assert fixed_layers(model) == {}


def test_layers_that_are_fixed_are_passed_over_beside_others() -> None:
    family = FAMILIES["deepseek_v4"]
    fields = family.fields | {"mlp_layer_types": ["hash_moe", "moe"]}
    model = replace(family, fields=fields).build()
    assert [layer.name for layer in find_moe_layers(model)] == ["model.layers.1.mlp"]
    reason = "DeepseekV4HashRouter takes its experts from a fixed table of token ids"
    assert fixed_layers(model) == {"model.layers.0.mlp": reason}
    ExpertDial(model).prove(IDS_BS)


def test_experts_of_images_are_passed_over_in_a_model_that_is_served_text() -> None:
    model = FAMILIES["ernie4_5_vl_moe"].build()
    prefix = "model.language_model.layers"
    names = [layer.name for layer in find_moe_layers(model)]
    assert names == [f"{prefix}.{number}.mlp.text_moe" for number in (0, 1)]
    assert list(fixed_layers(model)) == [f"{prefix}.{number}.mlp.vision_moe" for number in (0, 1)]


def test_a_router_that_reads_the_config_of_the_model_gets_its_own() -> None:
    model = FAMILIES["gemma4"].build()
    first, second = find_moe_layers(model)
    first.k = 1
    assert (first.k, second.k, model.config.top_k_experts) == (1, K, K)
    assert first.k_attribute == "config.top_k_experts"


def test_routers_of_diffusion_gemma_are_set_one_by_one_too() -> None:
    modeling = transformers.models.diffusion_gemma.modeling_diffusion_gemma
    config = transformers.DiffusionGemmaTextConfig(
        **SHAPE, **NUM_EXPERTS, top_k_experts=K, experts_implementation="eager"
    )
    layers = [
        MoeLayer(
            name,
            modeling.DiffusionGemmaTextRouter(config),
            modeling.DiffusionGemmaTextExperts(config),
        )
        for name in ("first", "second")
    ]
    layers[0].k = 1
    widths = [layer.router(torch.randn(4, 32))[2].shape[-1] for layer in layers]
    assert widths == [layer.k for layer in layers] == [1, K]


def test_groups_limit_k_only_where_they_limit_the_routing() -> None:
    family = FAMILIES["deepseek_v2"]
    greedy = replace(family, fields=family.fields | {"topk_method": "greedy"}).build()
    assert [layer.max_k for layer in find_moe_layers(greedy)] == [8, 8]
    ungrouped = replace(FAMILIES["axk2"], fields=FAMILIES["axk2"].fields | NO_GROUPS).build()
    assert [layer.max_k for layer in find_moe_layers(ungrouped)] == [8, 8]


# What the refusals by name say is so, since no structure shows it.


def built_to_be_refused(name: str) -> PreTrainedModel:
    return REFUSED[name].family.build(REFUSED[name].k)


def test_llama4_computes_all_experts_whatever_k_is() -> None:
    model = built_to_be_refused("llama4")
    block, rows = model.model.layers[0].feed_forward, []
    block.experts.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    for k in (1, 2):
        block.router.top_k = k
        logits(model)
    assert rows == [8 * IDS_BS.numel()] * 2


def test_longcat_selects_experts_that_compute_nothing() -> None:
    model = built_to_be_refused("longcat_flash")
    block, seen = model.model.layers[0].mlp, []
    block.experts.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    logits(model)
    computing = (seen[0] < block.experts.num_routed_experts).sum(-1)
    assert computing.min() < computing.max() <= K


def test_the_privacy_filter_scales_its_output_when_k_is_set() -> None:
    refused = REFUSED["openai_privacy_filter"]
    model, built = built_to_be_refused("openai_privacy_filter"), refused.family.build(1)
    built.load_state_dict(model.state_dict())
    for layer in model.model.layers:
        layer.mlp.router.top_k = 1
    assert (logits(model) - logits(built)).abs().max() > 0.1


def test_phimoe_runs_two_experts_whatever_k_is() -> None:
    model = built_to_be_refused("phimoe")
    block, widths = model.model.layers[0].mlp, []
    block.experts.register_forward_pre_hook(lambda _m, args: widths.append(args[1].shape[-1]))
    block.router.top_k = 1
    logits(model)
    assert widths == [2]


def test_zaya_allows_no_second_expert() -> None:
    with pytest.raises(Exception, match="num_experts_per_tok=1"):
        REFUSED["zaya"].family.build_config(2)
