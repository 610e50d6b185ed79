"""The best plans are those that trying all plans finds."""

from collections.abc import Mapping, Sequence
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from controller.ladder import Choice, best_plans, within

KS = (1, 2, 4, 8)
# Eighths add up exactly, in whatever order.
TABLES = st.lists(
    st.fixed_dictionaries({k: st.integers(-8, 40).map(lambda n: n / 8) for k in KS}),
    min_size=1,
    max_size=4,
)
COSTS = st.lists(
    st.fixed_dictionaries({k: st.integers(1, 40).map(lambda n: n / 8) for k in KS}),
    min_size=4,
    max_size=4,
)

Table = Sequence[Mapping[int, float]]


def all_plans(losses: Table, costs: Table) -> list[Choice]:
    return [
        Choice(
            sum(cost[k] for cost, k in zip(costs, plan, strict=True)),
            sum(loss[k] for loss, k in zip(losses, plan, strict=True)),
            plan,
        )
        for plan in product(KS, repeat=len(losses))
    ]


@given(TABLES, COSTS)
def test_no_plan_beats_them_and_they_beat_all_others(losses: Table, costs: Table) -> None:
    costs = costs[: len(losses)]
    front, everything = best_plans(losses, costs), all_plans(losses, costs)
    assert set(front) <= set(everything)
    for choice in front:
        assert not any(
            (other.cost <= choice.cost and other.loss < choice.loss)
            or (other.cost < choice.cost and other.loss <= choice.loss)
            for other in everything
        )
    for other in everything:
        assert any(choice.cost <= other.cost and choice.loss <= other.loss for choice in front)


@given(TABLES, COSTS, st.floats(0, 30))
def test_within_a_budget_it_is_the_one_of_least_loss(
    losses: Table, costs: Table, budget: float
) -> None:
    costs = costs[: len(losses)]
    chosen = within(best_plans(losses, costs), budget)
    affordable = [plan for plan in all_plans(losses, costs) if plan.cost <= budget]
    if not affordable:
        assert chosen is None
    else:
        assert chosen is not None
        assert chosen.loss == min(plan.loss for plan in affordable)


def test_equal_layers_share_the_budget_evenly_where_each_expert_adds_less_than_the_one_before() -> (
    None
):
    losses = [{1: 1.0, 2: 0.5, 4: 0.2, 8: 0.1}] * 4
    front = best_plans(losses, [{k: k for k in KS}] * 4)
    for k in KS:
        chosen = within(front, 4 * k)
        assert chosen is not None
        assert chosen.plan == (k, k, k, k)


def test_a_layer_that_loses_nothing_gets_the_least() -> None:
    losses = [{1: 0.0, 8: 0.0}, {1: 1.0, 8: 0.0}]
    assert best_plans(losses, [{1: 1, 8: 8}] * 2)[-1] == Choice(9, 0.0, (1, 8))
