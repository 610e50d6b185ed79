"""The bound by numbers reckoned by hand, and that no arm is above it.

At k' 1, 2, 4 and 8 a token takes 0.2, 0.3, 0.5 and 0.9 ms in full steps of 100, for a quality of
0.6, 0.8, 0.9 and 1.0.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.config import SloClass
from controller.levels import ladder_of
from controller.profiles import Profile
from controller.signals import Work
from simulations.arms import simulated_arms
from simulations.bound import Bound, bound, hull, least_s
from simulations.results import summarise
from simulations.settings import Settings
from simulations.traces import Request
from tests.fakes import phased_profile, profile, rung_data, slo_policy
from tests.simulations.cluster_fakes import every, poisson, profile_with, run

PATIENT = SloClass(ttft_s=1.0, tpot_s=10.0)
CACHE = Settings().cache_tokens


def bound_of(
    requests: Sequence[Request],
    slo: SloClass = PATIENT,
    of: Profile | None = None,
    replicas: float = 1,
    **others: SloClass,
) -> Bound:
    served = of or profile()
    ladder = served.ladder(1, 8, None)
    return bound(requests, {"default": slo, **others}, served, ladder, replicas, CACHE)


def test_what_full_k_has_time_for_is_served_at_full_k() -> None:
    found = bound_of([Request(0.0, 100, 1)] * 16)  # 1.44 s of the 1.5 s of three windows
    assert (found.effective_quality, found.attainment, found.mean_k) == pytest.approx((1, 1, 8))
    assert (found.served_quality, found.window_s) == (pytest.approx(1), 0.5)


def test_time_beyond_a_rung_raises_as_many_requests_as_it_can_to_the_next() -> None:
    # All of 20 take 1.0 s at k' 4; 40 ms more each raise 12.5 of them to 8.
    found = bound_of([Request(0.0, 100, 1)] * 20)
    assert found.attainment == pytest.approx(1)
    assert found.effective_quality == pytest.approx(0.9 + 0.1 * 12.5 / 20)
    assert found.mean_k == pytest.approx(4 + 4 * 12.5 / 20)


def test_of_more_than_the_lowest_rung_has_time_for_the_rest_is_left_out() -> None:
    found = bound_of([Request(0.0, 100, 1)] * 100)  # 75 of them take 1.5 s at k' 1
    assert found.attainment == pytest.approx(0.75)
    assert found.effective_quality == pytest.approx(0.6 * 0.75)
    assert found.served_quality == pytest.approx(0.6)


def test_two_replicas_have_twice_the_time() -> None:
    twice, once = (bound_of([Request(0.0, 100, 1)] * 20 * n, replicas=n) for n in (2, 1))
    assert twice.effective_quality == pytest.approx(once.effective_quality)


def test_long_requests_are_left_out_first() -> None:
    # At k' 1 the 75 short prompts take the 1.5 s that there are: 20 ms each, the others 50 ms.
    both = [*[Request(0.0, 100, 1)] * 75, *[Request(0.0, 250, 1)] * 20]
    assert bound_of(both).attainment == pytest.approx(75 / 95)


def test_answers_may_take_until_their_last_token_and_prompts_may_not() -> None:
    # 2 ms of prompt and 49 of 10 ms each: ten take 1.5 s together, longer than a prompt may wait.
    requests = [Request(0.0, 10, 246)] * 30
    assert bound_of(requests, SloClass(ttft_s=1.0, tpot_s=1e-9)).attainment < 1
    assert bound_of(requests, SloClass(ttft_s=1.0, tpot_s=0.1)).attainment == pytest.approx(1)
    prompts = [Request(0.0, 246, 10)] * 40
    assert bound_of(prompts, SloClass(ttft_s=1.0, tpot_s=1.0)).attainment < 1


def test_answers_are_not_held_back_but_those_of_lower_priorities() -> None:
    """Of 20 ms each at k' 1, they take 40 s; at 1.5 full steps of k' 8 a token they last 14.4 s."""
    answers, gold = [Request(0.0, 1, 100)] * 2000, SloClass(ttft_s=1.0, tpot_s=1.0, priority=1)
    assert bound_of(answers).attainment == pytest.approx(14.5 / 40)
    assert bound_of(answers, gold=gold).attainment == pytest.approx(1)
    hasty = SloClass(ttft_s=1.0, tpot_s=0.05)
    assert bound_of(answers, hasty).attainment == pytest.approx(6.0 / 40)


def test_each_class_is_held_to_its_own_objectives() -> None:
    hasty = SloClass(ttft_s=0.1, tpot_s=10.0)
    gold = [Request(0.0, 100, 1, "gold")] * 50  # 25 fit into their only window
    assert bound_of(gold, gold=hasty).attainment == pytest.approx(0.5)
    assert bound_of(gold, gold=PATIENT).attainment == pytest.approx(1)


def test_what_has_not_come_cannot_be_served_ahead() -> None:
    later = [Request(2.1, 100, 1)] * 100
    assert bound_of(later).attainment == pytest.approx(0.75)


def test_long_runs_have_wider_windows() -> None:
    assert bound_of(every(1.0, 1001)).window_s == pytest.approx(1.0)


def test_on_the_hull_each_step_up_buys_less_and_costs_more() -> None:
    cost_C = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert hull(cost_C, np.array([0.5, 0.6, 0.9, 0.95, 0.9])) == [0, 2, 3]
    assert hull(cost_C, np.array([0.5, 0.625, 0.75, 0.875, 1.0])) == [0, 4]


def test_a_request_takes_its_share_of_full_steps_and_its_keys() -> None:
    keyed = profile_with(step_time={"prefill_key_s": 1e-6, "decode_key_s": 1e-5}).step_time
    prompt_s, answer_s = least_s(keyed, (8, 8, 8, 8), np.array([50.0]), np.array([11.0]), 100)
    assert prompt_s == pytest.approx([50 * 0.0009 + 1e-6 * 50 * 51 / 2])
    assert answer_s == pytest.approx([10 * 0.0009 + 1e-5 * sum(50 + n for n in range(1, 11))])


@given(st.integers(1, 100), st.floats(1, 16), st.floats(0.01, 1.0))
def test_no_step_takes_less_a_token_than_a_full_one(tokens: int, k: float, spread: float) -> None:
    layer = {"num_experts": 16, "size": 1.0, "spread": spread}
    model = profile_with(step_time={"expert_s": 0.001, "layers": [layer] * 4}).step_time
    least = model.step_s((k,) * 4, Work(100, 0, 0, 0)) / 100
    assert model.step_s((k,) * 4, Work(0, tokens, 0, 0)) / tokens >= least * (1 - 1e-9)


LOADS = {
    "steady": poisson(6.0, 90, output=20),
    "overload": poisson(40.0, 500, output=5),
    "long answers": poisson(3.0, 40, prompt=10, output=150),
    "long and short": [Request(0.1 * n, 20 if n % 5 else 900, 5) for n in range(150)],
}


@pytest.mark.parametrize("prefill_ceiling", [None, 1])
@pytest.mark.parametrize("load", LOADS)
def test_no_arm_is_above_the_bound(load: str, prefill_ceiling: int | None) -> None:
    bounds = {"floor": 1, "ceiling": 8, "prefill_ceiling": prefill_ceiling}
    requests, policy, of = LOADS[load], slo_policy(experts=bounds), phased_profile()
    most = bound(requests, policy.slo_classes, of, ladder_of(policy, of), 1, CACHE)
    for name, arm in simulated_arms(policy, of).items():
        figures = summarise(run(requests, arm, of).records, policy.slo_classes)
        assert figures["effective_quality"] <= most.effective_quality + 1e-9, name


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.builds(Request, st.floats(0, 3), st.integers(1, 400), st.integers(1, 40)),
        min_size=1,
        max_size=60,
    ),
    st.sampled_from([1, 4, 8]),
)
def test_no_constant_is_above_the_bound(unordered: list[Request], k: int) -> None:
    requests = sorted(unordered, key=lambda request: request.arrival_s)
    policy = slo_policy(policy={"name": "fixed", "k": k})
    figures = summarise(run(requests, policy).records, policy.slo_classes)
    most = bound(requests, policy.slo_classes, profile(), profile().ladder(1, 8, None), 1, CACHE)
    assert figures["effective_quality"] <= most.effective_quality + 1e-9


def test_a_rung_that_costs_more_and_gives_less_is_not_used() -> None:
    worse = profile_with(rungs=[rung_data(k, q) for k, q in ((1, 0.6), (4, 1.01), (8, 1.0))])
    found = bound_of([Request(0.0, 100, 1)], of=worse)
    assert (found.effective_quality, found.mean_k) == pytest.approx((1.01, 4))
