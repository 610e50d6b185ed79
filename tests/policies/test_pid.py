"""Feed-forward and PI: who moves k' when, and that nothing winds up or jumps.

The rungs go from 1 to 8, so mean k' is 1 + 7 u. A backlog of 990 tokens takes ten steps of 99
beside the one request that runs, 0.2 s at the lowest and 0.9 s at the highest; TTFT 1 s and TPOT
0.1 s are to be kept.
"""

import pytest

from controller.signals import Budget, Correction, Load
from policies.goals import Goals
from policies.pid import Pid
from tests.fakes import load, profile, slo_policy

EASY = {"running_requests": 1, "ttft_p95_s": 0.5}  # error 0.5
LATE = {"running_requests": 1, "ttft_p95_s": 2.5}  # error -1.5


def pid(*, floor: float = 1, ceiling: float = 8) -> Pid:
    return Pid(profile(), Goals(ttft_s=1.0, tpot_s=0.1, floor=floor, ceiling=ceiling))


def running(mean_k: float, **changes: float) -> Pid:
    """Switched on at 0 s at that k'."""
    policy = pid()
    policy.decide(load(mean_k=mean_k, **changes))
    return policy


@pytest.mark.parametrize("mean_k", [1.0, 2.0, 4.5, 8.0])
@pytest.mark.parametrize(
    "under", [EASY, LATE, EASY | {"worst_waiting_tokens": 6000}, {"oldest_wait_s": 3.0}]
)
def test_switched_on_it_starts_from_what_runs(mean_k: float, under: dict[str, float]) -> None:
    budget = pid().decide(load(mean_k=mean_k, **under))
    assert budget.mean_k == pytest.approx(mean_k)
    assert budget.reason.startswith("handed over")


def test_from_there_on_it_moves_by_the_integral() -> None:
    policy = running(4.5, **EASY)
    # Half a strain is left, at 0.1 a second: u rises by 0.05 each second.
    made = [policy.decide(load(at_s=at_s, **EASY)).mean_k for at_s in (1.0, 2.0, 4.0)]
    assert made == pytest.approx([4.85, 5.2, 5.9])


def test_ten_decisions_in_a_second_do_what_one_does() -> None:
    policy = running(4.5, **EASY)
    for tick in range(1, 11):
        budget = policy.decide(load(at_s=0.1 * tick, **EASY))
    assert budget.mean_k == pytest.approx(4.85)


def test_the_proportional_part_answers_at_once() -> None:
    # e falls by 2, u by 0.15 * 2; I takes 0.1 * -1.5 * 0.2 s. 0.5 - 0.3 - 0.03 = 0.17
    budget = running(4.5, **EASY).decide(load(at_s=0.2, **LATE))
    assert budget.mean_k == pytest.approx(1 + 7 * 0.17)


def test_a_backlog_is_answered_before_anybody_is_late() -> None:
    budget = running(8.0, **EASY).decide(load(at_s=0.2, worst_waiting_tokens=1980, **EASY))
    # 1980 tokens take 0.4 to 1.8 s: ff = (1 - 0.4) / (1.8 - 0.4) = 0.42857; at the hand-over
    # I was 1 - 1 - 0.075, and has grown by 0.1 * 0.5 * 0.2. In all 0.42857 + 0.075 - 0.065.
    assert budget.mean_k == pytest.approx(1 + 7 * 0.438571, abs=1e-4)
    assert budget.reason == (
        "u 0.439: queue 0.429, P +0.075, I -0.065, strain 0.500, 1980 tokens wait"
    )


def test_the_feed_forward_ends_where_a_rung_is_just_in_time() -> None:
    # The highest takes a second for 1100 tokens, the lowest for 4950.
    for tokens, ahead in ((0, 1), (1099, 1), (1101, 0.999), (4949, 0), (4951, 0), (10**6, 0)):
        reason = pid().decide(load(worst_waiting_tokens=tokens, **EASY)).reason
        assert f"queue {ahead:.3f}," in reason


def test_the_feed_forward_goes_by_the_corrected_profile() -> None:
    twice = Correction(base=2.0, experts=2.0, rest=2.0)
    budget = pid().decide(load(worst_waiting_tokens=990, correction=twice, **EASY))
    assert "queue 0.429" in budget.reason


def test_a_minute_of_overload_does_not_wind_up() -> None:
    policy = running(8.0, **LATE)
    made = [policy.decide(load(at_s=second, **LATE)).mean_k for second in range(1, 61)]
    # u falls by 0.15 a second: 0.85, 0.7 ... 0.1, then 0.
    assert made[:2] == pytest.approx([6.95, 5.9]) and made[6:] == [1.0] * 54
    # I stopped at 1 - 1 + 0.225 - 6 * 0.15 = -0.675. Now 1 + 0.075 - 0.675 + 0.05 = 0.45.
    assert policy.decide(load(at_s=61, **EASY)).mean_k == pytest.approx(4.15)


def test_an_hour_of_quiet_does_not_wind_up_either() -> None:
    policy = running(8.0, **EASY)
    for second in range(1, 3601):
        assert policy.decide(load(at_s=second, **EASY)).mean_k == 8
    # I stayed at -0.075. 1 - 0.225 - 0.075 - 0.15 = 0.55
    assert policy.decide(load(at_s=3601, **LATE)).mean_k == pytest.approx(4.85)


def test_a_wait_counts_as_a_first_token_that_is_not_over() -> None:
    reason = pid().decide(load(oldest_wait_s=1.5, **EASY)).reason
    assert "strain 1.500" in reason


def test_the_more_strained_objective_counts() -> None:
    reason = pid().decide(load(tpot_p95_s=0.12, **EASY)).reason
    assert "strain 1.200" in reason


def test_idleness_teaches_nothing() -> None:
    policy = running(4.5, **EASY)
    for second in range(1, 100):
        held = policy.decide(load(at_s=second, mean_k=4.5, ttft_p95_s=0.1))
        assert held == Budget(4.5, "idle: hold at 4.5")
    assert policy.decide(load(at_s=100, mean_k=4.5, **EASY)).mean_k == pytest.approx(4.85)


def test_nor_does_a_request_of_which_nothing_is_measured_yet() -> None:
    assert pid().decide(load(mean_k=4.5, running_requests=1)) == Budget(4.5, "idle: hold at 4.5")


def test_switched_on_while_idle_it_is_handed_over_with_the_first_request() -> None:
    policy = running(8.0)
    budget = policy.decide(load(at_s=0.2, mean_k=2.0, **LATE))
    assert (budget.mean_k, budget.reason[:11]) == (pytest.approx(2.0), "handed over")


def test_after_a_gap_it_starts_from_what_runs_by_then() -> None:
    assert running(8.0, **EASY).decide(load(at_s=5.0, mean_k=2.0, **EASY)).mean_k == 8
    after = running(8.0, **EASY).decide(load(at_s=5.1, mean_k=2.0, **EASY))
    assert (after.mean_k, after.reason[:11]) == (pytest.approx(2.0), "handed over")


@pytest.mark.parametrize(
    "unknown", [{"replicas": 0}, {"oldest_wait_s": None}, {"worst_waiting_tokens": None}]
)
def test_an_unknown_load_holds_and_is_followed_by_a_hand_over(unknown: dict[str, None]) -> None:
    policy = running(8.0, **EASY)
    held = policy.decide(load(at_s=0.2, mean_k=4.0, **unknown))
    assert held == Budget(4.0, "load unknown: hold at 4")
    assert policy.decide(load(at_s=0.4, mean_k=4.0, **LATE)).mean_k == pytest.approx(4.0)


def test_u_spans_the_rungs_between_floor_and_ceiling() -> None:
    narrow = pid(floor=2, ceiling=5)  # rungs 2 and 4
    assert narrow.decide(load(mean_k=8.0, **LATE)).mean_k == 4
    # 1 - 1.5 * 0.1 of the way from 2 to 4
    assert narrow.decide(load(at_s=1.0, **LATE)).mean_k == pytest.approx(3.7)
    assert pid(floor=4, ceiling=4).decide(load(worst_waiting_tokens=9000, **LATE)).mean_k == 4


def test_objectives_and_margin_come_from_the_slo_policy() -> None:
    chosen = slo_policy(slo={"ttft_s": 1.0, "tpot_s": 0.1, "margin": 0.5})
    reason = Pid(profile(), Goals.of(chosen)).decide(load(**EASY)).reason
    assert "strain 1.000" in reason


def test_in_a_closed_loop_it_settles_where_the_objective_is_just_kept() -> None:
    # A plant whose TTFT is a second for every 4 experts: strain is 1 at k' 4.
    policy, mean_k = pid(), 8.0
    for tick in range(600):
        plant: Load = load(
            at_s=0.2 * tick, mean_k=mean_k, running_requests=1, ttft_p95_s=mean_k / 4
        )
        mean_k = policy.decide(plant).mean_k
    assert mean_k == pytest.approx(4.0, abs=0.01)
