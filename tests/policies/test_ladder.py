"""The model-free policy: which latencies move it one rung, and which hold it.

The rungs are 1, 2, 4 and 8; TTFT 1 s and TPOT 0.1 s are to be kept.
"""

import pytest

from controller.signals import Load
from policies.goals import Goals
from policies.ladder import Ladder
from tests.fakes import load, profile, slo_policy


def ladder(*, floor: float = 1, ceiling: float = 8, least_raise: float = 0.25) -> Ladder:
    bounds = {"floor": floor, "ceiling": ceiling, "least_raise": least_raise}
    return Ladder(profile(), Goals(ttft_s=1.0, tpot_s=0.1, **bounds))


def choice(of: Load) -> float:
    return ladder().decide(of).mean_k


def after_a_window(of: Load) -> tuple[float, str]:
    """What is decided once the rung has run for ten seconds."""
    policy = ladder()
    policy.decide(load(at_s=of.at_s - 10.0, mean_k=of.mean_k))
    budget = policy.decide(of)
    return budget.mean_k, budget.reason


def test_a_wait_beyond_the_objective_takes_one_rung_down_and_says_why() -> None:
    budget = ladder().decide(load(oldest_wait_s=1.01, worst_waiting_tokens=900))
    assert budget.mean_k == 4
    assert budget.reason == (
        "one rung down: oldest wait 1.010, TTFT p95 none/1.000 s, TPOT p95 none/0.100 s, "
        "900 tokens wait"
    )


def test_it_goes_down_rung_by_rung_as_long_as_the_wait_lasts() -> None:
    policy, mean_k, taken = ladder(), 8.0, []
    for tick in range(5):
        mean_k = policy.decide(load(at_s=0.2 * tick, mean_k=mean_k, oldest_wait_s=2.0)).mean_k
        taken.append(mean_k)
    assert taken == [4, 2, 1, 1, 1]


def test_at_the_lowest_rung_it_says_overload() -> None:
    budget = ladder().decide(load(mean_k=1.0, oldest_wait_s=2.0))
    assert (budget.mean_k, budget.reason[:21]) == (1, "overload, lowest rung")


def test_quiet_takes_one_rung_up() -> None:
    budget = ladder().decide(load(mean_k=2.0, ttft_p95_s=0.4, tpot_p95_s=0.049))
    assert budget.mean_k == 4
    assert budget.reason == (
        "one rung up: oldest wait 0.000, TTFT p95 0.400/1.000 s, TPOT p95 0.049/0.100 s, "
        "0 tokens wait"
    )


def test_at_the_highest_rung_it_stays() -> None:
    budget = ladder().decide(load(mean_k=8.0))
    assert (budget.mean_k, budget.reason[:12]) == (8, "highest rung")


@pytest.mark.parametrize(
    "between",
    [
        {"oldest_wait_s": 0.5},
        {"oldest_wait_s": 1.0},
        {"ttft_p95_s": 0.5},
        {"tpot_p95_s": 0.05},
        {"worst_waiting_tokens": 101},  # more than a step takes in
    ],
)
def test_between_half_an_objective_and_all_of_it_it_holds(between: dict[str, float]) -> None:
    mean_k, reason = after_a_window(load(at_s=10.0, mean_k=2.0, running_requests=3, **between))
    assert (mean_k, reason[:5]) == (2, "hold:")


def test_tokens_that_fit_the_next_step_are_no_queue() -> None:
    assert choice(load(mean_k=2.0, worst_waiting_tokens=100, oldest_wait_s=0.05)) == 4


def test_late_first_tokens_take_it_down_only_while_a_queue_stands() -> None:
    late = {"mean_k": 4.0, "ttft_p95_s": 1.2}
    assert choice(load(**late, worst_waiting_tokens=101)) == 2
    assert choice(load(**late, oldest_wait_s=0.5)) == 2
    assert choice(load(**late, oldest_wait_s=0.4, worst_waiting_tokens=80)) == 4  # it is over


def test_slow_tokens_take_it_down_once_they_are_of_the_rung_that_runs() -> None:
    policy = ladder()
    slow = {"running_requests": 3, "tpot_p95_s": 0.11}
    seen = []
    for at_s, mean_k, epoch in [
        (0.0, 8.0, 1),
        (9.9, 8.0, 1),
        (10.0, 8.0, 1),
        (10.2, 4.0, 2),
        (20.1, 4.0, 2),
        (20.2, 4.0, 2),
    ]:
        seen.append(policy.decide(load(at_s=at_s, mean_k=mean_k, epoch=epoch, **slow)).mean_k)
    assert seen == [8, 8, 4, 4, 4, 2]


def test_slow_tokens_of_requests_that_are_gone_are_history() -> None:
    slow = {"at_s": 10.0, "mean_k": 4.0, "tpot_p95_s": 0.11}
    assert after_a_window(load(**slow, running_requests=1))[0] == 2
    assert after_a_window(load(**slow, running_requests=0))[0] == 4


def test_a_raise_that_the_guard_would_not_make_is_not_asked_for() -> None:
    assert ladder(least_raise=1.5).decide(load(mean_k=1.0)).mean_k == 4
    assert ladder(least_raise=5.0).decide(load(mean_k=4.0)).mean_k == 4


@pytest.mark.parametrize("unknown", [load(replicas=0), load(oldest_wait_s=None)])
def test_an_unknown_load_holds(unknown: Load) -> None:
    budget = ladder().decide(unknown)
    assert (budget.mean_k, budget.reason) == (8, "load unknown: hold")


def test_only_rungs_between_floor_and_ceiling_are_taken() -> None:
    narrow = ladder(floor=2, ceiling=5)
    assert narrow.decide(load(mean_k=2.0, oldest_wait_s=2.0)).mean_k == 2
    assert narrow.decide(load(mean_k=4.0)).mean_k == 4
    assert narrow.decide(load(mean_k=8.0, oldest_wait_s=0.7)).mean_k == 4


def test_bounds_without_a_rung_are_refused() -> None:
    with pytest.raises(ValueError, match="no rung between floor 5 and ceiling 7"):
        ladder(floor=5, ceiling=7)


def test_objectives_margin_and_tolerance_come_from_the_slo_policy() -> None:
    chosen = slo_policy(
        slo={"ttft_s": 1.0, "tpot_s": 0.1, "margin": 0.5},
        guard={"tolerance": 2.0},
        policy={"name": "ladder"},
    )
    budget = Ladder(profile(), Goals.of(chosen)).decide(load(mean_k=1.0))
    assert budget.mean_k == 4
    assert "/0.500 s" in budget.reason and "/0.050 s" in budget.reason
