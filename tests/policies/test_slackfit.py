"""Which rung fits the slack.

At k' 1, 2, 4 and 8 a backlog of 1000 tokens takes 0.2, 0.3, 0.5 and 0.9 s, and a step 10 ms and
0.1 ms a token and expert; TTFT 1 s and TPOT 0.1 s are to be kept.
"""

import pytest

from controller.signals import Budget, Correction, Load
from policies.goals import Goals
from policies.slackfit import SlackFit
from tests.fakes import load, profile, slo_policy


def slackfit(*, tpot_s: float = 0.1, floor: float = 1, ceiling: float = 8) -> SlackFit:
    return SlackFit(profile(), Goals(ttft_s=1.0, tpot_s=tpot_s, floor=floor, ceiling=ceiling))


def choice(of: Load) -> float:
    return slackfit().decide(of).mean_k


def test_quiet_takes_the_best_rung() -> None:
    assert slackfit().decide(load()) == Budget(
        8, "best that fits: drain 0.000/1.000 s, step 0.010/0.100 s"
    )


def test_the_longer_the_oldest_has_waited_the_lower_the_rung() -> None:
    waits = (0.0, 0.2, 0.6, 0.75)  # slack 1, 0.8, 0.4, 0.25
    made = [choice(load(worst_waiting_tokens=1000, oldest_wait_s=wait)) for wait in waits]
    assert made == [8, 4, 2, 1]


def test_the_longer_the_backlog_the_lower_the_rung() -> None:
    made = [choice(load(worst_waiting_tokens=tokens)) for tokens in (1100, 1900, 3000, 4000)]
    assert made == [8, 4, 2, 1]


def test_a_slack_below_the_lowest_bucket_takes_the_lowest_rung() -> None:
    late = slackfit().decide(load(worst_waiting_tokens=1000, oldest_wait_s=0.9))
    assert late == Budget(1, "overload: none fits: drain 0.200/0.100 s, step 0.020/0.100 s")
    assert choice(load(oldest_wait_s=1.1)) == 1


def test_the_step_has_to_keep_the_pace_of_those_that_decode() -> None:
    assert choice(load(running_requests=110)) == 8  # 10 + 0.8 * 110 = 98 ms
    assert choice(load(running_requests=200)) == 4  # 90 ms
    assert choice(load(running_requests=200, replicas=2)) == 8
    # 10 + 0.8 * 120 = 106 ms, 10 + 0.4 * 120 = 58 ms
    assert choice(load(running_requests=20, worst_waiting_tokens=100)) == 4


def test_where_nobody_decodes_no_token_is_due() -> None:
    strict = slackfit(tpot_s=0.05)
    assert strict.decide(load(worst_waiting_tokens=100)).mean_k == 8
    # 10 + 0.4 * 101 = 50.4 ms, 10 + 0.2 * 101 = 30.2 ms
    assert strict.decide(load(worst_waiting_tokens=100, running_requests=1)).mean_k == 2


def test_no_arrivals_are_foreseen() -> None:
    assert choice(load(arrival_rps=1000.0, arrival_rps_sustained=1000.0)) == 8


def test_it_goes_by_the_corrected_profile() -> None:
    twice = Correction(base=2.0, experts=2.0, rest=2.0)
    assert choice(load(worst_waiting_tokens=1000)) == 8
    assert choice(load(worst_waiting_tokens=1000, correction=twice)) == 4


@pytest.mark.parametrize(
    "unknown", [{"replicas": 0}, {"oldest_wait_s": None}, {"worst_waiting_tokens": None}]
)
def test_an_unknown_load_holds(unknown: dict[str, None]) -> None:
    assert slackfit().decide(load(mean_k=2.0, **unknown)) == Budget(2.0, "load unknown: hold at 2")


def test_only_rungs_between_floor_and_ceiling_are_taken() -> None:
    narrow = slackfit(floor=2, ceiling=5)
    assert narrow.decide(load()).mean_k == 4
    assert narrow.decide(load(worst_waiting_tokens=9000)).mean_k == 2


def test_objectives_and_margin_come_from_the_slo_policy() -> None:
    chosen = slo_policy(slo={"ttft_s": 1.0, "tpot_s": 0.1, "margin": 0.5})
    reason = SlackFit(profile(), Goals.of(chosen)).decide(load()).reason
    assert "/0.500 s" in reason and "/0.050 s" in reason
