"""Which plans an exact knapsack makes of losses and measured costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.step_time import Layer, StepTime
from runtime.candidates import Candidates

KS = [1, 2, 4, 8]


def model(sizes: tuple[float, ...] = (1.0, 1.0)) -> StepTime:
    return StepTime(
        base_s=0.001,
        token_s=1e-5,
        expert_s=3e-5,
        slot_s=4e-6,
        prefill_key_s=4e-8,
        decode_key_s=3e-7,
        layers=tuple(Layer(num_experts=16, size=size, spread=0.9) for size in sizes),
    )


def candidates(
    losses: list[dict[int, float]], sizes: tuple[float, ...] = (1.0, 1.0), full_k: int = 4
) -> Candidates:
    return Candidates(model(sizes), 160, KS, full_k, {"alone": losses})


NEEDS_FIRST = [{1: 1.0, 2: 0.5, 4: 0.0, 8: -0.1}, {1: 0.0, 2: 0.0, 4: 0.0, 8: 0.0}]


def test_a_budget_goes_to_the_layer_that_needs_it() -> None:
    # 4 and 1 take longer than 2 and 2, so the second layer's share is not quite enough.
    assert candidates(NEEDS_FIRST).instead_of(2) == (2, 1)
    assert candidates(NEEDS_FIRST).instead_of(8) == (8, 1)


def test_where_layers_are_alike_nothing_beats_the_uniform_plan() -> None:
    falling = {1: 1.0, 2: 0.4, 4: 0.1, 8: 0.0}
    assert [candidates([falling, falling]).instead_of(k) for k in KS] == [(k, k) for k in KS]


def test_a_cheap_layer_is_given_what_a_dear_one_would_cost() -> None:
    alike = {1: 1.0, 2: 0.4, 4: 0.3, 8: 0.0}
    assert candidates([alike, alike]).instead_of(4) == (4, 4)
    assert candidates([alike, alike], sizes=(1.0, 0.1)).instead_of(4) == (2, 8)


def test_full_k_is_not_replaced_and_budgets_between_have_no_uniform_plan() -> None:
    by_layer = list(candidates(NEEDS_FIRST).by_layer())
    assert [k for k, _ in by_layer] == [1, 2, 8, None, None]
    chosen = candidates(NEEDS_FIRST)
    for _, plan in by_layer[3:]:
        assert chosen.cost_s(chosen.uniform(1)) < chosen.cost_s(plan)
        assert chosen.cost_s(plan) < chosen.cost_s(chosen.uniform(4))


losses = st.lists(
    st.fixed_dictionaries({k: st.floats(-0.1, 1.0) for k in KS}), min_size=2, max_size=3
)


@given(losses, st.sampled_from(KS))
def test_no_plan_takes_longer_than_the_uniform_one_it_replaces_or_is_foreseen_worse(
    by_layer: list[dict[int, float]], k: int
) -> None:
    sizes = tuple(1.0 / (1 + number) for number in range(len(by_layer)))
    chosen = candidates(by_layer, sizes)
    plan = chosen.instead_of(k)
    rounding = 2 * len(by_layer) / 2000  # of the costs, in shares of full k'
    full_s = chosen.cost_s(chosen.uniform(4))
    assert chosen.cost_s(plan) <= chosen.cost_s(chosen.uniform(k)) + rounding * full_s
    loss = sum(each[k_l] for each, k_l in zip(by_layer, plan, strict=True))
    assert loss <= sum(each[k] for each in by_layer) + 1e-12


def test_what_layers_cost_adds_up_to_the_request() -> None:
    chosen, one, two = candidates(NEEDS_FIRST), (1, 1), (8, 2)
    units = sum(table[k] for table, k in zip(chosen._units, two, strict=True)) - sum(
        table[1] for table in chosen._units
    )
    unit_s = chosen.cost_s((4, 4)) / 2000
    # Each of four is rounded by half a unit at most.
    assert units * unit_s == pytest.approx(chosen.cost_s(two) - chosen.cost_s(one), abs=2 * unit_s)


def test_a_layer_costs_its_share_of_the_full_steps_that_the_request_fills() -> None:
    # 512 and 64 tokens fill 3.6 steps of 160, which touch as many experts as 160^0.9 strangers.
    chosen = candidates(NEEDS_FIRST, sizes=(1.0, 0.5))
    touched = [16 * (1 - (1 - k / 16) ** (160**0.9)) for k in (1, 2)]
    more_s = 3e-5 * (touched[1] - touched[0]) + 4e-6 * 160
    assert chosen.cost_s((2, 1)) - chosen.cost_s((1, 1)) == pytest.approx(3.6 * more_s)
    assert chosen.cost_s((1, 2)) - chosen.cost_s((1, 1)) == pytest.approx(3.6 * 0.5 * more_s)
    first_s, second_s = (chosen._layer_s(n, 2) - chosen._layer_s(n, 1) for n in (0, 1))
    assert (first_s, second_s) == pytest.approx((3.6 * more_s, 3.6 * 0.5 * more_s))
