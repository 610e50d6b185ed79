"""What a layer runs while it trains: drawn as the papers say, imposed on real routers."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from tests.training.families import FAMILIES, olmoe, qwen
from training.recipe import Elasticity
from training.routing import (
    Draw,
    TrainingRouting,
    co_activate,
    draw_layer,
    keep_best,
)

IDS_BS = torch.arange(40).view(2, 20) % 64


def draws(elasticity: Elasticity, count: int, num_experts: int = 32) -> list[Draw]:
    random = np.random.default_rng(1)
    return [draw_layer(elasticity, num_experts, random) for _ in range(count)]


def offered(
    num_tokens: int, num_offered: int, *, shuffled: bool = False
) -> tuple[torch.Tensor, ...]:
    """The same router answer for every token: expert e has rank e and weight falling in e."""
    index_P = torch.arange(num_offered)
    if shuffled:  # some families return experts unsorted
        index_P = index_P[torch.randperm(num_offered, generator=torch.Generator().manual_seed(5))]
    weight_P = torch.softmax(-0.3 * index_P.float(), dim=0)
    return index_P.expand(num_tokens, -1), weight_P.expand(num_tokens, -1)


def sampled(
    num_tokens: int, num_offered: int, k: int, *, renormalise: bool = True, shuffled: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    index_TP, weight_TP = offered(num_tokens, num_offered, shuffled=shuffled)
    return co_activate(
        index_TP, weight_TP, k, renormalise=renormalise, generator=torch.Generator().manual_seed(1)
    )


def frequency(hits_T: torch.Tensor) -> float:
    return hits_T.float().mean().item()


def test_plain_top_k_draws_nothing() -> None:
    assert set(draws(Elasticity(k=8), 50)) == {Draw(8, 8)}


def test_m_moe_draws_every_k_of_its_range_equally_often() -> None:
    counts = np.bincount([draw.k for draw in draws(Elasticity(k=2, k_range=(1, 4)), 4000)])
    # 1,000 each expected; five standard deviations are 137.
    assert counts[0] == 0
    assert len(counts) == 5
    assert (abs(counts[1:] - 1000) < 137).all()


def test_the_capacity_aware_draw_is_proportional_to_a_root_of_k() -> None:
    elasticity = Elasticity(k=1, k_range=(1, 4), capacity_temperature=2)
    counts = np.bincount([draw.k for draw in draws(elasticity, 8000)], minlength=5)[1:]
    expected = np.sqrt([1, 2, 3, 4]) / np.sqrt([1, 2, 3, 4]).sum() * 8000
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_a_share_of_the_draws_stays_at_plain_top_k() -> None:
    drawn = draws(Elasticity(k=2, pool=8, share=0.25), 4000)
    assert set(drawn) == {Draw(2, 8), Draw(2, 2)}
    assert abs(sum(draw.pool == 8 for draw in drawn) - 1000) < 137


def test_pools_grow_with_the_drawn_k_and_end_with_the_experts() -> None:
    drawn = set(draws(Elasticity(k=4, k_range=(1, 12), pool=12), 2000, num_experts=32))
    assert drawn == {Draw(k, min(3 * k, 32)) for k in range(1, 13)}


def test_every_expert_of_a_token_is_another_one_of_the_offered() -> None:
    index_TK, weight_TK = sampled(500, 12, 4)
    assert index_TK.shape == weight_TK.shape == (500, 4)
    assert all(len(set(row)) == 4 for row in index_TK.tolist())
    assert set(index_TK.flatten().tolist()) == set(range(12))


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_rank_runs_as_often_as_the_drawn_pools_say(shuffled: bool) -> None:
    """Rank r is in pools larger than r, and of a pool of n each runs with probability k / n."""
    index_TK, _weights = sampled(20_000, 6, 2, shuffled=shuffled)
    pools = range(2, 7)  # each with probability 1/5
    for rank in range(6):
        expected = sum(2 / n for n in pools if n > rank) / len(pools)
        assert frequency((index_TK == rank).any(1)) == pytest.approx(expected, abs=0.018)


def test_a_pair_runs_together_as_often_as_the_paper_says() -> None:
    """C(k~ - 2, k - 2) / C(k~, k) for one pool size, averaged over the pools that hold the pair."""
    k, largest = 3, 6
    index_TK, _weights = sampled(20_000, largest, k)
    pools = range(k, largest + 1)
    for pair in combinations(range(largest), 2):
        expected = sum(
            math.comb(n - 2, k - 2) / math.comb(n, k) for n in pools if n > max(pair)
        ) / len(pools)
        together_T = (index_TK == pair[0]).any(1) & (index_TK == pair[1]).any(1)
        assert frequency(together_T) == pytest.approx(expected, abs=0.018)


def test_with_all_offered_in_every_pool_the_pair_probability_is_the_closed_form() -> None:
    """k = P leaves one pool size only: everything runs, C(k - 2, k - 2) / C(k, k) = 1."""
    index_TK, weight_TK = sampled(50, 4, 4)
    assert all(sorted(row) == [0, 1, 2, 3] for row in index_TK.tolist())
    assert torch.allclose(weight_TK.sum(1), torch.ones(50))


@given(k=st.integers(1, 6), extra=st.integers(0, 6), shuffled=st.booleans())
def test_renormalised_weights_keep_their_sum_and_their_proportions(
    k: int, extra: int, shuffled: bool
) -> None:
    index_TP, weight_TP = offered(20, k + extra, shuffled=shuffled)
    index_TK, weight_TK = sampled(20, k + extra, k, shuffled=shuffled)
    assert torch.allclose(weight_TK.sum(1), weight_TP.sum(1))
    by_expert_P = torch.empty_like(weight_TP[0])
    by_expert_P[index_TP[0]] = weight_TP[0]
    expected_TK = by_expert_P[index_TK]
    ratio_TK = weight_TK / expected_TK
    assert torch.allclose(ratio_TK, ratio_TK[:, :1].expand_as(ratio_TK))


def test_without_renormalisation_the_weights_are_the_routers_own() -> None:
    index_TK, weight_TK = sampled(50, 6, 2, renormalise=False)
    _index, weight_TP = offered(50, 6)
    assert torch.equal(weight_TK, weight_TP.gather(1, index_TK))


@given(ks=st.lists(st.integers(1, 7), min_size=1, max_size=9), shuffled=st.booleans())
def test_every_token_keeps_its_own_k_best_and_loses_the_rest(ks: list[int], shuffled: bool) -> None:
    index_TP, weight_TP = offered(len(ks), 7, shuffled=shuffled)
    index_TK, weight_TK = keep_best(
        index_TP, weight_TP, torch.tensor(ks), renormalise=True, nowhere=7
    )
    assert torch.allclose(weight_TK.sum(1), weight_TP.sum(1))
    for k, index_K, weight_K in zip(ks, index_TK, weight_TK, strict=True):
        kept_K = index_K < 7
        assert set(index_K[kept_K].tolist()) == set(range(k))  # expert e has rank e
        assert not weight_K[~kept_K].any()


def ran(model: PreTrainedModel, routing: TrainingRouting) -> list[tuple[torch.Tensor, ...]]:
    """(experts, weights) that every layer really ran in one forward pass."""
    seen = []
    handles = [
        layer.experts.register_forward_pre_hook(lambda _m, args: seen.append(args[1:3]))
        for layer in routing.dial.layers
    ]
    model(IDS_BS)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("build", FAMILIES)
def test_a_step_runs_k_experts_from_beyond_the_top_k(build) -> None:  # noqa: ANN001
    model = build().eval()
    routing = TrainingRouting(model, Elasticity(k=2, pool=6))
    with routing.served_at(2):
        top = [set(map(tuple, index.sort(1).values.tolist())) for index, _ in ran(model, routing)]
    routing.begin_step(seed=1, step=0, batch=2)
    for (index_TK, weight_TK), served in zip(ran(model, routing), top, strict=True):
        assert index_TK.shape == (40, 2)
        assert set(map(tuple, index_TK.sort(1).values.tolist())) - served
        if build is not olmoe:
            assert torch.allclose(weight_TK.sum(1), torch.ones(40), atol=1e-5)


def test_every_layer_runs_as_many_as_it_drew() -> None:
    model = qwen().eval()
    routing = TrainingRouting(model, Elasticity(k=2, k_range=(1, 8)))
    widths = set()
    for step in range(20):
        routing.begin_step(seed=1, step=step, batch=2)
        shapes = [index_TK.shape[1] for index_TK, _ in ran(model, routing)]
        assert shapes == [draw.k for [draw] in routing.draws]
        widths.add(tuple(shapes))
    assert len(widths) > 5


@pytest.mark.parametrize("build", FAMILIES)
def test_a_sequence_that_draws_its_own_k_is_computed_as_if_alone_at_it(build) -> None:  # noqa: ANN001
    model = build().eval()
    model.set_experts_implementation("eager")
    routing = TrainingRouting(model, Elasticity(k=2, k_range=(1, 8), draw_per="sequence"))
    ids_BS = (torch.arange(80).view(4, 20) * 7) % 64
    routing.begin_step(seed=1, step=0, batch=4)
    ks_LB = [[draw.k for draw in draws] for draws in routing.draws]
    assert len(set(map(tuple, zip(*ks_LB, strict=True)))) > 1
    together = model(ids_BS).logits
    routing.draws = []
    for sequence, plan in enumerate(zip(*ks_LB, strict=True)):
        with routing.dial.at(plan):
            alone = model(ids_BS[sequence : sequence + 1]).logits
        assert torch.allclose(together[sequence], alone[0], atol=1e-5)


def test_a_step_follows_from_seed_and_step_alone() -> None:
    model = qwen().eval()
    routing = TrainingRouting(model, Elasticity(k=2, pool=6))

    def output(seed: int, step: int) -> torch.Tensor:
        routing.begin_step(seed, step, batch=2)
        return model(IDS_BS).logits

    first = output(1, 5)
    assert not torch.equal(output(1, 6), first)
    assert not torch.equal(output(2, 5), first)
    assert torch.equal(output(1, 5), first)


def test_served_at_k_is_the_unmodified_model_and_leaves_the_step_as_it_was() -> None:
    model = qwen().eval()
    expected = model(IDS_BS).logits
    routing = TrainingRouting(model, Elasticity(k=2, pool=6))
    routing.begin_step(seed=1, step=0, batch=2)
    with routing.served_at(2):
        assert torch.equal(model(IDS_BS).logits, expected)
    assert routing.dial.plan == (6, 6)
    assert routing.draws


def test_the_logits_of_every_layer_are_those_of_the_last_forward() -> None:
    model = qwen().eval()
    routing = TrainingRouting(model, Elasticity(k=2))
    model(IDS_BS)
    model(IDS_BS[:1])
    assert [logits.shape for logits in routing.router_logits] == [(20, 8), (20, 8)]
