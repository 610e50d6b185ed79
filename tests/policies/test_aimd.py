"""BrownoutServe's rule: what a latency does to theta, and how often.

The rungs go from 1 to 8, so mean k' is 1 + 7 theta; TTFT 1 s and TPOT 0.1 s are to be kept.
"""

import pytest

from controller.signals import Budget, Load
from policies.aimd import Aimd
from policies.goals import Goals
from tests.fakes import load, profile, slo_policy


def aimd(*, floor: float = 1, ceiling: float = 8) -> Aimd:
    return Aimd(profile(), Goals(ttft_s=1.0, tpot_s=0.1, floor=floor, ceiling=ceiling))


def choice(of: Load) -> float:
    return aimd().decide(of).mean_k


def test_a_missed_objective_takes_a_fifth_of_theta_and_says_why() -> None:
    assert aimd().decide(load(ttft_p95_s=1.2, tpot_p95_s=0.04)) == Budget(
        pytest.approx(6.6),  # 1 + 7 * 0.8
        "decrease: theta 0.800, TTFT p95 1.200/1.000 s, TPOT p95 0.040/0.100 s",
    )
    assert choice(load(ttft_p95_s=0.2, tpot_p95_s=0.11)) == pytest.approx(6.6)


def test_four_checks_take_it_below_a_half() -> None:
    policy = aimd()
    made = [policy.decide(load(at_s=at_s, ttft_p95_s=2.0)).mean_k for at_s in (0, 5, 10, 15)]
    # theta 0.8, 0.64, 0.512, 0.4096
    assert made == pytest.approx([6.6, 5.48, 4.584, 3.8672])


def test_between_two_checks_nothing_happens_however_often_it_is_asked() -> None:
    policy = aimd()
    seconds = (0.0, 0.2, 2.5, 4.9, 5.0, 5.1)
    made = [policy.decide(load(at_s=at_s, ttft_p95_s=2.0)).mean_k for at_s in seconds]
    assert made == pytest.approx([6.6, 6.6, 6.6, 6.6, 5.48, 5.48])
    waits = policy.decide(load(at_s=7.0, ttft_p95_s=2.0)).reason
    assert waits.startswith("next check in 3.0 s: theta 0.640")


@pytest.mark.parametrize("near", [{"ttft_p95_s": 0.8}, {"ttft_p95_s": 1.0}, {"tpot_p95_s": 0.09}])
def test_from_four_fifths_of_an_objective_to_all_of_it_it_holds(near: dict[str, float]) -> None:
    budget = aimd().decide(load(mean_k=4.5, **near))
    assert (budget.mean_k, budget.reason[:5]) == (4.5, "hold:")


def test_below_that_theta_rises_by_a_tenth() -> None:
    assert choice(load(mean_k=4.5, ttft_p95_s=0.79)) == pytest.approx(5.2)  # theta 0.5 to 0.6
    assert choice(load(mean_k=7.9, ttft_p95_s=0.79)) == 8  # never above 1


def test_from_the_lowest_rung_ten_raises_lead_to_the_highest() -> None:
    policy = aimd()
    made = [policy.decide(load(at_s=5.0 * n, mean_k=1.0, ttft_p95_s=0.1)).mean_k for n in range(10)]
    assert made == pytest.approx([1.7, 2.4, 3.1, 3.8, 4.5, 5.2, 5.9, 6.6, 7.3, 8.0])


def test_it_is_blind_to_the_queue_as_the_original() -> None:
    queue = {"oldest_wait_s": 30.0, "worst_waiting_tokens": 10**5, "waiting_requests": 1000}
    assert choice(load(mean_k=4.5, ttft_p95_s=0.1, **queue)) == pytest.approx(5.2)


@pytest.mark.parametrize("unknown", [load(mean_k=4.0), load(mean_k=4.0, replicas=0)])
def test_without_latencies_there_is_no_check(unknown: Load) -> None:
    policy = aimd()
    assert policy.decide(unknown) == Budget(4.0, "no latencies: hold at 4")
    late = load(at_s=0.2, mean_k=8.0, ttft_p95_s=2.0)
    assert policy.decide(late).mean_k == pytest.approx(6.6)  # it did not wait for 5 s


def test_theta_spans_the_rungs_between_floor_and_ceiling() -> None:
    narrow = aimd(floor=2, ceiling=5)  # rungs 2 and 4
    assert narrow.decide(load(ttft_p95_s=2.0)).mean_k == pytest.approx(3.6)
    only = aimd(floor=4, ceiling=4)
    assert only.decide(load(ttft_p95_s=2.0)).mean_k == 4


def test_objectives_and_margin_come_from_the_slo_policy() -> None:
    chosen = slo_policy(slo={"ttft_s": 1.0, "tpot_s": 0.1, "margin": 0.5})
    reason = Aimd(profile(), Goals.of(chosen)).decide(load(ttft_p95_s=0.6)).reason
    assert "TTFT p95 0.600/0.500 s, TPOT p95 none/0.050 s" in reason
