"""What every policy keeps to, whatever the load, and what the predictive one adds."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import policies
from controller.config import PolicyChoice, SloPolicy
from controller.policy import Policy
from controller.signals import Correction, Load
from policies.predictive import Predictive
from tests.fakes import Running, profile, slo_policy

on_a_busy_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
every_policy = pytest.mark.parametrize("name", sorted(policies.POLICIES))


def chosen(name: str, floor: int = 1, ceiling: int = 8) -> SloPolicy:
    return slo_policy(
        experts={"floor": floor, "ceiling": ceiling},
        policy={"name": name, "k": ceiling} if name == "fixed" else {"name": name},
    )


def built(name: str, start_k: float = 8.0) -> Policy:
    return Running(policies.build(chosen(name), profile()), start_k)


def unless_unknown(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.none() | numbers


counts = st.integers(0, 10**6)
rates = st.floats(0, 1e4)
seconds = st.floats(0, 100)
shares = st.floats(0, 1)
multipliers = st.floats(0.25, 4)
corrections = st.builds(Correction, base=multipliers, experts=multipliers, rest=multipliers)
loads = st.builds(
    Load,
    at_s=st.just(0.0),
    mean_k=st.just(8.0),
    replicas=st.integers(0, 4),
    stale_replicas=st.integers(0, 2),
    waiting_requests=unless_unknown(counts),
    waiting_tokens=unless_unknown(counts),
    worst_waiting_tokens=unless_unknown(counts),
    running_requests=unless_unknown(st.integers(0, 1000)),
    oldest_wait_s=unless_unknown(seconds),
    arrival_rps=unless_unknown(rates),
    arrival_rps_sustained=unless_unknown(rates),
    prompt_tokens=unless_unknown(st.floats(1, 1e4)),
    output_tokens=unless_unknown(st.floats(1, 1e4)),
    correction=st.none() | corrections,
    step_time_error=unless_unknown(st.floats(0, 3)),
    ttft_p95_s=unless_unknown(seconds),
    tpot_p95_s=unless_unknown(seconds),
    gpu_busy=unless_unknown(shares),
    gpu_throttled=st.none() | st.booleans(),
    host_cpu_busy=unless_unknown(shares),
)
light_loads = st.builds(
    Load,
    at_s=st.just(0.0),
    mean_k=st.just(8.0),
    replicas=st.integers(1, 4),
    worst_waiting_tokens=st.integers(0, 6000),
    running_requests=st.integers(0, 40),
    oldest_wait_s=st.floats(0, 1),
    arrival_rps=st.floats(0, 50),
    arrival_rps_sustained=st.floats(0, 50),
    prompt_tokens=st.floats(1, 500),
    output_tokens=st.floats(1, 50),
    correction=corrections,
    step_time_error=st.floats(0, 0.5),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Load]:
    """Loads whose clock goes forward."""
    at_s, history = 0.0, []
    for load in draw(st.lists(loads | light_loads, max_size=12)):
        at_s += draw(st.sampled_from([0.1, 0.2, 1.0, 30.0]))
        history.append(replace(load, at_s=at_s))
    return history


def test_the_policies_are_those_that_a_configuration_may_name() -> None:
    assert set(policies.POLICIES) == set(get_args(PolicyChoice.model_fields["name"].annotation))


@every_policy
@on_a_busy_machine
@given(history=histories(), bounds=st.sampled_from([(1, 8), (2, 4), (3, 5), (1, 1), (8, 8)]))
def test_a_budget_is_within_bounds_and_has_a_reason(
    name: str, history: list[Load], bounds: tuple[int, int]
) -> None:
    floor, ceiling = bounds
    policy = Running(policies.build(chosen(name, floor, ceiling), profile()), floor)
    for load in history:
        budget = policy.decide(load)
        assert floor <= budget.mean_k <= ceiling
        assert budget.reason


@every_policy
@on_a_busy_machine
@given(history=histories(), start_k=st.sampled_from([1.0, 2.0, 4.0, 8.0]))
def test_without_a_fresh_sample_nothing_moves(
    name: str, history: list[Load], start_k: float
) -> None:
    policy, before = built(name, start_k), start_k
    for load in history:
        assert policy.decide(replace(load, replicas=0)).mean_k == before
        before = policy.decide(load).mean_k


@every_policy
@on_a_busy_machine
@given(history=histories())
def test_the_same_loads_in_the_same_order_give_the_same_budgets(
    name: str, history: list[Load]
) -> None:
    first, second = built(name), built(name)
    assert [first.decide(load) for load in history] == [second.decide(load) for load in history]


def predicted_k(load: Load) -> float:
    """Of a predictive policy that has seen nothing else."""
    return Predictive.from_slo_policy(chosen("predictive"), profile()).decide(load).mean_k


@on_a_busy_machine
@given(load=light_loads, more=st.integers(0, 6000))
def test_a_heavier_backlog_never_gives_more_experts(load: Load, more: int) -> None:
    assert load.worst_waiting_tokens is not None
    heavier = replace(load, worst_waiting_tokens=load.worst_waiting_tokens + more)
    assert predicted_k(heavier) <= predicted_k(load)


@on_a_busy_machine
@given(load=light_loads, more=st.floats(0, 50))
def test_a_higher_arrival_rate_never_gives_more_experts(load: Load, more: float) -> None:
    assert load.arrival_rps is not None
    heavier = replace(load, arrival_rps=load.arrival_rps + more)
    assert predicted_k(heavier) <= predicted_k(load)
