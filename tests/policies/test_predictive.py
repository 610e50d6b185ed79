"""Which rung is taken under which load.

At k' 1, 2, 4 and 8 a full step of 100 tokens takes 20, 30, 50 and 90 ms. A backlog of 1000 tokens
takes ten of them where nobody decodes, a request of 100 prompt and 100 output tokens two: 40, 60,
100 and 180 ms.
"""

import json
from dataclasses import replace

import pytest

from controller.profiles import Profile
from controller.signals import Correction, Load
from policies.goals import Goals
from policies.predictive import Predictive
from tests.fakes import Running, load, profile, profile_data, slo_policy

SMALL_LAYER = {"num_experts": 16, "size": 1 / 16, "spread": 1.0}


def predictive(*, floor: float = 1, ceiling: float = 8, ttft_s: float = 1.0) -> Running:
    """The ceiling runs at first."""
    policy = Predictive(profile(), Goals(ttft_s=ttft_s, tpot_s=0.1, floor=floor, ceiling=ceiling))
    return Running(policy, ceiling)


def first_choice(of: Load) -> float:
    return predictive().decide(of).mean_k


def test_quiet_takes_the_best_rung() -> None:
    budget = predictive().decide(load())
    assert budget.mean_k == 8
    expected = "best rung that holds: TTFT 0.090/1.000 s, TPOT 0.010/0.100 s, use 0.00"
    assert budget.reason == expected


def test_a_backlog_takes_the_best_rung_that_drains_it_in_time() -> None:
    choices = [first_choice(load(worst_waiting_tokens=tokens)) for tokens in (1000, 1800, 3000)]
    assert choices == [8, 4, 2]


def test_the_longest_backlog_counts_and_not_the_mean() -> None:
    uneven = load(replicas=4, waiting_tokens=3000, worst_waiting_tokens=3000)
    even = load(replicas=4, waiting_tokens=4000, worst_waiting_tokens=1000)
    assert (first_choice(uneven), first_choice(even)) == (2, 8)


def test_what_the_oldest_has_waited_is_past_and_costs_no_experts() -> None:
    """Live, it sent k' to 1 whenever a queue was nearly done, forty times a minute."""
    assert first_choice(load(oldest_wait_s=0.96)) == 8
    nearly_done = {"oldest_wait_s": 0.96, "worst_waiting_tokens": 800}
    assert first_choice(load(**nearly_done)) == 8


def test_a_queue_must_not_be_heading_for_more_than_its_room() -> None:
    """0.7 of what the prompt's 0.09 s leave of a second: 0.637 s. A backlog of 0.36 s at k' 8 comes
    in four seconds to 0.36 + 4 (0.18 * 5.9 - 1) = 0.608 s, and with 6 a second to 0.68 s.
    """
    heading = {"worst_waiting_tokens": 400}
    assert first_choice(load(**heading, arrival_rps_sustained=5.9)) == 8
    assert first_choice(load(**heading, arrival_rps_sustained=6.0)) == 4
    assert first_choice(load(**heading, arrival_rps_sustained=1.0)) == 8


def test_an_idle_engine_may_be_driven_above_its_capacity_by_the_room_over_the_horizon() -> None:
    # 1 + 0.7 * (1 - 0.09) / 4 = 1.159 of what k' 8 can take: 6.44 requests a second.
    budget = predictive().decide(load(arrival_rps_sustained=6.4))
    # (1.152 - 1) * 4 / 0.7 + 0.09 = 0.959 s
    expected = "best rung that holds: TTFT 0.959/1.000 s, TPOT 0.090/0.100 s, use 1.15"
    assert (budget.mean_k, budget.reason) == (8, expected)
    assert first_choice(load(arrival_rps_sustained=6.5)) == 4
    # With two seconds to wait, 1 + 0.7 * (2 - 0.09) / 4 = 1.334: 7.41 a second.
    patient = predictive(ttft_s=2.0)
    assert patient.decide(load(arrival_rps_sustained=7.4)).mean_k == 8
    assert patient.decide(load(arrival_rps_sustained=7.5)).mean_k == 4


def test_with_a_queue_that_takes_up_the_room_only_what_the_engine_can_take_is_left() -> None:
    """0.63 of 0.637 s: the other 7 ms in four seconds are 0.2 % of 5.56 requests a second."""
    full = {"worst_waiting_tokens": 700}
    assert first_choice(load(**full, arrival_rps_sustained=5.5)) == 8
    assert first_choice(load(**full, arrival_rps_sustained=5.6)) == 4


def test_many_decoding_requests_take_the_best_rung_that_keeps_their_pace() -> None:
    assert first_choice(load(running_requests=110)) == 8  # 98 ms a token
    assert first_choice(load(running_requests=200)) == 4  # 90 ms
    assert first_choice(load(running_requests=400)) == 2
    assert first_choice(load(running_requests=200, replicas=2)) == 8


def test_a_backlog_fills_the_steps_that_decode() -> None:
    strict = Predictive(profile(), Goals(ttft_s=1.0, tpot_s=0.08, floor=1, ceiling=8))
    few = load(running_requests=20, worst_waiting_tokens=1)
    assert strict.decide(few).mean_k == 8  # 27 ms a token
    full = load(running_requests=20, worst_waiting_tokens=100)
    assert strict.decide(full).mean_k == 4  # 90 ms at 8: 80 tokens of the backlog have room


def test_a_higher_arrival_rate_takes_a_lower_rung() -> None:
    # They take up to 1.159, 1.166, 1.170 and 1.171 of 5.6, 10, 16.7 and 25 a second.
    rates = (6.4, 6.5, 11.6, 11.7, 19.4, 19.5, 29.2, 50.0)
    choices = [first_choice(load(arrival_rps_sustained=rps)) for rps in rates]
    assert choices == [8, 4, 4, 2, 2, 1, 1, 1]


def test_the_rate_of_the_next_four_seconds_counts_and_not_that_of_the_next() -> None:
    assert first_choice(load(arrival_rps=50.0, arrival_rps_sustained=5.0)) == 8
    assert first_choice(load(arrival_rps=1.0, arrival_rps_sustained=10.0)) == 4
    assert first_choice(load(arrival_rps=50.0, arrival_rps_sustained=0.0)) == 8


def test_the_next_seconds_rate_counts_while_that_of_the_next_four_is_unknown() -> None:
    unknown = {"arrival_rps_sustained": None}
    assert first_choice(load(**unknown, arrival_rps=6.4)) == 8
    assert first_choice(load(**unknown, arrival_rps=6.5)) == 4
    assert "use 0.18" in predictive().decide(load(**unknown, arrival_rps=1.0)).reason


def test_replicas_share_the_arrivals() -> None:
    assert first_choice(load(arrival_rps_sustained=18.0, replicas=3)) == 8
    assert first_choice(load(arrival_rps_sustained=18.0)) == 2


def test_overload_takes_the_floor_and_says_so() -> None:
    backlog = load(worst_waiting_tokens=6000)
    budget = predictive().decide(backlog)
    assert budget.mean_k == 1
    assert budget.reason.startswith("overload: no rung holds: TTFT 1.220/1.000 s")
    assert predictive(floor=2).decide(backlog).mean_k == 2


def test_a_climb_is_refused_while_the_sustained_rate_would_overload() -> None:
    policy = predictive()
    assert policy.decide(load(worst_waiting_tokens=3000)).mean_k == 2
    lull = {"arrival_rps": 1.0}
    assert policy.decide(load(**lull, arrival_rps_sustained=18.0)).mean_k == 2
    assert policy.decide(load(**lull, arrival_rps_sustained=9.0)).mean_k == 4
    assert policy.decide(load(**lull, arrival_rps_sustained=3.0)).mean_k == 8


def at_four() -> Running:
    """A backlog has brought k' 4, and is gone."""
    policy = predictive()
    assert policy.decide(load(worst_waiting_tokens=1800)).mean_k == 4
    return policy


def test_a_climb_need_not_leave_the_engine_any_rest() -> None:
    assert at_four().decide(load(arrival_rps_sustained=6.4)).mean_k == 8  # 115 %
    assert at_four().decide(load(arrival_rps_sustained=6.5)).mean_k == 4  # as who is there


def test_a_climb_has_to_hold_for_four_seconds_of_more_than_is_expected() -> None:
    """With all of the second for its room: 4 (0.18 a - 1) <= 1 - 0.09, up to 6.82 a second."""
    expected = {"arrival_rps_sustained": 4.5}
    assert at_four().decide(load(**expected, arrival_rps_upper=6.8)).mean_k == 8
    assert at_four().decide(load(**expected, arrival_rps_upper=6.9)).mean_k == 4
    assert predictive().decide(load(**expected, arrival_rps_upper=6.9)).mean_k == 8  # stays
    # 0.36 s of backlog leave 0.55 s, and so 6.32 a second.
    expected["worst_waiting_tokens"] = 400
    assert at_four().decide(load(**expected, arrival_rps_upper=6.3)).mean_k == 8
    assert at_four().decide(load(**expected, arrival_rps_upper=6.4)).mean_k == 4


def test_a_climb_goes_to_the_best_rung_that_would_last() -> None:
    policy = predictive()
    assert policy.decide(load(worst_waiting_tokens=3000)).mean_k == 2
    # k' 4 takes up to (1 + (1 - 0.05) / 4) / 0.1 = 12.4 a second.
    rates = {"arrival_rps_sustained": 4.5}
    assert policy.decide(load(**rates, arrival_rps_upper=12.4)).mean_k == 2
    assert policy.decide(load(**rates, arrival_rps_upper=12.3)).mean_k == 4


def test_a_climb_has_to_hold_at_the_expected_rate_also_where_the_upper_one_is_lower() -> None:
    rates = {"arrival_rps": 7.0, "arrival_rps_sustained": None, "arrival_rps_upper": 1.0}
    assert at_four().decide(load(**rates)).mean_k == 4


def test_a_climb_goes_by_the_fast_rate_while_the_sustained_is_unknown() -> None:
    policy = predictive()
    policy.decide(load(worst_waiting_tokens=3000))
    assert policy.decide(load(arrival_rps=1.0, arrival_rps_sustained=None)).mean_k == 8


def test_on_a_throttled_gpu_nothing_climbs_but_what_runs_may_stay() -> None:
    for throttled, k in ((None, 8), (False, 8), (True, 2)):
        policy = predictive()
        policy.decide(load(worst_waiting_tokens=3000))
        assert policy.decide(load(gpu_throttled=throttled)).mean_k == k
    assert predictive().decide(load(gpu_throttled=True)).mean_k == 8


def test_overload_takes_the_least_strained_rung_also_if_it_is_not_the_lowest() -> None:
    data = profile_data()
    # 16 of the last layer's experts take as long as one of the others.
    data["step_time"]["layers"] = [*data["step_time"]["layers"][:3], SMALL_LAYER]
    data["rungs"][0] |= {"plan": [3, 3, 3, 3], "mean_k": 3.0}
    data["rungs"][1] |= {"plan": [1, 1, 1, 11], "mean_k": 3.5}
    policy = Predictive(
        Profile.model_validate_json(json.dumps(data)),
        Goals(ttft_s=1.0, tpot_s=0.01, floor=1, ceiling=8),
    )
    budget = policy.decide(load(running_requests=100))
    assert (budget.mean_k, budget.reason[:8]) == (3.5, "overload")


SLOWER = Correction(base=2.0, experts=2.0, rest=2.0)


def test_steps_that_take_twice_as_long_halve_the_capacity() -> None:
    assert first_choice(load(worst_waiting_tokens=1500)) == 4
    assert first_choice(load(worst_waiting_tokens=1500, correction=SLOWER)) == 2
    assert first_choice(load(arrival_rps_sustained=4.0)) == 8
    assert first_choice(load(arrival_rps_sustained=4.0, correction=SLOWER)) == 4
    one = load(arrival_rps_sustained=1.0)
    assert "use 0.18" in predictive().decide(one).reason
    assert "use 0.36" in predictive().decide(replace(one, correction=SLOWER)).reason


def test_only_the_part_that_is_corrected_takes_longer() -> None:
    slow_experts = predictive().decide(load(correction=Correction(experts=2.0)))
    assert "TTFT 0.170/1.000 s, TPOT 0.010/0.100 s" in slow_experts.reason
    slow_base = predictive().decide(load(correction=Correction(base=2.0)))
    assert "TTFT 0.100/1.000 s, TPOT 0.020/0.100 s" in slow_base.reason


def test_a_profile_that_is_not_yet_corrected_is_taken_at_its_word() -> None:
    assert first_choice(load(worst_waiting_tokens=1500, correction=None)) == 4


def test_long_contexts_take_longer() -> None:
    data = profile_data()
    data["step_time"] |= {"prefill_key_s": 0.00001, "decode_key_s": 0.00002}
    policy = Predictive(
        Profile.model_validate_json(json.dumps(data)),
        Goals(ttft_s=1.0, tpot_s=0.1, floor=8, ceiling=8),
    )
    # A prompt of 100 tokens reads 5050 keys, which takes 50.5 ms; 10 requests read 1500 a step.
    budget = policy.decide(load(running_requests=10))
    assert "TTFT 0.141/1.000 s, TPOT 0.048/0.100 s, use 0.00" in budget.reason
    # With a backlog the step also holds 90 prompt tokens, which read 4500 keys:
    # 10 + 80 + 45 + 30 ms. To drain it takes 100 / 90 of them, and the prompt comes after it.
    budget = policy.decide(load(running_requests=10, worst_waiting_tokens=100))
    assert "TTFT 0.324/1.000 s, TPOT 0.165/0.100 s" in budget.reason
    # Two steps of 50 tokens that read 50.5 keys and 50 that read 150: 90 + 25.25 + 150 ms each
    assert "use 0.53" in policy.decide(load(arrival_rps_sustained=1.0)).reason


def test_unseen_requests_cost_nothing_yet() -> None:
    unseen = {"prompt_tokens": None, "output_tokens": None}
    assert first_choice(load(arrival_rps_sustained=50.0, **unseen)) == 8


@pytest.mark.parametrize("unknown", [load(replicas=0), load(arrival_rps=None)])
def test_an_unknown_load_holds(unknown: Load) -> None:
    policy = predictive()
    policy.decide(load(worst_waiting_tokens=3000))
    budget = policy.decide(unknown)
    assert (budget.mean_k, budget.reason) == (2, "load unknown: hold")


def test_only_rungs_between_floor_and_ceiling_are_taken() -> None:
    narrow = predictive(floor=2, ceiling=5)
    assert narrow.decide(load()).mean_k == 4
    assert narrow.decide(load(worst_waiting_tokens=9000)).mean_k == 2


def test_bounds_without_a_rung_are_refused() -> None:
    with pytest.raises(ValueError, match="no rung between floor 5 and ceiling 7"):
        predictive(floor=5, ceiling=7)


def test_the_margin_is_taken_off_the_objectives() -> None:
    chosen = slo_policy(slo={"ttft_s": 1.0, "tpot_s": 0.1, "margin": 0.5})
    budget = Predictive(profile(), Goals.of(chosen)).decide(load())
    assert "/0.500 s" in budget.reason and "/0.050 s" in budget.reason
