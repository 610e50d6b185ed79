"""Requests and steps of one replica in, a Sample per heartbeat out. Time is moved by hand."""

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from controller.signals import Device, Sample, Step, Work
from controller.telemetry import Telemetry
from tests.fakes import sample

STEP = Step(Work(100, 0, 5050, 0), duration_s=0.09)


def heartbeat(telemetry: Telemetry, now_s: float = 0.0) -> Sample:
    return telemetry.sample(1, Device(), now_s)


def test_an_idle_replica_has_nothing_to_tell() -> None:
    assert heartbeat(Telemetry("a")) == sample(replica="a", epoch=1)


def test_a_sample_carries_replica_epoch_and_device() -> None:
    told = Telemetry("b").sample(7, Device(gpu_busy=0.5), 0.0)
    assert told == sample(replica="b", epoch=7, device=Device(gpu_busy=0.5))


def test_an_arrival_waits_with_its_whole_prompt() -> None:
    t = Telemetry("a")
    t.arrived("x", 250, 20, now_s=1.0)
    t.arrived("y", 50, 10, now_s=1.5)
    assert heartbeat(t, 2.0) == sample(
        waiting_requests=2,
        waiting_tokens=300,
        oldest_wait_s=1.0,
        arrived_requests=2,
        arrived_tokens=300,
        arrived_output_tokens=30,
    )


def test_waiting_tokens_shrink_as_chunks_are_prefilled() -> None:
    t = Telemetry("a")
    t.arrived("x", 250, 20, now_s=0.0)
    t.arrived("y", 50, 20, now_s=0.0)
    waiting = []
    for prefilled in ({"x": 100}, {"x": 100}, {"x": 50, "y": 50}):
        t.stepped(STEP, prefilled)
        waiting.append(heartbeat(t).waiting_tokens)
    assert waiting == [200, 100, 0]


def test_a_prompt_prefilled_twice_leaves_no_debt() -> None:
    t = Telemetry("a")
    t.arrived("x", 50, 20, now_s=0.0)
    t.arrived("y", 70, 20, now_s=0.0)
    t.stepped(STEP, {"x": 50})
    t.stepped(STEP, {"x": 50})
    assert heartbeat(t).waiting_tokens == 70


def test_the_first_token_turns_waiting_into_running_and_gives_the_ttft() -> None:
    t = Telemetry("a")
    t.arrived("x", 50, 20, now_s=1.0)
    t.produced("x", 0, now_s=1.2)
    assert heartbeat(t, 1.2).waiting_requests == 1
    t.produced("x", 1, now_s=1.5)
    told = heartbeat(t, 2.0)
    assert (told.waiting_requests, told.waiting_tokens, told.running_requests) == (0, 0, 1)
    assert (told.ttfts_s, told.oldest_wait_s) == ((0.5,), 0.0)


def test_the_tpot_is_the_mean_gap_after_the_first_token() -> None:
    t = Telemetry("a")
    t.arrived("x", 50, 20, now_s=0.0)
    t.produced("x", 1, now_s=1.0)
    t.produced("x", 3, now_s=1.3)
    t.produced("x", 1, now_s=1.8)
    t.ended("x", now_s=1.8)
    told = heartbeat(t)
    assert told.ttfts_s == (1.0,)
    assert told.tpots_s == approx((0.2,))
    assert told.running_requests == 0


def test_a_single_token_has_no_tpot() -> None:
    t = Telemetry("a")
    t.arrived("x", 50, 1, now_s=0.0)
    t.produced("x", 1, now_s=1.0)
    t.ended("x", now_s=1.5)
    assert heartbeat(t).tpots_s == ()


def test_a_request_cancelled_while_waiting_leaves_nothing_behind() -> None:
    t = Telemetry("a")
    t.arrived("x", 50, 20, now_s=0.0)
    heartbeat(t)
    t.ended("x", now_s=1.0)
    assert heartbeat(t, 2.0) == sample()


def test_what_the_engine_still_says_of_a_cancelled_request_is_ignored() -> None:
    t = Telemetry("a")
    t.arrived("x", 50, 20, now_s=0.0)
    heartbeat(t)
    t.ended("x", now_s=1.0)
    t.stepped(STEP, {"x": 50})
    t.produced("x", 1, now_s=1.1)
    t.ended("x", now_s=1.2)
    assert heartbeat(t, 2.0) == sample(steps=(STEP,))


def test_deltas_start_over_with_every_sample_and_the_queue_stands() -> None:
    t = Telemetry("a")
    t.arrived("x", 50, 20, now_s=0.0)
    t.produced("x", 1, now_s=0.1)
    t.arrived("y", 70, 20, now_s=0.2)
    t.stepped(STEP, {"x": 50})
    assert heartbeat(t, 0.5).steps == (STEP,)
    standing = sample(waiting_requests=1, waiting_tokens=70, running_requests=1, oldest_wait_s=0.8)
    assert heartbeat(t, 1.0) == standing


request_ids = st.sampled_from("wxyz")
numbers = st.integers(0, 100)
events = st.one_of(
    st.tuples(st.just("arrived"), request_ids, numbers),
    st.tuples(st.just("stepped"), request_ids, numbers),
    st.tuples(st.just("produced"), request_ids, numbers),
    st.tuples(st.just("ended"), request_ids, numbers),
    st.tuples(st.just("sample"), request_ids, numbers),
)


@settings(deadline=None)
@given(st.lists(events, max_size=60))
def test_whatever_happens_counts_are_never_negative_and_the_end_is_idle(
    events: list[tuple[str, str, int]],
) -> None:
    t, alive, now_s = Telemetry("a"), set(), 0.0
    for event, request_id, number in [*events, ("sample", "", 0)]:
        now_s += 0.1
        match event:
            case "arrived":
                t.arrived(request_id, number, number, now_s)
                alive.add(request_id)
            case "stepped":
                t.stepped(STEP, {request_id: number})
            case "produced":
                t.produced(request_id, number, now_s)
            case "ended":
                t.ended(request_id, now_s)
                alive.discard(request_id)
            case "sample":
                told = heartbeat(t, now_s)
                assert told.waiting_requests >= 0 and told.running_requests >= 0
                assert told.waiting_requests + told.running_requests == len(alive)
                assert told.waiting_tokens >= 0 and told.oldest_wait_s >= 0
                assert told.arrived_requests >= 0 and told.arrived_tokens >= 0
                assert min((*told.ttfts_s, *told.tpots_s), default=0.0) >= 0
    for request_id in alive:
        t.ended(request_id, now_s)
    heartbeat(t, now_s)
    assert heartbeat(t, now_s) == sample()
