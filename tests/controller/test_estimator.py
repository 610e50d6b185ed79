"""Samples in, one Load out. Time is moved by hand."""

from dataclasses import replace

from pytest import approx

from controller.estimator import Estimator
from controller.forecast import ArrivalForecast
from controller.signals import (
    ClassSample,
    Correction,
    Device,
    Load,
    Plan,
    Sample,
    Step,
    Work,
)
from tests.fakes import profile, sample

EIGHT = Plan(epoch=1, k=(8, 8, 8, 8), quality=1.0)


def estimator() -> Estimator:
    return Estimator(profile(), stale_s=1.0, forget_s=5.0)


def test_before_the_first_sample_nothing_is_known() -> None:
    assert estimator().estimate(3.0, EIGHT) == Load(at_s=3.0, mean_k=8.0, replicas=0, epoch=1)


def test_what_an_idle_replica_cannot_tell_is_none() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    assert e.estimate(0.0, EIGHT) == Load(
        at_s=0.0,
        mean_k=8.0,
        replicas=1,
        waiting_requests=0,
        waiting_tokens=0,
        worst_waiting_tokens=0,
        running_requests=0,
        oldest_wait_s=0.0,
        correction=Correction(),
        epoch=1,
        ages_s={"queue": 0.0},
    )


def test_queues_add_up_and_the_worst_is_kept() -> None:
    e = estimator()
    busy = {"waiting_requests": 3, "running_requests": 4, "oldest_wait_s": 0.2}
    e.record(sample(replica="a", waiting_tokens=900, **busy), 0.0)
    e.record(sample(replica="b", waiting_tokens=100, oldest_wait_s=0.7), 0.0)
    load = e.estimate(0.0, EIGHT)
    assert (load.replicas, load.waiting_requests, load.running_requests) == (2, 3, 4)
    assert (load.waiting_tokens, load.worst_waiting_tokens) == (1000, 900)
    assert load.oldest_wait_s == 0.7


def test_only_the_last_sample_of_a_replica_stands_for_its_queue() -> None:
    e = estimator()
    e.record(sample(waiting_tokens=900), 0.0)
    e.record(sample(waiting_tokens=300), 0.2)
    assert e.estimate(0.2, EIGHT).waiting_tokens == 300


def test_a_sample_older_than_stale_s_is_not_believed() -> None:
    e = estimator()
    e.record(sample(replica="a", waiting_tokens=900), 0.0)
    e.record(sample(replica="b", waiting_tokens=100), 0.5)
    assert e.estimate(1.0, EIGHT).stale_replicas == 0
    load = e.estimate(1.1, EIGHT)
    assert (load.replicas, load.stale_replicas, load.waiting_tokens) == (1, 1, 100)
    assert [fresh.replica for fresh in e.fresh(1.1)] == ["b"]


def test_with_only_stale_replicas_nothing_is_known_but_their_number() -> None:
    e = estimator()
    e.record(sample(arrived_prompts=(100,), ttfts_s=(0.1,)), 0.0)
    e.estimate(0.0, EIGHT)
    assert e.estimate(2.0, EIGHT) == Load(
        at_s=2.0, mean_k=8.0, replicas=0, stale_replicas=1, epoch=1
    )


def test_a_stale_replica_comes_back_with_its_next_sample() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    assert e.estimate(3.0, EIGHT).stale_replicas == 1
    e.record(sample(waiting_tokens=7), 3.1)
    load = e.estimate(3.1, EIGHT)
    assert (load.replicas, load.stale_replicas, load.waiting_tokens) == (1, 0, 7)


def test_a_replica_silent_for_longer_than_forget_s_is_gone() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    assert e.estimate(5.0, EIGHT).stale_replicas == 1
    assert e.estimate(5.1, EIGHT).stale_replicas == 0


def test_the_rates_need_two_estimates() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    load = e.estimate(0.0, EIGHT)
    assert (load.arrival_rps, load.arrival_rps_sustained) == (None, None)
    e.record(sample(arrived_prompts=(100, 100)), 0.2)
    load = e.estimate(0.2, EIGHT)
    assert load.arrival_rps == approx(10.0)
    assert load.arrival_rps_sustained == approx(10.0)


def test_a_second_estimate_at_the_same_time_loses_no_arrivals() -> None:
    e = estimator()
    e.estimate(0.0, EIGHT)
    e.record(sample(arrived_prompts=(100, 100)), 0.2)
    first = e.estimate(0.2, EIGHT)
    e.record(sample(arrived_prompts=(100, 100)), 0.2)
    assert e.estimate(0.2, EIGHT).arrival_rps == first.arrival_rps
    assert e.estimate(0.4, EIGHT).arrival_rps == approx(10.0)


def test_arrivals_of_all_replicas_count_once() -> None:
    e = estimator()
    e.estimate(0.0, EIGHT)
    e.record(sample(replica="a", arrived_prompts=(100,) * 3), 0.5)
    e.record(sample(replica="b", arrived_prompts=(100,)), 0.5)
    e.record(sample(replica="b", arrived_prompts=(100,)), 1.0)
    assert e.estimate(1.0, EIGHT).arrival_rps == approx(5.0)


def test_the_rates_are_those_of_the_forecast_for_one_and_four_seconds() -> None:
    e, forecast = estimator(), ArrivalForecast()
    e.estimate(0.0, EIGHT)
    for second, count in enumerate([10] * 100 + [0, 30, 30], start=1):
        e.record(sample(arrived_prompts=(100,) * count), float(second))
        forecast.add(count, dt_s=1.0)
        load = e.estimate(float(second), EIGHT)
    soon, later = forecast.ahead(1.0), forecast.ahead(4.0)
    assert soon and later
    assert load.arrival_rps == soon.mean_per_s
    assert load.arrival_rps_sustained == later.mean_per_s
    assert load.arrival_rps_upper == later.upper_per_s


def test_the_shape_of_requests_is_a_mean_over_requests_that_idleness_keeps() -> None:
    e = estimator()
    e.record(sample(arrived_prompts=(100,), arrived_output_tokens=10), 0.0)
    load = e.estimate(0.0, EIGHT)
    assert (load.prompt_tokens, load.output_tokens) == (100.0, 10.0)
    e.record(sample(arrived_prompts=(300,), arrived_output_tokens=30), 1.0)
    for now_s in (1.0, 60.0):
        e.record(sample(), now_s)
        load = e.estimate(now_s, EIGHT)
        assert load.prompt_tokens == approx(202.5, abs=0.1)  # the later one weighs a little more
        assert load.output_tokens == approx(20.25, abs=0.01)


def prefill_step(duration_s: float) -> Step:
    """100 prompt tokens at k' 8 in four layers; the profile says 90 ms."""
    return Step(Work(100, 0, 5050, 0), duration_s, (800,) * 4, (16,) * 4)


def test_the_profile_is_corrected_by_the_steps_that_run() -> None:
    e = estimator()
    for _ in range(30):  # 27 s of predicted engine time
        e.record(sample(steps=(prefill_step(0.18),) * 10), 0.0)
    correction = e.estimate(0.0, EIGHT).correction
    assert correction is not None
    assert correction.base == approx(2.0, abs=0.02)
    assert correction.experts == approx(2.0, abs=0.02)
    assert correction.rest == approx(2.0, abs=0.02)


def test_a_correction_is_forgotten_by_steps_and_not_by_time() -> None:
    e = estimator()
    for _ in range(10):
        e.record(sample(steps=(prefill_step(0.27),) * 10), 0.0)
    learnt = e.estimate(0.0, EIGHT).correction
    e.record(sample(), 99.0)
    assert e.estimate(99.0, EIGHT).correction == learnt
    for _ in range(50):  # 45 s of engine time
        e.record(sample(steps=(prefill_step(0.09),) * 10), 99.0)
    correction = e.estimate(99.0, EIGHT).correction
    assert correction is not None and correction.experts == approx(1.0, abs=0.001)


def test_the_error_is_that_of_predictions_made_before_the_step() -> None:
    e = estimator()
    e.record(sample(steps=(prefill_step(0.09),) * 10), 0.0)  # as predicted, but 0.9 s are too few
    assert e.estimate(0.0, EIGHT).step_time_error is None
    e.record(sample(steps=(prefill_step(0.18),)), 0.0)  # 90 ms too long, of 1.08 s in all
    assert e.estimate(0.0, EIGHT).step_time_error == approx(0.0833, abs=0.0001)


def test_the_error_weighs_steps_by_their_time_and_is_that_of_the_last_minute() -> None:
    e = estimator()
    e.record(sample(steps=(prefill_step(0.09),) * 20), 0.0)  # 1.8 s, no error
    e.record(sample(steps=(prefill_step(0.6),)), 30.0)  # 0.6 s, 0.51 s wrong
    assert e.estimate(30.0, EIGHT).step_time_error == approx(0.51 / 2.4, abs=0.0001)
    e.record(sample(), 60.0)
    assert e.estimate(60.0, EIGHT).step_time_error == approx(0.51 / 2.4, abs=0.0001)
    e.record(sample(), 60.1)
    assert e.estimate(60.1, EIGHT).step_time_error is None  # 0.6 s are too few


def test_a_step_whose_experts_were_not_counted_teaches_nothing() -> None:
    e = estimator()
    e.record(sample(steps=(Step(Work(100, 0, 5050, 0), 9.0),) * 9), 0.0)
    load = e.estimate(0.0, EIGHT)
    assert (load.correction, load.step_time_error) == (Correction(), None)


def test_latencies_are_given_as_the_95th_percentile_of_ten_seconds() -> None:
    e = estimator()
    e.record(sample(ttfts_s=tuple(n / 100 for n in range(20, 0, -1)), tpots_s=(0.05,)), 0.0)
    load = e.estimate(0.0, EIGHT)
    assert (load.ttft_p95_s, load.tpot_p95_s) == (approx(0.19, rel=0.01), approx(0.05, rel=0.01))
    e.record(sample(ttfts_s=(0.3,)), 10.1)
    load = e.estimate(10.1, EIGHT)
    assert (load.ttft_p95_s, load.tpot_p95_s) == (approx(0.3, rel=0.01), None)


def test_devices_are_given_by_the_busiest_that_can_be_read() -> None:
    e = estimator()
    e.record(sample(replica="a", device=Device(gpu_busy=0.3, host_cpu_busy=0.9)), 0.0)
    e.record(sample(replica="b", device=Device(gpu_busy=0.8)), 0.0)
    e.record(sample(replica="c"), 0.0)
    load = e.estimate(0.0, EIGHT)
    assert (load.gpu_busy, load.host_cpu_busy) == (0.8, 0.9)


def test_one_throttled_gpu_is_enough_and_unreadable_ones_say_nothing() -> None:
    e = estimator()
    e.record(sample(replica="a", device=Device(gpu_throttled=None)), 0.0)
    assert e.estimate(0.0, EIGHT).gpu_throttled is None
    e.record(sample(replica="b", device=Device(gpu_throttled=False)), 0.0)
    assert e.estimate(0.0, EIGHT).gpu_throttled is False
    e.record(sample(replica="c", device=Device(gpu_throttled=True)), 0.0)
    assert e.estimate(0.0, EIGHT).gpu_throttled is True


def two_classes(replica: str, **gold: object) -> Sample:
    batch = ClassSample(waiting_tokens=700, arrived_prompts=(300,), shed_requests=1)
    return sample(replica=replica, classes={"gold": ClassSample(**gold), "batch": batch})


def test_classes_are_told_apart_and_add_up() -> None:
    e = estimator()
    e.estimate(0.0, EIGHT)
    arrived = {"arrived_prompts": (100, 50), "arrived_output_tokens": 50}
    e.record(two_classes("a", waiting_tokens=100, oldest_wait_s=0.3, **arrived), 0.1)
    e.record(two_classes("b", waiting_tokens=400, standing_wait_s=0.2), 0.1)
    load = e.estimate(1.0, EIGHT)
    gold, batch = load.classes["gold"], load.classes["batch"]
    assert (gold.waiting_tokens, gold.worst_waiting_tokens) == (500, 400)
    assert (gold.oldest_wait_s, gold.standing_wait_s) == (0.3, 0.2)
    assert (gold.shed_rps, batch.shed_rps) == (0.0, approx(2.0))
    assert (load.waiting_tokens, load.worst_waiting_tokens) == (1900, 1100)
    assert load.shares == {"gold": approx(0.25), "batch": approx(0.75)}
    assert load.arrival_rps == approx(4.0)


def test_each_class_has_latencies_of_its_own() -> None:
    e = estimator()
    classes = {"gold": ClassSample(ttfts_s=(0.1,)), "batch": ClassSample(ttfts_s=(4.0,))}
    e.record(sample(classes=classes), 0.0)
    load = e.estimate(0.0, EIGHT)
    assert load.classes["gold"].ttft_p95_s == approx(0.1, rel=0.01)
    assert load.classes["batch"].ttft_p95_s == approx(4.0, rel=0.01)
    assert load.classes["gold"].tpot_p95_s is None


def test_the_mean_k_that_runs_is_that_of_the_classes_by_their_tokens() -> None:
    e = estimator()
    plan = replace(EIGHT, class_k={"batch": (2, 2, 2, 2)})
    assert e.estimate(0.0, plan).mean_k == 8.0  # nobody there: what requests of no class get
    arrived = {"arrived_prompts": (100,)}
    e.record(two_classes("a", **arrived), 0.1)
    assert e.estimate(1.0, plan).mean_k == approx(0.25 * 8 + 0.75 * 2)


def test_the_lengths_of_the_last_256_prompts_of_a_class_are_told_by_quantiles() -> None:
    e = estimator()
    e.record(sample(), 0.0)
    assert e.estimate(0.0, EIGHT).classes == {}
    e.record(sample(replica="a", arrived_prompts=(7,)), 0.1)
    assert e.estimate(0.1, EIGHT).classes["default"].prompt_quantiles == (7,) * 8
    e.record(sample(replica="a", arrived_prompts=tuple(range(100, 0, -1))), 0.2)
    e.record(sample(replica="b", arrived_prompts=tuple(range(101, 257))), 0.2)
    told = e.estimate(0.2, EIGHT).classes["default"].prompt_quantiles
    assert told == (1, 128, 192, 231, 244, 251, 254, 256)


def test_refused_requests_are_demand_as_well() -> None:
    e = estimator()
    e.estimate(0.0, EIGHT)
    e.record(sample(arrived_prompts=(100,), refused_requests=3), 0.1)
    load = e.estimate(1.0, EIGHT)
    assert (load.arrival_rps, load.classes["default"].shed_rps) == (approx(4.0), approx(3.0))


def test_each_field_is_as_old_as_what_it_rests_on() -> None:
    e = estimator()
    step = Step(Work(100, 0, 0, 0), 0.09, (800,) * 4, (16,) * 4)
    e.record(sample(replica="a", ttfts_s=(0.1,), arrived_prompts=(100,), steps=(step,)), 0.0)
    e.record(sample(replica="a"), 2.0)
    e.record(sample(replica="b", tpots_s=(0.1,)), 2.5)
    assert e.estimate(3.0, EIGHT).ages_s == {
        "queue": 1.0,  # of the replica that was silent for longest
        "arrivals": 3.0,
        "ttft": 3.0,
        "tpot": 0.5,
        "steps": 3.0,
    }
