"""What every policy keeps to, whatever the load, guarded and bare."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import policies
from controller.config import PolicyChoice, SloPolicy
from controller.policy import Policy
from controller.profiles import Profile
from controller.signals import ClassLoad, Correction, Load
from policies.goals import Goals
from policies.gradient import MinRttGradient
from policies.predictive import Predictive
from tests.fakes import Running, profile, slo_policy
from tests.fakes import load as quiet

# Immutable, and most of the time that these tests would take.
PROFILE = profile()

# Bare and guarded; also those that no SLO policy names.
MADE: dict[str, Callable[[SloPolicy, Profile], Policy]] = {
    **policies.POLICIES,
    **{f"guarded {name}": policies.build for name in policies.POLICIES},
    "predictive alone": lambda slo_policy, of: Predictive(of, Goals.of(slo_policy)),
    "minRTT": lambda slo_policy, of: MinRttGradient(of, Goals.of(slo_policy)),
}

# There are many policies: of few examples each, as many together as a default run makes.
on_a_busy_machine = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
every_policy = pytest.mark.parametrize("name", sorted(MADE))


def made(name: str, floor: int = 1, ceiling: int = 8) -> Policy:
    named = name.removeprefix("guarded ")
    choice = {"name": named if named in policies.POLICIES else "ladder"}
    slo = slo_policy(
        experts={"floor": floor, "ceiling": ceiling},
        classes={
            "gold": {"ttft_s": 0.5, "tpot_s": 0.05, "priority": 1, "floor": ceiling},
            "batch": {"ttft_s": 5.0, "tpot_s": 1.0, "priority": -1},
        },
        policy=choice | ({"k": ceiling} if named == "fixed" else {}),
    )
    return MADE[name](slo, PROFILE)


def unless_unknown(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.none() | numbers


counts = st.integers(0, 10**6)
rates = st.floats(0, 1e4)
seconds = st.floats(0, 100)
shares = st.floats(0, 1)
multipliers = st.floats(0.25, 4)
corrections = st.builds(
    Correction,
    base=multipliers,
    experts=multipliers,
    rest=multipliers,
    decode_token_s=st.floats(0, 0.004),
)
rising = st.lists(st.integers(1, 3000), min_size=8, max_size=8).map(sorted)
lengths = st.just(()) | rising.map(tuple)
class_loads = st.builds(
    ClassLoad,
    share=st.floats(0, 1e4),
    waiting_requests=counts,
    waiting_tokens=counts,
    worst_waiting_tokens=counts,
    running_requests=st.integers(0, 1000),
    oldest_wait_s=seconds,
    standing_wait_s=seconds,
    shed_rps=unless_unknown(rates),
    prompt_quantiles=lengths,
    ttft_p95_s=unless_unknown(seconds),
    tpot_p95_s=unless_unknown(seconds),
)
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
    arrival_rps_upper=unless_unknown(rates),
    prompt_tokens=unless_unknown(st.floats(1, 1e4)),
    output_tokens=unless_unknown(st.floats(1, 1e4)),
    correction=st.none() | corrections,
    step_time_error=unless_unknown(st.floats(0, 3)),
    ttft_p95_s=unless_unknown(seconds),
    tpot_p95_s=unless_unknown(seconds),
    gpu_busy=unless_unknown(shares),
    gpu_throttled=st.none() | st.booleans(),
    host_cpu_busy=unless_unknown(shares),
    classes=st.dictionaries(st.sampled_from(["default", "gold", "batch", "gone"]), class_loads),
)
busy_loads = st.builds(
    Load,
    at_s=st.just(0.0),
    mean_k=st.just(8.0),
    replicas=st.integers(1, 4),
    worst_waiting_tokens=st.integers(0, 6000),
    running_requests=st.integers(1, 40),
    oldest_wait_s=st.floats(0, 1),
    arrival_rps=st.floats(0, 50),
    arrival_rps_sustained=st.floats(0, 50),
    arrival_rps_upper=st.floats(0, 100),
    prompt_tokens=st.floats(1, 500),
    output_tokens=st.floats(1, 50),
    correction=corrections,
    step_time_error=st.floats(0, 0.5),
    ttft_p95_s=st.floats(0, 2),
    tpot_p95_s=st.floats(0, 0.2),
)
# What makes a load heavier: each of these grows by as much.
burdens = st.fixed_dictionaries(
    {
        "worst_waiting_tokens": st.integers(0, 6000),
        "running_requests": st.integers(0, 400),
        "oldest_wait_s": st.floats(0, 3),
        "arrival_rps": st.floats(0, 50),
        "arrival_rps_sustained": st.floats(0, 50),
        "arrival_rps_upper": st.floats(0, 50),
        "ttft_p95_s": st.floats(0, 3),
        "tpot_p95_s": st.floats(0, 0.3),
    }
)
rungs = st.sampled_from([1.0, 2.0, 4.0, 8.0])


@st.composite
def histories(draw: st.DrawFn) -> list[Load]:
    """Loads whose clock goes forward."""
    at_s, history = 0.0, []
    for load in draw(st.lists(loads | busy_loads, max_size=12)):
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
    policy = Running(made(name, floor, ceiling), floor)
    for load in history:
        budget = policy.decide(load)
        assert floor <= budget.mean_k <= ceiling
        assert budget.reason


# Bare fixed is exempt: it knows no load, and asks for its k' also where another one runs.
@pytest.mark.parametrize("name", sorted(MADE.keys() - {"fixed"}))
@on_a_busy_machine
@given(history=histories(), runs_k=rungs)
def test_without_a_fresh_sample_nothing_moves(
    name: str, history: list[Load], runs_k: float
) -> None:
    policy = made(name)
    for load in history:
        policy.decide(load)
        assert policy.decide(Load(load.at_s, runs_k, replicas=0)).mean_k == runs_k


# Guarded fixed as well: a fresh sample is all that it waits for.
@pytest.mark.parametrize("name", sorted(MADE.keys() - {"fixed", "guarded fixed"}))
@on_a_busy_machine
@given(history=histories(), runs_k=rungs)
def test_nor_where_fresh_samples_say_nothing(name: str, history: list[Load], runs_k: float) -> None:
    policy = made(name)
    for load in history:
        policy.decide(load)
        assert policy.decide(Load(load.at_s, runs_k, replicas=2)).mean_k == runs_k


@every_policy
@on_a_busy_machine
@given(history=histories())
def test_the_same_loads_in_the_same_order_give_the_same_budgets(
    name: str, history: list[Load]
) -> None:
    first, second = Running(made(name), 8.0), Running(made(name), 8.0)
    assert [first.decide(load) for load in history] == [second.decide(load) for load in history]


def after_some_quiet(name: str, runs_k: float) -> Policy:
    """In the state that two decisions at an easy load leave.

    No policy is exempt, but from a blank state some are trivially monotone: pid takes over at what
    runs, the gradients have no long latency yet, the ladder waits for a window's tokens.
    """
    policy = made(name)
    for at_s in (-10.0, -5.0):
        policy.decide(
            quiet(at_s=at_s, mean_k=runs_k, running_requests=1, ttft_p95_s=0.1, tpot_p95_s=0.01)
        )
    return policy


def of_one_class(load: Load, prompts: tuple[int, ...]) -> Load:
    """As the default class tells it, with the quantiles of its prompts; none: it tells nothing."""
    if not prompts:
        return load
    told = ("worst_waiting_tokens", "running_requests", "oldest_wait_s", "ttft_p95_s", "tpot_p95_s")
    same = {name: getattr(load, name) for name in told}
    return replace(load, classes={"default": ClassLoad(1.0, prompt_quantiles=prompts, **same)})


# One decision: over several, a policy that had cut may have recovered while another still waits.
# All loads are busy ones: idle is not lighter but unknown, and holds whatever runs.
@every_policy
@on_a_busy_machine
@given(lighter=busy_loads, more=burdens, runs_k=rungs, prompts=lengths)
def test_a_heavier_load_never_gives_more_experts(
    name: str, lighter: Load, more: dict[str, float], runs_k: float, prompts: tuple[int, ...]
) -> None:
    lighter = replace(lighter, mean_k=runs_k)
    # A bound that is exceeded one time in ten is no nearer to the mean of a heavier load.
    more["arrival_rps_upper"] = max(more["arrival_rps_upper"], more["arrival_rps_sustained"])
    heavier = replace(lighter, **{key: getattr(lighter, key) + by for key, by in more.items()})
    heavier, lighter = (of_one_class(each, prompts) for each in (heavier, lighter))
    least = after_some_quiet(name, runs_k).decide(heavier).mean_k
    assert least <= after_some_quiet(name, runs_k).decide(lighter).mean_k


# What each looks at, so that none is monotone by looking at nothing: heavier by this alone, and k'
# falls. Fixed is exempt: it looks at nothing.
@pytest.mark.parametrize(
    ("name", "heavy"),
    [
        ("aimd", {"ttft_p95_s": 1.2}),
        ("aimd", {"tpot_p95_s": 0.12}),
        ("gradient", {"oldest_wait_s": 2.0}),
        ("gradient", {"tpot_p95_s": 0.2}),
        ("ladder", {"oldest_wait_s": 1.2}),
        ("ladder", {"tpot_p95_s": 0.12}),
        ("lp", {"arrival_rps": 10.0}),
        ("lp", {"arrival_rps_sustained": 10.0}),
        ("minRTT", {"oldest_wait_s": 2.0}),
        ("minRTT", {"tpot_p95_s": 0.2}),
        ("pid", {"worst_waiting_tokens": 2000}),
        ("pid", {"oldest_wait_s": 2.0}),
        ("pid", {"ttft_p95_s": 2.0}),
        ("pid", {"tpot_p95_s": 0.2}),
        ("predictive", {"worst_waiting_tokens": 7000}),
        ("predictive", {"arrival_rps_sustained": 20.0}),
        ("predictive", {"running_requests": 200}),
        ("slackfit", {"worst_waiting_tokens": 2000}),
        ("slackfit", {"oldest_wait_s": 1.2}),
        ("slackfit", {"running_requests": 200}),
    ],
)
def test_what_a_policy_looks_at_takes_experts(name: str, heavy: dict[str, float]) -> None:
    easy = quiet(running_requests=1, ttft_p95_s=0.1, tpot_p95_s=0.01)
    assert after_some_quiet(name, 8.0).decide(easy).mean_k == 8
    assert after_some_quiet(name, 8.0).decide(replace(easy, **heavy)).mean_k < 8
