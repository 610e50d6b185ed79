"""Limiters' rules on mean k': Gradient2, and Envoy's form of it.

The rungs go from 1 to 8; TTFT 1 s and TPOT 0.1 s are to be kept. A wait of 2 s is a latency of 3.
"""

import pytest

from controller.signals import Budget, Load
from policies.goals import Goals
from policies.gradient import Gradient, MinRttGradient
from tests.fakes import load, profile, slo_policy


def gradient(*, floor: float = 1, ceiling: float = 8) -> Gradient:
    return Gradient(profile(), Goals(ttft_s=1.0, tpot_s=0.1, floor=floor, ceiling=ceiling))


def busy(at_s: float, mean_k: float = 8.0, **changes: float) -> Load:
    return load(at_s=at_s, mean_k=mean_k, running_requests=1, **changes)


def used_to(wait_s: float) -> Gradient:
    """Has seen ten windows of that wait, the last at 9 s; full k' runs."""
    policy = gradient()
    for second in range(10):
        policy.decide(busy(second, oldest_wait_s=wait_s))
    return policy


def test_a_latency_as_ever_raises_the_limit_by_the_smoothed_headroom() -> None:
    # 0.8 * 4 + 0.2 * (4 * 1 + 0.05 * 8) = 4.08
    assert gradient().decide(busy(0.0, 4.0)) == Budget(
        pytest.approx(4.08),
        "limit 4.080: gradient 1.000 of latency 1.000, long 1.000; oldest wait 0.000/1.000 s, "
        "TPOT p95 none/0.100 s",
    )


def test_a_latency_above_the_long_one_lowers_it_by_the_smoothed_gradient() -> None:
    budget = used_to(0.0).decide(busy(10.0, oldest_wait_s=2.0))
    # long = 1 + 2 * 2 / 601 = 1.00666; gradient = 1.5 * 1.00666 / 3 = 0.50333
    # 0.8 * 8 + 0.2 * (8 * 0.50333 + 0.4) = 7.28532
    assert budget.mean_k == pytest.approx(7.28532, abs=1e-5)
    assert "gradient 0.503 of latency 3.000, long 1.007" in budget.reason


def test_no_window_takes_more_than_half_of_the_limit_before_smoothing() -> None:
    budget = used_to(0.0).decide(busy(10.0, oldest_wait_s=50.0))
    assert budget.mean_k == pytest.approx(7.28)  # 0.8 * 8 + 0.2 * (4 + 0.4)


def test_half_an_objective_above_the_long_latency_is_tolerated() -> None:
    assert used_to(0.0).decide(busy(10.0, oldest_wait_s=0.5)).mean_k == 8
    assert used_to(0.0).decide(busy(10.0, oldest_wait_s=0.7)).mean_k < 8


def test_slow_tokens_count_while_requests_decode() -> None:
    slow = {"at_s": 10.0, "tpot_p95_s": 0.2, "oldest_wait_s": 0.1}
    assert used_to(0.0).decide(load(**slow, running_requests=1)).mean_k < 8
    assert used_to(0.0).decide(load(**slow)).mean_k == 8


def test_a_long_overload_is_taken_for_normal_and_forgotten_faster_than_learned() -> None:
    assert "gradient 1.000" in used_to(2.0).decide(busy(10.0, oldest_wait_s=2.0)).reason
    # long = 3 - 2 * 2 / 601 = 2.99334 is more than twice the latency: times 0.95
    assert "long 2.844" in used_to(2.0).decide(busy(10.0)).reason


def test_the_limit_moves_once_a_second_and_stays_a_float() -> None:
    policy = gradient()
    made = [policy.decide(busy(at_s, 4.0)).mean_k for at_s in (0.0, 0.2, 0.9, 1.0, 1.5, 3.0)]
    assert made == pytest.approx([4.08, 4.08, 4.08, 4.16, 4.16, 4.24])
    assert policy.decide(busy(3.4, 4.0)).reason == "limit 4.240, window over in 0.6 s"


def test_idleness_teaches_nothing() -> None:
    policy = used_to(2.0)
    for second in range(10, 60):
        assert policy.decide(load(at_s=second, mean_k=4.0)) == Budget(4.0, "idle: hold at 4")
    assert "long 2.844" in policy.decide(busy(60.0)).reason


@pytest.mark.parametrize("unknown", [load(replicas=0), load(oldest_wait_s=None)])
def test_an_unknown_load_holds(unknown: Load) -> None:
    assert gradient().decide(unknown) == Budget(8.0, "load unknown: hold at 8")


def test_the_limit_stays_between_the_rungs_within_floor_and_ceiling() -> None:
    narrow = gradient(floor=2, ceiling=5)
    assert narrow.decide(busy(0.0, 8.0)).mean_k == 4
    for second in range(1, 60):
        least = narrow.decide(busy(second, oldest_wait_s=2.0**second)).mean_k
    assert least == 2


def test_objectives_and_margin_come_from_the_slo_policy() -> None:
    chosen = slo_policy(slo={"ttft_s": 1.0, "tpot_s": 0.1, "margin": 0.5})
    reason = Gradient(profile(), Goals.of(chosen)).decide(busy(0.0, tpot_p95_s=0.02)).reason
    assert "oldest wait 0.000/0.500 s, TPOT p95 0.020/0.050 s" in reason


def min_rtt() -> MinRttGradient:
    return MinRttGradient(profile(), Goals(ttft_s=1.0, tpot_s=0.1, floor=1, ceiling=8))


def test_envoys_limit_falls_to_half_and_its_root() -> None:
    policy = min_rtt()
    first = policy.decide(busy(0.0, oldest_wait_s=2.0))
    # 1.25 / 3 is less than 0.5: 8 / 2 + sqrt(8 / 2) = 6, then 3 + sqrt(3) = 4.73205
    assert first.mean_k == pytest.approx(6.0)
    assert "gradient 0.500 of latency 3.000, least 1.000" in first.reason
    assert policy.decide(busy(1.0, oldest_wait_s=2.0)).mean_k == pytest.approx(4.73205)


def test_envoys_limit_rises_at_once_when_nobody_waits() -> None:
    # 2 * 1.25 + sqrt(2 * 1.25) = 4.08114
    assert min_rtt().decide(busy(0.0, 2.0)).mean_k == pytest.approx(4.08114)


def test_envoys_rule_never_takes_an_overload_for_normal() -> None:
    policy = min_rtt()
    for second in range(600):
        budget = policy.decide(busy(second, oldest_wait_s=2.0))
    assert budget.mean_k == pytest.approx(2.0)  # where L / 2 + sqrt(L / 2) is L
