"""Samples in, one Load out. Time is moved by hand."""

from pytest import approx

from controller.estimator import Estimator
from controller.signals import Correction, Device, Load, Step, Work
from tests.fakes import profile, sample


def estimator() -> Estimator:
    return Estimator(profile(), stale_s=1.0, forget_s=5.0)


def test_before_the_first_sample_nothing_is_known() -> None:
    assert estimator().estimate(3.0, 8.0) == Load(at_s=3.0, mean_k=8.0, replicas=0)


def test_what_an_idle_replica_cannot_tell_is_none() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    assert e.estimate(0.0, 8.0) == Load(
        at_s=0.0,
        mean_k=8.0,
        replicas=1,
        waiting_requests=0,
        waiting_tokens=0,
        worst_waiting_tokens=0,
        running_requests=0,
        oldest_wait_s=0.0,
        correction=Correction(),
    )


def test_queues_add_up_and_the_worst_is_kept() -> None:
    e = estimator()
    busy = {"waiting_requests": 3, "running_requests": 4, "oldest_wait_s": 0.2}
    e.record(sample(replica="a", waiting_tokens=900, **busy), 0.0)
    e.record(sample(replica="b", waiting_tokens=100, oldest_wait_s=0.7), 0.0)
    load = e.estimate(0.0, 8.0)
    assert (load.replicas, load.waiting_requests, load.running_requests) == (2, 3, 4)
    assert (load.waiting_tokens, load.worst_waiting_tokens) == (1000, 900)
    assert load.oldest_wait_s == 0.7


def test_only_the_last_sample_of_a_replica_stands_for_its_queue() -> None:
    e = estimator()
    e.record(sample(waiting_tokens=900), 0.0)
    e.record(sample(waiting_tokens=300), 0.2)
    assert e.estimate(0.2, 8.0).waiting_tokens == 300


def test_a_sample_older_than_stale_s_is_not_believed() -> None:
    e = estimator()
    e.record(sample(replica="a", waiting_tokens=900), 0.0)
    e.record(sample(replica="b", waiting_tokens=100), 0.5)
    assert e.estimate(1.0, 8.0).stale_replicas == 0
    load = e.estimate(1.1, 8.0)
    assert (load.replicas, load.stale_replicas, load.waiting_tokens) == (1, 1, 100)
    assert [fresh.replica for fresh in e.fresh(1.1)] == ["b"]


def test_with_only_stale_replicas_nothing_is_known_but_their_number() -> None:
    e = estimator()
    e.record(sample(arrived_requests=1, ttfts_s=(0.1,)), 0.0)
    e.estimate(0.0, 8.0)
    assert e.estimate(2.0, 8.0) == Load(at_s=2.0, mean_k=8.0, replicas=0, stale_replicas=1)


def test_a_stale_replica_comes_back_with_its_next_sample() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    assert e.estimate(3.0, 8.0).stale_replicas == 1
    e.record(sample(waiting_tokens=7), 3.1)
    load = e.estimate(3.1, 8.0)
    assert (load.replicas, load.stale_replicas, load.waiting_tokens) == (1, 0, 7)


def test_a_replica_silent_for_longer_than_forget_s_is_gone() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    assert e.estimate(5.0, 8.0).stale_replicas == 1
    assert e.estimate(5.1, 8.0).stale_replicas == 0


def test_the_rates_need_two_estimates() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    load = e.estimate(0.0, 8.0)
    assert (load.arrival_rps, load.arrival_rps_sustained) == (None, None)
    e.record(sample(arrived_requests=2), 0.2)
    load = e.estimate(0.2, 8.0)
    assert load.arrival_rps == approx(10.0)
    assert load.arrival_rps_sustained == approx(10.0)


def test_a_second_estimate_at_the_same_time_loses_no_arrivals() -> None:
    e = estimator()
    e.estimate(0.0, 8.0)
    e.record(sample(arrived_requests=2), 0.2)
    first = e.estimate(0.2, 8.0)
    e.record(sample(arrived_requests=2), 0.2)
    assert e.estimate(0.2, 8.0).arrival_rps == first.arrival_rps
    assert e.estimate(0.4, 8.0).arrival_rps == approx(10.0)


def test_arrivals_of_all_replicas_count_once() -> None:
    e = estimator()
    e.estimate(0.0, 8.0)
    e.record(sample(replica="a", arrived_requests=3), 0.5)
    e.record(sample(replica="b", arrived_requests=1), 0.5)
    e.record(sample(replica="b", arrived_requests=1), 1.0)
    assert e.estimate(1.0, 8.0).arrival_rps == approx(5.0)


def test_idleness_lowers_the_fast_rate_sooner_than_the_sustained() -> None:
    e = estimator()
    e.estimate(0.0, 8.0)
    for second in range(1, 101):
        e.record(sample(arrived_requests=10), float(second))
        e.estimate(float(second), 8.0)
    e.record(sample(), 101.0)
    load = e.estimate(101.0, 8.0)
    assert load.arrival_rps == approx(3.679, abs=0.001)  # 10 / e
    assert load.arrival_rps_sustained == approx(7.788, abs=0.001)  # 10 / e ** (1 / 4)


def test_the_shape_of_requests_is_a_mean_over_requests_that_idleness_keeps() -> None:
    e = estimator()
    e.record(sample(arrived_requests=1, arrived_tokens=100, arrived_output_tokens=10), 0.0)
    load = e.estimate(0.0, 8.0)
    assert (load.prompt_tokens, load.output_tokens) == (100.0, 10.0)
    e.record(sample(arrived_requests=1, arrived_tokens=300, arrived_output_tokens=30), 1.0)
    for now_s in (1.0, 60.0):
        e.record(sample(), now_s)
        load = e.estimate(now_s, 8.0)
        assert load.prompt_tokens == approx(202.5, abs=0.1)  # the later one weighs a little more
        assert load.output_tokens == approx(20.25, abs=0.01)


def prefill_step(duration_s: float) -> Step:
    """100 prompt tokens at k' 8 in four layers; the profile says 90 ms."""
    return Step(Work(100, 0, 5050, 0), duration_s, (800,) * 4, (16,) * 4)


def test_the_profile_is_corrected_by_the_steps_that_run() -> None:
    e = estimator()
    for _ in range(30):  # 27 s of predicted engine time
        e.record(sample(steps=(prefill_step(0.18),) * 10), 0.0)
    correction = e.estimate(0.0, 8.0).correction
    assert correction is not None
    assert correction.base == approx(2.0, abs=0.02)
    assert correction.experts == approx(2.0, abs=0.02)
    assert correction.rest == approx(2.0, abs=0.02)


def test_a_correction_is_forgotten_by_steps_and_not_by_time() -> None:
    e = estimator()
    for _ in range(10):
        e.record(sample(steps=(prefill_step(0.27),) * 10), 0.0)
    learnt = e.estimate(0.0, 8.0).correction
    e.record(sample(), 99.0)
    assert e.estimate(99.0, 8.0).correction == learnt
    for _ in range(50):  # 45 s of engine time
        e.record(sample(steps=(prefill_step(0.09),) * 10), 99.0)
    correction = e.estimate(99.0, 8.0).correction
    assert correction is not None and correction.experts == approx(1.0, abs=0.001)


def test_the_error_is_that_of_predictions_made_before_the_step() -> None:
    e = estimator()
    e.record(sample(steps=(prefill_step(0.09),) * 10), 0.0)  # as predicted, but 0.9 s are too few
    assert e.estimate(0.0, 8.0).step_time_error is None
    e.record(sample(steps=(prefill_step(0.18),)), 0.0)  # 90 ms too long, of 1.08 s in all
    assert e.estimate(0.0, 8.0).step_time_error == approx(0.0833, abs=0.0001)


def test_the_error_weighs_steps_by_their_time_and_is_that_of_the_last_minute() -> None:
    e = estimator()
    e.record(sample(steps=(prefill_step(0.09),) * 20), 0.0)  # 1.8 s, no error
    e.record(sample(steps=(prefill_step(0.6),)), 30.0)  # 0.6 s, 0.51 s wrong
    assert e.estimate(30.0, 8.0).step_time_error == approx(0.51 / 2.4, abs=0.0001)
    e.record(sample(), 60.0)
    assert e.estimate(60.0, 8.0).step_time_error == approx(0.51 / 2.4, abs=0.0001)
    e.record(sample(), 60.1)
    assert e.estimate(60.1, 8.0).step_time_error is None  # 0.6 s are too few


def test_a_step_whose_experts_were_not_counted_teaches_nothing() -> None:
    e = estimator()
    e.record(sample(steps=(Step(Work(100, 0, 5050, 0), 9.0),) * 9), 0.0)
    load = e.estimate(0.0, 8.0)
    assert (load.correction, load.step_time_error) == (Correction(), None)


def test_latencies_are_given_as_the_95th_percentile_of_ten_seconds() -> None:
    e = estimator()
    e.record(sample(ttfts_s=tuple(n / 100 for n in range(20, 0, -1)), tpots_s=(0.05,)), 0.0)
    load = e.estimate(0.0, 8.0)
    assert (load.ttft_p95_s, load.tpot_p95_s) == (approx(0.19, rel=0.01), approx(0.05, rel=0.01))
    e.record(sample(ttfts_s=(0.3,)), 10.1)
    load = e.estimate(10.1, 8.0)
    assert (load.ttft_p95_s, load.tpot_p95_s) == (approx(0.3, rel=0.01), None)


def test_devices_are_given_by_the_busiest_that_can_be_read() -> None:
    e = estimator()
    e.record(sample(replica="a", device=Device(gpu_busy=0.3, host_cpu_busy=0.9)), 0.0)
    e.record(sample(replica="b", device=Device(gpu_busy=0.8)), 0.0)
    e.record(sample(replica="c"), 0.0)
    load = e.estimate(0.0, 8.0)
    assert (load.gpu_busy, load.host_cpu_busy) == (0.8, 0.9)


def test_one_throttled_gpu_is_enough_and_unreadable_ones_say_nothing() -> None:
    e = estimator()
    e.record(sample(replica="a", device=Device(gpu_throttled=None)), 0.0)
    assert e.estimate(0.0, 8.0).gpu_throttled is None
    e.record(sample(replica="b", device=Device(gpu_throttled=False)), 0.0)
    assert e.estimate(0.0, 8.0).gpu_throttled is False
    e.record(sample(replica="c", device=Device(gpu_throttled=True)), 0.0)
    assert e.estimate(0.0, 8.0).gpu_throttled is True
