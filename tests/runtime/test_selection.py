"""A token's budget keeps its best experts, weighed by the model's rule, in fixed shapes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.selection import Rule, anchor, keep_best, keep_shared

E = 16
PLAIN, RENORMALISED = Rule(renormalises=False), Rule(renormalises=True)


@st.composite
def selections(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distinct experts of each token in any order, positive weights, and budgets."""
    tokens, width = draw(st.integers(0, 6)), draw(st.integers(1, 8))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    weight_TK = torch.rand(tokens, width) + 0.01
    index_TK = torch.rand(tokens, E).topk(width).indices if tokens else torch.zeros(0, width).long()
    budget_T = torch.randint(1, width + 1, (tokens,))
    return index_TK, weight_TK, budget_T


def as_sets(index_TK: torch.Tensor) -> list[set[int]]:
    return [{e for e in row if e < E} for row in index_TK.tolist()]


@given(selections())
def test_a_token_keeps_the_experts_of_its_largest_weights(selection) -> None:  # noqa: ANN001
    index_TK, weight_TK, budget_T = selection
    kept_TK, _ = keep_best(index_TK, weight_TK, budget_T, E, PLAIN)
    best = [
        set(index[weight.topk(int(budget)).indices].tolist())
        for index, weight, budget in zip(index_TK, weight_TK, budget_T, strict=True)
    ]
    assert as_sets(kept_TK) == best


@given(selections())
def test_dropped_slots_hold_no_expert_and_no_weight(selection) -> None:  # noqa: ANN001
    index_TK, weight_TK, budget_T = selection
    kept_TK, ours_TK = keep_best(index_TK, weight_TK, budget_T, E, RENORMALISED)
    assert ((kept_TK == E) == (ours_TK == 0)).all()
    assert ((kept_TK < E).sum(-1) == budget_T).all()


@given(selections())
def test_a_router_that_renormalises_keeps_its_sum_and_its_proportions(selection) -> None:  # noqa: ANN001
    index_TK, weight_TK, budget_T = selection
    _, ours_TK = keep_best(index_TK, weight_TK, budget_T, E, RENORMALISED)
    _, plain_TK = keep_best(index_TK, weight_TK, budget_T, E, PLAIN)
    assert torch.allclose(ours_TK.sum(-1), weight_TK.sum(-1), rtol=1e-5)
    factor_T1 = weight_TK.sum(-1, keepdim=True) / plain_TK.sum(-1, keepdim=True)
    assert torch.allclose(ours_TK, plain_TK * factor_T1, rtol=1e-5)


@given(selections(), st.integers(1, 8))
def test_anchored_the_best_weigh_what_they_would_without_the_others(selection, k: int) -> None:  # noqa: ANN001
    index_TK, weight_TK, budget_T = selection
    _, ours_TK = keep_best(index_TK, weight_TK, budget_T, E, Rule(True, anchor_k=k))
    _, trained_TK = keep_best(index_TK, weight_TK, budget_T.clamp(max=k), E, RENORMALISED)
    assert torch.allclose(ours_TK[:, :k], trained_TK[:, :k], rtol=1e-5)
    assert (ours_TK[:, k:] <= ours_TK[:, :1]).all()


@given(selections())
def test_the_order_in_which_a_router_names_its_experts_does_not_matter(selection) -> None:  # noqa: ANN001
    index_TK, weight_TK, budget_T = selection
    order = torch.randperm(index_TK.shape[1])
    straight = keep_best(index_TK, weight_TK, budget_T, E, RENORMALISED)
    shuffled = keep_best(index_TK[:, order], weight_TK[:, order], budget_T, E, RENORMALISED)
    assert as_sets(straight[0]) == as_sets(shuffled[0])
    assert torch.allclose(straight[1], shuffled[1], rtol=1e-5)


@given(selections())
def test_the_widest_budget_anchors_as_without_budgets(selection) -> None:  # noqa: ANN001
    index_TK, weight_TK, _ = selection
    if index_TK.shape[1] < 2:
        return
    all_T = torch.full((len(index_TK),), index_TK.shape[1])
    _, by_budget = keep_best(index_TK, weight_TK, all_T, E, Rule(True, anchor_k=2))
    expected = anchor(weight_TK, 2).sort(-1, descending=True).values
    assert torch.allclose(by_budget, expected, rtol=1e-5)


def test_of_equal_weights_the_first_that_the_router_named_is_kept() -> None:
    index_TK, weight_TK = torch.tensor([[5, 3, 9]]), torch.tensor([[0.25, 0.25, 0.5]])
    kept_TK, _ = keep_best(index_TK, weight_TK, torch.tensor([2]), E, PLAIN)
    assert as_sets(kept_TK) == [{9, 5}]


def test_a_router_that_gives_no_weight_at_all_makes_no_nan() -> None:
    index_TK, weight_TK = torch.tensor([[5, 3]]), torch.zeros(1, 2)
    _, ours_TK = keep_best(index_TK, weight_TK, torch.tensor([1]), E, RENORMALISED)
    assert (ours_TK == 0).all()


def test_nothing_is_read_back_from_the_device() -> None:
    # The meta device has shapes and no values: reading one raises.
    meta = {"device": "meta"}
    index_TK, weight_TK = torch.empty(3, 4, dtype=torch.long, **meta), torch.empty(3, 4, **meta)
    budget_T = torch.empty(3, dtype=torch.long, **meta)
    kept_TK, ours_TK = keep_best(index_TK, weight_TK, budget_T, E, Rule(True, anchor_k=2))
    assert kept_TK.shape == ours_TK.shape == (3, 4)
    assert anchor(weight_TK, 2).shape == (3, 4)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All experts of each token, as a router gives them at its widest, and budgets."""
    tokens = draw(st.integers(1, 6))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    index_TE = torch.rand(tokens, E).argsort(-1)
    return index_TE, torch.rand(tokens, E) + 0.01, torch.randint(1, 5, (tokens,))


@given(rankings(), st.integers(1, E))
def test_sharing_caps_the_distinct_experts_but_for_each_tokens_best(ranking, cap: int) -> None:  # noqa: ANN001
    index_TE, weight_TE, budget_T = ranking
    kept_TE, _ = keep_shared(index_TE, weight_TE, budget_T, cap, E, RENORMALISED)
    best = set(index_TE.gather(1, weight_TE.argmax(-1, keepdim=True)).flatten().tolist())
    kept = as_sets(kept_TE)
    assert len(set().union(*kept) - best) <= cap
    assert best <= set().union(*kept)
    assert all(1 <= len(each) <= k for each, k in zip(kept, budget_T.tolist(), strict=True))


@given(rankings())
def test_without_a_limit_sharing_changes_nothing(ranking) -> None:  # noqa: ANN001
    index_TE, weight_TE, budget_T = ranking
    shared = keep_shared(index_TE, weight_TE, budget_T, E, E, RENORMALISED)
    alone = keep_best(index_TE, weight_TE, budget_T, E, RENORMALISED)
    assert torch.equal(shared[0], alone[0])
    assert torch.equal(shared[1], alone[1])


def test_a_token_takes_the_next_best_of_the_shared_experts_in_place_of_what_is_not() -> None:
    index_TE = torch.tensor([[0, 1, 2, 3], [0, 2, 1, 3], [2, 0, 1, 3]])
    weight_TE = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).repeat(3, 1)
    two_T = torch.tensor([2, 2, 2])
    kept_TE, ours_TE = keep_shared(index_TE, weight_TE, two_T, 2, 4, PLAIN)
    # 0 and 2 serve the batch best; the first token's second choice, 1, gives way to its third.
    assert [{e for e in row if e < 4} for row in kept_TE.tolist()] == [{0, 2}] * 3
    assert torch.allclose(ours_TE.sum(-1), torch.tensor([0.6, 0.7, 0.7]))


def test_sharing_reads_nothing_back_from_the_device() -> None:
    meta = {"device": "meta"}
    index_TE, weight_TE = torch.empty(3, E, dtype=torch.long, **meta), torch.empty(3, E, **meta)
    budget_T = torch.empty(3, dtype=torch.long, **meta)
    kept_TE, _ = keep_shared(index_TE, weight_TE, budget_T, 5, E, RENORMALISED)
    assert kept_TE.shape == (3, E)
