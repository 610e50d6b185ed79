"""Whole runs on virtual time, by numbers reckoned by hand.

A step takes 10 ms and 0.1 ms times k' a token: 90 ms for a full one of 100 tokens at k' 8, 10.8 ms
for one token.
"""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.config import SloPolicy
from simulations.batching import Batching
from simulations.faults import Slowdown
from simulations.results import summarise
from simulations.traces import Request
from tests.fakes import phased_profile, slo_policy
from tests.simulations.cluster_fakes import (
    every,
    fixed,
    profile_with,
    run,
    statuses,
    unheard,
)


def test_a_request_alone_takes_its_steps_and_nothing_else() -> None:
    (record,) = run([Request(0.5, 150, 3)]).records
    assert record.ttft_s == pytest.approx(0.090 + 0.050)
    assert record.tpot_s == pytest.approx(0.0108)
    assert record.e2e_s == pytest.approx(0.090 + 0.050 + 2 * 0.0108)
    assert (record.status, record.output_tokens, record.scheduled_s) == ("completed", 3, 0.5)
    assert (record.quality, record.mean_k) == (1.0, 8.0)


def test_prompts_below_their_ceiling_take_less_and_cost_what_the_profile_says() -> None:
    bounds = {"floor": 1, "ceiling": 8, "prefill_ceiling": 1}
    (record,) = run([Request(0.5, 150, 3)], fixed(8, experts=bounds), phased_profile()).records
    # All but the last token at k' 1, which makes the first of the answer.
    assert record.ttft_s == pytest.approx(0.020 + 0.010 + 49 * 0.0001 + 0.0008)
    assert record.tpot_s == pytest.approx(0.0108)
    assert (record.quality, record.mean_k) == (pytest.approx(0.99), 8.0)


def test_who_comes_during_a_step_waits_for_its_end() -> None:
    first, second = run([Request(0.0, 100, 1), Request(0.03, 50, 1)]).records
    assert first.ttft_s == pytest.approx(0.090)
    assert second.ttft_s == pytest.approx(0.060 + 0.050)


def test_of_two_replicas_the_one_with_fewer_requests_is_chosen() -> None:
    together = [Request(0.0, 100, 1)] * 4
    outcome = run(together, replicas=2)
    assert [record.ttft_s for record in outcome.records] == pytest.approx([0.09, 0.09, 0.18, 0.18])
    assert outcome.num_steps == 4


def test_noise_has_the_mean_error_that_the_profile_says_and_no_bias() -> None:
    outcome = run(every(1.0, 4000), unheard(), profile_with(noise=0.1))
    factors = [record.ttft_s / 0.09 for record in outcome.records if record.ttft_s]
    assert sum(factors) / 4000 == pytest.approx(1.0, abs=0.006)
    assert sum(abs(each - 1) for each in factors) / 4000 == pytest.approx(0.1, rel=0.05)


def burst() -> list[Request]:
    """Twice what full k' can take in, for 4 s between quiet times."""
    return [*every(0.5, 8), *every(0.045, 90, from_s=4.0), *every(0.5, 20, from_s=8.1)]


def test_the_same_seed_gives_the_same_outcome_and_another_one_another() -> None:
    noisy, predictive = profile_with(noise=0.1), slo_policy()
    one, again, other = (run(burst(), predictive, noisy, replicas=2, seed=n) for n in (1, 1, 2))
    assert one == again
    assert one.records != other.records


def test_k_goes_down_for_a_burst_and_comes_back() -> None:
    outcome = run(burst(), slo_policy())
    ks = [tick.mean_k for tick in outcome.ticks]
    assert (ks[0], min(ks) < 8, ks[-1]) == (8.0, True, 8.0)
    assert [tick.at_s for tick in outcome.ticks[:3]] == pytest.approx([0.0, 0.2, 0.4])
    assert {tick.epoch for tick in outcome.ticks} <= outcome.plans.keys()
    full, adaptive = (
        summarise(run(burst(), policy).records, policy.slo_classes)
        for policy in (fixed(), slo_policy())
    )
    assert full["attainment"] < 0.8
    assert adaptive["attainment"] > 0.95
    assert adaptive["served_quality"] < 1.0


def test_a_plan_reaches_a_replica_after_its_delay_and_between_two_steps() -> None:
    # Decided at 0 s for the heartbeat that comes at 2 ms, it arrives at 52 ms. Steps at k' 8 end at
    # 18 ms, and each 10.8 ms from there on: that at 61.2 ms is the last before the change.
    policy = slo_policy(policy={"name": "fixed", "k": 1})
    (record,) = run([Request(0.0, 10, 30)], policy, actuation_s=0.05).records
    assert record.mean_k == pytest.approx((5 * 8 + 25 * 1) / 30)
    assert record.quality == pytest.approx((5 * 1.0 + 25 * 0.6) / 30)
    assert record.e2e_s == pytest.approx(0.0612 + 25 * 0.0101)
    assert record.epoch == 2


def test_steps_that_are_alike_give_the_same_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, noisy = every(0.4, 60, prompt=50, output=90), profile_with(noise=0.1)
    at_once = run(requests, slo_policy(), noisy, replicas=2)
    monkeypatch.setattr(Batching, "steady", lambda self: None)
    assert run(requests, slo_policy(), noisy, replicas=2) == at_once


def two_classes() -> SloPolicy:
    return slo_policy(
        classes={
            "gold": {"ttft_s": 1.0, "tpot_s": 0.1, "priority": 1},
            "batch": {"ttft_s": 2.0, "tpot_s": 0.5, "priority": -1, "max_waiting": 20},
        }
    )


def test_under_overload_the_high_class_is_kept_and_the_low_one_shed_with_a_time() -> None:
    # At k' 1 a replica takes in 50 prompts a second; there are 20 of gold and 40 of batch.
    gold = every(0.05, 200, slo_class="gold")
    batch = every(0.025, 400, slo_class="batch", from_s=0.001)
    both = sorted([*gold, *batch], key=lambda request: request.arrival_s)
    policy = two_classes()
    outcome = run(both, policy)
    classes = summarise(outcome.records, policy.slo_classes)["classes"]
    assert classes["gold"]["attainment"] > 0.98
    assert 0.2 < classes["batch"]["shed"] / 400 < 0.6
    shed = [record for record in outcome.records if record.status == "shed"]
    assert all(record.retry_after_s and record.retry_after_s >= 1 for record in shed)
    assert {record.judged_as for record in shed} == {"batch"}
    # Who is not shed is served in time, all but a few.
    assert classes["batch"]["attainment"] * 400 >= 0.95 * classes["batch"]["completed"]


def test_a_queue_that_is_full_refuses_with_429() -> None:
    policy = fixed(admission={"max_waiting": 2, "late": "serve"})
    outcome = run([Request(0.0, 100, 1)] * 4, policy)
    assert statuses(outcome) == ["completed", "completed", "shed", "shed"]
    assert outcome.records[2].error == "HTTP 429: 2 requests of class default wait"


def test_who_waits_in_vain_is_let_go_by_the_next_look() -> None:
    # Ten prompts of 90 ms each fit into the second that they may take, but steps take 2.5 times as
    # long: after 0.675 s three are done. The fourth is let go in the midst of its step.
    policy = fixed(admission={"late": "refuse"})
    outcome = run([Request(0.0, 100, 1)] * 10, policy, faults=(Slowdown(2.5),))
    assert statuses(outcome).count("completed") == 3
    shed = [record for record in outcome.records if record.status == "shed"]
    assert len(shed) == 7
    for record in shed:
        assert record.took_s == pytest.approx(round(record.took_s / 0.05) * 0.05)  # at a look


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request(0.0, 60_000, 6_000), "66000 tokens"),
        (Request(0.0, 0, 1), "no tokens to read"),
        (Request(-1.0, 1, 1), "arrives before"),
        (Request(0.0, 1, 1, "gold"), "'gold' is no class, use: default"),
    ],
)
def test_what_no_replica_could_serve_is_named(request_: Request, why: str) -> None:
    with pytest.raises(ValueError, match=f"request 0.*{why}"):
        run([request_])


def test_no_requests_give_no_records() -> None:
    assert run([]).records == []


requests = st.lists(
    st.builds(
        Request,
        st.floats(0, 3),
        st.integers(1, 400),
        st.integers(1, 20),
        st.sampled_from([None, "gold", "batch"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=40)
@given(requests, st.integers(1, 3), st.integers(0, 3))
def test_every_request_has_one_end_and_all_its_tokens(
    unordered: list[Request], replicas: int, seed: int
) -> None:
    ordered = sorted(unordered, key=lambda request: request.arrival_s)
    outcome = run(ordered, two_classes(), profile_with(noise=0.2), replicas=replicas, seed=seed)
    assert [record.index for record in outcome.records] == list(range(len(ordered)))
    for record, request in zip(outcome.records, ordered, strict=True):
        made = request.output_tokens if record.completed else 0
        assert record.output_tokens == made
        assert record.took_s is not None and record.took_s >= 0
    assert all(one.at_s < other.at_s for one, other in pairwise(outcome.ticks))


@settings(deadline=None, max_examples=20)
@given(requests)
def test_first_come_is_first_served_within_a_class(unordered: list[Request]) -> None:
    ordered = sorted(unordered, key=lambda request: request.arrival_s)
    policy = two_classes().model_copy(update={"admission": fixed().admission})
    records = run(ordered, policy).records
    for name in ("default", "gold", "batch"):
        firsts = [
            record.scheduled_s + record.ttft_s
            for record in records
            if record.judged_as == name and record.ttft_s is not None
        ]
        assert firsts == sorted(firsts)
