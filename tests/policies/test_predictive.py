"""Which rung is taken under which load.

At k' 1, 2, 4 and 8 a full step of 100 tokens takes 20, 30, 50 and 90 ms. A backlog of 1000 tokens
takes ten of them where nobody decodes, a request of 100 prompt and 100 output tokens two: 40, 60,
100 and 180 ms.
"""

import json
from dataclasses import replace

import pytest

from controller.profiles import Profile
from controller.signals import ClassLoad, Correction, Load
from policies.goals import Goals
from policies.predictive import Predictive
from tests.fakes import Running, load, phased_profile, profile, profile_data, slo_policy

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
    assert budget.reason == f"100.0 % on time, worth 1.000: {outlook}"


def test_a_quality_above_that_of_the_full_k_is_noise() -> None:
    data = profile_data()
    data["rungs"][2] |= {"quality": 1.01, "quality_high": 1.02}
    lucky = Predictive(Profile.model_validate_json(json.dumps(data)), GOALS)
    assert lucky.decide(load()).mean_k == 8


def test_prompts_that_take_too_long_by_themselves_cost_as_much_as_others_that_are_late() -> None:
    """1500 tokens take 1.35 s at k' 8 and 0.75 at 4, of a second less the step before them."""
    some = ClassLoad(1.0, prompt_quantiles=(100, 100, 100, 1500, 1500, 1500, 1500, 1500))
    budget = predictive().decide(load(classes={"default": some}))
    assert budget.mean_k == 4
    assert budget.reason.startswith("100.0 % on time, worth 0.900: ")
    said = "; at k' 8 14.3 % of prompts are late by themselves"
    assert budget.reason.endswith(said)  # 0.1 + 0.15 (1.35 - 0.99) / 1.26
    few = ClassLoad(1.0, prompt_quantiles=(100,) * 7 + (1500,))
    budget = predictive().decide(load(classes={"default": few}))
    assert budget.mean_k == 8
    assert budget.reason.startswith("99.7 % on time, worth 0.997: ")  # 0.01 (1.35 - 0.99) / 1.26


def test_a_backlog_takes_the_rung_that_is_worth_most() -> None:
    choices = [first_choice(load(worst_waiting_tokens=tokens)) for tokens in (1000, 7000, 23_000)]
    assert choices == [8, 4, 2]


def test_a_backlog_may_cost_as_much_as_the_experts_that_would_save_it() -> None:
    """At k' 8 a backlog of 6567 tokens takes 5.91 s, and prompts have 1 - 0.09: of the work that
    would be done in 4.91 + 5.0 s, 4.91 is on time, and the cube root of that share of the requests,
    79.1 %. At k' 4 it is that of 4.95 of 7.28, 87.9 %, and 0.9 of them is as much.
    """
    choices = [first_choice(load(worst_waiting_tokens=n)) for n in (6567, 6568, 22_427, 22_428)]
    assert choices == [8, 4, 4, 2]
    budget = predictive().decide(load(worst_waiting_tokens=6567))
    assert budget.reason.startswith("overload: 79.1 % on time, worth 0.791: TTFT 6.000/1.000 s")


def test_the_longest_backlog_counts_and_not_the_mean() -> None:
    uneven = load(replicas=4, waiting_tokens=7000, worst_waiting_tokens=7000)
    even = load(replicas=4, waiting_tokens=8000, worst_waiting_tokens=2000)
    assert (first_choice(uneven), first_choice(even)) == (4, 8)


def test_what_the_oldest_has_waited_is_past_and_costs_no_experts() -> None:
    """Live, it sent k' to 1 whenever a queue was nearly done, forty times a minute."""
    assert first_choice(load(oldest_wait_s=0.96)) == 8
    nearly_done = {"oldest_wait_s": 0.96, "worst_waiting_tokens": 800}
    assert first_choice(load(**nearly_done)) == 8


def test_a_backlog_leaves_so_much_less_for_what_comes() -> None:
    """Of 0.72 a seconds of work at k' 8, 4.91 is on time, and at k' 4 4.95 of 0.4 a: 0.9 of the
    cube root of 4.95 / (4.95 + 0.4 a - 4.95) is as much at 9.35 a second. With 0.36 s of work there
    already half a request less may come.
    """
    assert first_choice(load(arrival_rps_sustained=9.35)) == 8
    assert first_choice(load(arrival_rps_sustained=9.36)) == 4
    heading = {"worst_waiting_tokens": 400}
    assert first_choice(load(**heading, arrival_rps_sustained=8.85)) == 8
    assert first_choice(load(**heading, arrival_rps_sustained=8.86)) == 4


def test_a_longer_objective_leaves_more_for_what_comes() -> None:
    # At k' 4 5.95 s are enough for 14.9 a second, and 5.91 / 0.729 / 0.72 is 11.26.
    patient = predictive(ttft_s=2.0)
    assert patient.decide(load(arrival_rps_sustained=11.25)).mean_k == 8
    assert patient.decide(load(arrival_rps_sustained=11.26)).mean_k == 4


def test_the_less_sure_a_rate_the_lower_the_rung() -> None:
    """At 0.99 of what k' 8 can take nothing would be late. If one time in ten 20.7 a second come,
    the error of the work of four seconds is 8.54 s, and 2.93 s of it are expected to be late.
    """
    sure = {"arrival_rps_sustained": 5.5}
    for upper_rps, k in ((None, 8), (5.5, 8), (1.0, 8), (20.6, 8), (20.7, 4), (70.0, 2)):
        assert first_choice(load(**sure, arrival_rps_upper=upper_rps)) == k


def test_the_worse_the_model_the_lower_the_rung() -> None:
    """All of 0.9 s of backlog and 2.16 s of work would be on time, unless steps take longer."""
    near = {"worst_waiting_tokens": 1000, "arrival_rps_sustained": 3.0}
    choices = [first_choice(load(**near, step_time_error=off)) for off in (None, 0.0, 2.2, 2.4)]
    assert choices == [8, 8, 8, 4]
    # E[(0.9 + 0.09 Z - 0.91)+] = 0.031 s beside 4.91, and the cube root of 4.91 / 4.941
    assert "99.8 % on time" in predictive().decide(load(**near, step_time_error=0.1)).reason


def test_a_backlog_is_late_however_little_comes_and_doubt_comes_on_top() -> None:
    full = predictive(floor=8)
    backlog = {"worst_waiting_tokens": 2122}  # 1.91 s, a second more than there is
    few = full.decide(load(**backlog, arrival_rps_sustained=0.0))
    assert few.reason.startswith("overload: 94.0 % on time")  # the cube root of 4.91 / 5.91
    # Just as much as four seconds do, with an error of 4.8 s: 0.399 of that, and that second.
    doubtful = load(**backlog, arrival_rps_sustained=5.5556, arrival_rps_upper=14.1)
    assert full.decide(doubtful).reason.startswith("overload: 85.6 % on time")


def test_doubt_costs_little_quality_where_that_is_flat() -> None:
    data = profile_data()
    data["rungs"][2] |= {"quality": 0.999, "quality_high": 1.0}
    flat = Running(Predictive(Profile.model_validate_json(json.dumps(data)), GOALS), 8.0)
    doubtful = load(arrival_rps_sustained=4.5, arrival_rps_upper=6.5)
    assert first_choice(doubtful) == 8
    assert flat.decide(doubtful).mean_k == 4


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
    """Where levels are short of the same work, one that does more of it by a factor serves its cube
    root more requests: 8 and 4 meet at 9.35 (above), 4 and 2 where 0.9 of that of 4.95 / 0.4 a is
    as much as 0.8. What k' 1 does more than k' 2, half, is not worth a quarter of the quality.
    """
    rates = (9.35, 9.36, 17.61, 17.63, 50.0, 500.0)
    choices = [first_choice(load(arrival_rps_sustained=rps)) for rps in rates]
    assert choices == [8, 4, 4, 2, 2, 2]


def test_the_rate_of_the_next_four_seconds_counts_and_not_that_of_the_next() -> None:
    assert first_choice(load(arrival_rps=50.0, arrival_rps_sustained=5.0)) == 8
    assert first_choice(load(arrival_rps=1.0, arrival_rps_sustained=10.0)) == 4
    assert first_choice(load(arrival_rps=50.0, arrival_rps_sustained=0.0)) == 8


def test_the_next_seconds_rate_counts_while_that_of_the_next_four_is_unknown() -> None:
    unknown = {"arrival_rps_sustained": None}
    assert first_choice(load(**unknown, arrival_rps=9.35)) == 8
    assert first_choice(load(**unknown, arrival_rps=9.36)) == 4
    assert "use 0.18" in predictive().decide(load(**unknown, arrival_rps=1.0)).reason


def test_replicas_share_the_arrivals() -> None:
    assert first_choice(load(arrival_rps_sustained=18.0, replicas=3)) == 8
    assert first_choice(load(arrival_rps_sustained=18.0)) == 2


def test_overload_takes_what_loses_least_and_says_so() -> None:
    """Of 12 s of work k' 2 does 4.97 in time, and the longest are those left out."""
    crowd = load(arrival_rps_sustained=50.0)
    budget = predictive().decide(crowd)
    assert budget.mean_k == 2
    assert budget.reason.startswith("overload: 74.5 % on time, worth 0.596: TTFT 8.030/1.000 s")
    assert predictive(floor=4).decide(crowd).mean_k == 4


def test_a_miss_may_count_for_more_than_the_answer_that_it_would_have_been() -> None:
    """At k' 8 5.6 s of work beside 4.91 make 4.3 % late. A miss counts thrice: 1 - 0.129 is less
    than 0.9 of all at k' 4, which takes 3.1 s.
    """
    busy = load(arrival_rps_sustained=7.78)
    by_weight = {
        weight: Predictive(profile(), replace(GOALS, miss_weight=weight)).decide(busy)
        for weight in (1.0, 2.0, 3.0)
    }
    assert [budget.mean_k for budget in by_weight.values()] == [8, 8, 4]
    assert by_weight[2.0].reason.startswith("overload: 95.7 % on time, worth 0.914: ")


def test_where_nothing_can_be_on_time_the_least_strained_rung_is_taken() -> None:
    long_prompts = load(prompt_tokens=20_000.0, arrival_rps_sustained=1.0)
    budget = predictive().decide(long_prompts)
    assert budget.mean_k == 1
    assert budget.reason.startswith("overload: 0.0 % on time, worth 0.000: ")


def at_four() -> Running:
    """A backlog has brought k' 4, and is gone."""
    policy = predictive()
    assert policy.decide(load(worst_waiting_tokens=7000)).mean_k == 4
    return policy


def test_what_a_climb_would_make_late_counts_twice() -> None:
    """A twentieth of the requests and not a tenth: 4.91 of 0.72 a seconds may be 0.95 cubed."""
    assert at_four().decide(load(arrival_rps_sustained=7.95)).mean_k == 8
    assert at_four().decide(load(arrival_rps_sustained=7.96)).mean_k == 4
    assert predictive().decide(load(arrival_rps_sustained=7.96)).mean_k == 8  # stays


def test_a_climb_that_makes_nothing_late_is_made_for_any_gain() -> None:
    """With a least gain it stayed at a k' of 0.998 for good, also where nobody came any more."""
    data = profile_data()
    data["rungs"][2] |= {"quality": 0.999, "quality_high": 1.0}
    flat = Running(Predictive(Profile.model_validate_json(json.dumps(data)), GOALS), 4.0)
    assert flat.decide(load()).mean_k == 8


def test_a_climb_goes_to_the_rung_that_is_worth_most() -> None:
    policy = predictive()
    assert policy.decide(load(worst_waiting_tokens=23_000)).mean_k == 2
    lull = {"arrival_rps": 1.0}
    assert policy.decide(load(**lull, arrival_rps_sustained=18.0)).mean_k == 2
    assert policy.decide(load(**lull, arrival_rps_sustained=9.0)).mean_k == 4
    assert policy.decide(load(**lull, arrival_rps_sustained=3.0)).mean_k == 8


def test_a_climb_goes_by_the_next_seconds_rate_while_the_sustained_is_unknown() -> None:
    policy = predictive()
    policy.decide(load(worst_waiting_tokens=7000))
    assert policy.decide(load(arrival_rps=1.0, arrival_rps_sustained=None)).mean_k == 8


def test_on_a_throttled_gpu_nothing_climbs_but_what_runs_may_stay() -> None:
    for throttled, k in ((None, 8), (False, 8), (True, 2)):
        policy = predictive()
        policy.decide(load(worst_waiting_tokens=23_000))
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
    assert first_choice(load(worst_waiting_tokens=3400)) == 8
    assert first_choice(load(worst_waiting_tokens=3400, correction=SLOWER)) == 4
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
    assert first_choice(load(worst_waiting_tokens=7000, correction=None)) == 4


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
    policy.decide(load(worst_waiting_tokens=23_000))
    budget = policy.decide(unknown)
    assert (budget.mean_k, budget.reason) == (2, "load unknown: hold")


def test_only_rungs_between_floor_and_ceiling_are_taken() -> None:
    narrow = predictive(floor=2, ceiling=5)
    assert narrow.decide(load()).mean_k == 4
    assert narrow.decide(load(worst_waiting_tokens=23_000)).mean_k == 2


def test_bounds_without_a_rung_are_refused() -> None:
    with pytest.raises(ValueError, match="no rung between floor 5 and ceiling 7"):
        predictive(floor=5, ceiling=7)


def test_the_margin_is_taken_off_the_objectives() -> None:
    chosen = slo_policy(slo={"ttft_s": 1.0, "tpot_s": 0.1, "margin": 0.5})
    budget = Predictive(profile(), Goals.of(chosen)).decide(load())
    assert "/0.500 s" in budget.reason and "/0.050 s" in budget.reason


def test_lower_prompts_leave_experts_for_answers() -> None:
    """A request of 100 and 10 tokens takes 99 ms at k' 8, 55 at 4, and 29 with answers alone at 8:
    of 20 a second the first asks for too much, the last for 0.58 of a replica's time.
    """
    busy = load(arrival_rps=20.0, arrival_rps_sustained=20.0, output_tokens=10.0)
    assert Predictive(phased_profile(), GOALS).decide(busy).mean_k == 4
    lower = replace(GOALS, prefill_ceiling=1)
    assert Predictive(phased_profile(), lower).decide(busy).mean_k == 8


def test_prompts_of_unknown_lengths_are_taken_for_their_mean() -> None:
    """1500 tokens take 0.75 s at k' 4, where the next of 2000 takes a second."""
    assert first_choice(load(prompt_tokens=1500.0)) == 4
    assert first_choice(load(prompt_tokens=2000.0)) == 2
