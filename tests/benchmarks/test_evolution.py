"""The evolutionary search stays in the feasible set, and never beats the exact knapsack."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evolution import Settings, fidelity, random_losses, search
from controller.ladder import best_plans, within
from runtime.ways import Losses

KS = (1, 2, 3, 4)
SHORT = Settings(population=8, generations=4)
# Eighths add up exactly, in whatever order.
TABLES = st.lists(
    st.fixed_dictionaries({k: st.integers(-8, 40).map(lambda n: n / 8) for k in KS}),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(TABLES, st.floats(0, 1), st.integers(0, 9))
def test_the_exact_knapsack_is_never_worse_than_the_search(
    losses: Losses, share: float, seed: int
) -> None:
    budget = round(len(losses) * (KS[0] + share * (KS[-1] - KS[0])))
    searched = search(losses, budget, seed, SHORT)
    assert sum(searched.plan) == searched.cost == budget
    assert set(searched.plan) <= set(KS)
    assert searched.loss == sum(loss[k] for loss, k in zip(losses, searched.plan, strict=True))
    exact = within(best_plans(losses, [{k: k for k in KS}] * len(losses)), budget)
    assert exact is not None
    assert exact.loss <= searched.loss


def test_the_search_finds_the_optimum_of_a_few_layers() -> None:
    losses = random_losses(num_layers=4, full_k=4, seed=0)
    best = min(
        (sum(loss[k] for loss, k in zip(losses, plan, strict=True)), plan)
        for plan in product(KS, repeat=4)
        if sum(plan) == 9
    )
    found = [search(losses, 9, seed, Settings(generations=10)) for seed in range(5)]
    assert [(each.loss, each.plan) for each in found] == [best] * 5


def test_the_same_seed_finds_the_same_plan() -> None:
    losses = random_losses(num_layers=12, full_k=8, seed=0)
    plans = [search(losses, 40, seed, SHORT).plan for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


def test_both_find_what_one_layer_needs() -> None:
    losses = [{1: 9.0, 2: 1.0, 3: 0.0}, *[{1: 0.0, 2: 0.0, 3: 0.0}] * 3]
    (found,) = fidelity(losses, [6])
    assert found.exact.loss == found.searched.loss == 0
    assert found.exact.plan == found.searched.plan == (3, 1, 1, 1)


def test_a_budget_that_no_plan_has_is_refused() -> None:
    losses = random_losses(num_layers=3, full_k=4, seed=0)
    with pytest.raises(ValueError, match=r"13 experts: 3 layers of 1\.\.4 cannot have so many"):
        search(losses, 13)


def test_random_layers_lose_less_with_every_expert_more_and_nothing_at_full_k() -> None:
    for loss in random_losses(num_layers=5, full_k=6, seed=3):
        assert [*loss] == [1, 2, 3, 4, 5, 6]
        assert sorted(loss.values(), reverse=True) == [*loss.values()]
        assert loss[6] == 0 < loss[5]
