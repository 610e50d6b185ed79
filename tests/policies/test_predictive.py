"""Which rung is taken under which load.

At k' 1, 2, 4 and 8 a full step of 100 tokens takes 20, 30, 50 and 90 ms. A backlog of 1000 tokens
takes ten of them where nobody decodes, a request of 100 prompt and 100 output tokens two: 40, 60,
100 and 180 ms. So k' serves 25, 16.7, 10 and 5.6 requests a second, and after 0.98 s of backlog, 24.5
requests, a prompt is late at any k'.
"""

import json
from dataclasses import replace

import pytest

from controller.profiles import Profile
from controller.signals import Budget, Correction, Load
from policies.goals import Goals
from policies.predictive import Predictive
from tests.fakes import Running, load, profile, profile_data, slo_policy

GOALS = Goals(ttft_s=1.0, tpot_s=0.1, floor=1, ceiling=8)
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
    outlook = "TTFT 0.090/1.000 s, TPOT 0.010/0.100 s, use 0.00"
    assert budget.reason == f"price 0.000, 0.0/24.5 queued: {outlook}"


def test_a_quality_above_that_of_the_full_k_is_noise() -> None:
    data = profile_data()
    data["rungs"][2] |= {"quality": 1.01, "quality_high": 1.02}
    lucky = Predictive(Profile.model_validate_json(json.dumps(data)), GOALS)
    assert lucky.decide(load()).mean_k == 8


def test_a_backlog_takes_the_best_rung_under_which_a_prompt_behind_it_is_on_time() -> None:
    """Nobody else comes: (tokens / 100 + 1) steps up to 1 s."""
    backlogs = (1011, 1012, 1900, 1901, 3233, 3234)
    choices = [first_choice(load(worst_waiting_tokens=tokens)) for tokens in backlogs]
    assert choices == [8, 4, 4, 2, 2, 1]


def queued(tokens: int = 400, rps: float = 20.0, **changes: object) -> Load:
    return load(worst_waiting_tokens=tokens, arrival_rps_sustained=rps, **changes)


def test_a_queue_takes_the_more_experts_the_longer_it_is() -> None:
    choices = [first_choice(queued(tokens)) for tokens in (0, 100, 200, 300, 800)]
    assert choices == [8, 8, 4, 2, 2]
    assert "price 0.463, 2.0/24.5 queued" in predictive().decide(queued(400)).reason


def test_a_queue_takes_the_more_experts_the_more_is_to_follow() -> None:
    choices = [first_choice(queued(rps=rps)) for rps in (0.0, 10.0, 14.0, 20.0, 40.0)]
    assert choices == [8, 8, 4, 2, 1]


def test_without_a_queue_no_rate_takes_experts() -> None:
    """Who serves all that is there has nothing to buy. Trials with a lead were worse, see the log."""
    assert first_choice(queued(0, rps=50.0)) == 8


def test_k_rises_again_as_the_queue_goes() -> None:
    policy = predictive()
    assert [policy.decide(queued(n)).mean_k for n in (800, 200, 100)] == [2, 4, 8]


def test_one_k_is_for_all_replicas_and_goes_by_their_mean_price() -> None:
    uneven, even = (
        queued(400, rps=60.0, replicas=4, waiting_tokens=total) for total in (400, 1600)
    )
    assert (first_choice(uneven), first_choice(even)) == (8, 4)
    # As many everywhere, if it is not known how many there are.
    unknown = queued(400, rps=60.0, replicas=4, waiting_tokens=None)
    assert predictive().decide(unknown) == predictive().decide(even)


def test_the_longest_queue_has_to_be_on_time() -> None:
    uneven = load(replicas=4, waiting_tokens=3000, worst_waiting_tokens=3000)
    even = load(replicas=4, waiting_tokens=4000, worst_waiting_tokens=1000)
    assert (first_choice(uneven), first_choice(even)) == (2, 8)


def test_what_the_oldest_has_waited_is_past_and_costs_no_experts() -> None:
    """Live, it sent k' to 1 whenever a queue was nearly done, forty times a minute."""
    assert first_choice(load(oldest_wait_s=0.96)) == 8
    nearly_done = {"oldest_wait_s": 0.96, "worst_waiting_tokens": 800}
    assert first_choice(load(**nearly_done)) == 8


def test_a_longer_objective_leaves_more_room_for_a_queue() -> None:
    choices = [predictive(ttft_s=ttft_s).decide(queued(rps=10.0)).mean_k for ttft_s in (0.6, 2.0)]
    assert choices == [4, 8]


def test_the_less_sure_a_rate_the_sooner_a_queue_may_be_gone_and_the_later_it_grows() -> None:
    """Above what any k' serves, doubt is hope; below, it is fear."""
    too_many = [first_choice(queued(rps=20.0, arrival_rps_upper=upper)) for upper in (20, 23, 26)]
    assert too_many == [2, 4, 8]
    few = [
        first_choice(queued(tokens=900, rps=5.0, arrival_rps_upper=upper)) for upper in (None, 60)
    ]
    reasons = [
        predictive().decide(queued(tokens=900, rps=5.0, arrival_rps_upper=upper)).reason
        for upper in (1.0, 5.0, 10.0, 20.0)
    ]
    prices = [float(reason.split(",")[0].removeprefix("price ")) for reason in reasons]
    assert few == [8, 8]
    assert prices[0] == prices[1] < prices[2] < prices[3]


def with_quality_at_4(quality: float) -> Running:
    data = profile_data()
    data["rungs"][2] |= {"quality": quality, "quality_high": 1.0}
    return Running(Predictive(Profile.model_validate_json(json.dumps(data)), GOALS), 8.0)


def test_where_quality_is_flat_a_short_queue_takes_experts() -> None:
    assert first_choice(queued(rps=10.0)) == 8
    assert with_quality_at_4(0.999).decide(queued(rps=10.0)).mean_k == 4


def test_what_cannot_be_told_from_noise_takes_no_experts() -> None:
    """Less than 0.0003 of quality in each request that k' 8 serves; also if k' 4 loses nothing."""
    assert with_quality_at_4(1.0).decide(queued(rps=2.0)).mean_k == 8
    assert with_quality_at_4(1.0).decide(queued(rps=10.0)).mean_k == 4


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


def test_the_rate_of_the_next_four_seconds_counts_and_not_that_of_the_next() -> None:
    assert first_choice(queued(rps=5.0, arrival_rps=50.0)) == 8
    assert first_choice(queued(rps=20.0, arrival_rps=1.0)) == 2


def test_the_next_seconds_rate_counts_while_that_of_the_next_four_is_unknown() -> None:
    unknown = {"worst_waiting_tokens": 400, "arrival_rps_sustained": None}
    assert [first_choice(load(**unknown, arrival_rps=rps)) for rps in (10.0, 14.0)] == [8, 4]
    assert "use 0.18" in predictive().decide(load(**unknown, arrival_rps=1.0)).reason


def test_replicas_share_the_arrivals() -> None:
    three = queued(rps=42.0, replicas=3, waiting_tokens=1200)
    assert first_choice(three) == first_choice(queued(rps=14.0)) == 4
    assert first_choice(queued(rps=42.0)) == 1


def test_overload_takes_the_fastest_rung_and_says_so() -> None:
    crowd = queued(9000, rps=50.0)
    budget = predictive().decide(crowd)
    outlook = "TTFT 1.820/1.000 s, TPOT 0.020/0.100 s, use 2.00"
    assert budget == Budget(1, f"overload: price 1.000, 45.0/24.5 queued: {outlook}")
    assert predictive(floor=2).decide(crowd).mean_k == 2


def test_where_nothing_can_be_on_time_the_fastest_rung_is_taken() -> None:
    long_prompts = load(prompt_tokens=20_000.0, arrival_rps_sustained=1.0)
    budget = predictive().decide(long_prompts)
    assert budget.mean_k == 1
    assert budget.reason.startswith("overload: price 1.000, 0.0/0.0 queued: TTFT 4.000/1.000 s")


def test_when_it_is_quiet_the_last_bit_of_quality_comes_back() -> None:
    """Once it stayed at a k' of 0.998 for good, also where nobody came any more."""
    policy = with_quality_at_4(0.999)
    assert policy.decide(queued(rps=10.0)).mean_k == 4
    assert policy.decide(load()).mean_k == 8


def test_a_climb_goes_by_the_next_seconds_rate_while_the_sustained_is_unknown() -> None:
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
    assert first_choice(load(worst_waiting_tokens=1600)) == 4
    assert first_choice(load(worst_waiting_tokens=1600, correction=SLOWER)) == 2
    assert first_choice(queued(rps=8.0)) == 8
    assert first_choice(queued(rps=8.0, correction=SLOWER)) == 4
    one = load(arrival_rps_sustained=1.0)
    assert "use 0.18" in predictive().decide(one).reason
    assert "use 0.36" in predictive().decide(replace(one, correction=SLOWER)).reason


def test_only_the_part_that_is_corrected_takes_longer() -> None:
    slow_experts = predictive().decide(load(correction=Correction(experts=2.0)))
    assert "TTFT 0.170/1.000 s, TPOT 0.010/0.100 s" in slow_experts.reason
    slow_base = predictive().decide(load(correction=Correction(base=2.0)))
    assert "TTFT 0.100/1.000 s, TPOT 0.020/0.100 s" in slow_base.reason


def test_a_profile_that_is_not_yet_corrected_is_taken_at_its_word() -> None:
    assert first_choice(load(worst_waiting_tokens=1600, correction=None)) == 4


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
