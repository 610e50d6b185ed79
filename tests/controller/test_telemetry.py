"""Requests and steps of one replica in, a Sample per heartbeat out. Time is moved by hand."""

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from controller.config import DEFAULT_CLASS
from controller.signals import ClassSample, Device, Sample, Step, Work
from controller.telemetry import Queue, Telemetry
from tests.fakes import sample

NOTHING = {DEFAULT_CLASS: ClassSample()}
STEP = Step(Work(100, 0, 5050, 0), duration_s=0.09)


def telemetry() -> Telemetry:
    return Telemetry("a", standing_s=1.0)


def heartbeat(telemetry: Telemetry, now_s: float = 0.0) -> Sample:
    return telemetry.sample(1, Device(), now_s)


def told_of(telemetry: Telemetry, now_s: float = 0.0) -> ClassSample:
    """Of the only class."""
    (told,) = heartbeat(telemetry, now_s).classes.values()
    return told


def test_an_idle_replica_has_nothing_to_tell() -> None:
    assert heartbeat(telemetry()) == sample(replica="a", epoch=1)


def test_a_sample_carries_replica_epoch_and_device() -> None:
    told = Telemetry("b", standing_s=1.0).sample(7, Device(gpu_busy=0.5), 0.0)
    assert told == sample(replica="b", epoch=7, device=Device(gpu_busy=0.5))


def test_an_arrival_waits_with_its_whole_prompt() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 250, 20, now_s=1.0)
    t.arrived("y", DEFAULT_CLASS, 50, 10, now_s=1.5)
    assert heartbeat(t, 2.0) == sample(
        waiting_requests=2,
        waiting_tokens=300,
        oldest_wait_s=1.0,
        arrived_prompts=(250, 50),
        arrived_output_tokens=30,
    )


def test_waiting_tokens_shrink_as_chunks_are_prefilled() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 250, 20, now_s=0.0)
    t.arrived("y", DEFAULT_CLASS, 50, 20, now_s=0.0)
    waiting = []
    for prefilled in ({"x": 100}, {"x": 100}, {"x": 50, "y": 50}):
        t.stepped(STEP, prefilled)
        waiting.append(told_of(t).waiting_tokens)
    assert waiting == [200, 100, 0]


def test_a_prompt_prefilled_twice_leaves_no_debt() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 20, now_s=0.0)
    t.arrived("y", DEFAULT_CLASS, 70, 20, now_s=0.0)
    t.stepped(STEP, {"x": 50})
    t.stepped(STEP, {"x": 50})
    assert told_of(t).waiting_tokens == 70


def test_the_first_token_turns_waiting_into_running_and_gives_the_ttft() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 20, now_s=1.0)
    t.produced("x", 0, now_s=1.2)
    assert told_of(t, 1.2).waiting_requests == 1
    t.produced("x", 1, now_s=1.5)
    told = told_of(t, 2.0)
    assert (told.waiting_requests, told.waiting_tokens, told.running_requests) == (0, 0, 1)
    assert (told.ttfts_s, told.oldest_wait_s) == ((0.5,), 0.0)


def test_the_tpot_is_the_mean_gap_after_the_first_token() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 20, now_s=0.0)
    t.produced("x", 1, now_s=1.0)
    t.produced("x", 3, now_s=1.3)
    t.produced("x", 1, now_s=1.8)
    t.ended("x", now_s=1.8)
    told = told_of(t)
    assert told.ttfts_s == (1.0,)
    assert told.tpots_s == approx((0.2,))
    assert told.running_requests == 0


def test_a_single_token_has_no_tpot() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 1, now_s=0.0)
    t.produced("x", 1, now_s=1.0)
    t.ended("x", now_s=1.5)
    assert told_of(t).tpots_s == ()


def test_a_request_cancelled_while_waiting_leaves_nothing_behind() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 20, now_s=0.0)
    heartbeat(t)
    t.ended("x", now_s=1.0)
    assert heartbeat(t, 2.0) == sample(classes=NOTHING)


def test_what_the_engine_still_says_of_a_cancelled_request_is_ignored() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 20, now_s=0.0)
    heartbeat(t)
    t.ended("x", now_s=1.0)
    t.stepped(STEP, {"x": 50})
    t.produced("x", 1, now_s=1.1)
    t.ended("x", now_s=1.2)
    assert heartbeat(t, 2.0) == sample(steps=(STEP,), classes=NOTHING)


def test_deltas_start_over_with_every_sample_and_the_queue_stands() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 20, now_s=0.0)
    t.produced("x", 1, now_s=0.1)
    t.arrived("y", DEFAULT_CLASS, 70, 20, now_s=0.2)
    t.stepped(STEP, {"x": 50})
    assert heartbeat(t, 0.5).steps == (STEP,)
    standing = sample(waiting_requests=1, waiting_tokens=70, running_requests=1, oldest_wait_s=0.8)
    assert heartbeat(t, 1.0) == standing


def test_each_class_has_its_own_queue_and_counts() -> None:
    t = telemetry()
    t.arrived("x", "gold", 50, 20, now_s=0.0)
    t.arrived("y", "batch", 70, 30, now_s=0.5)
    t.produced("x", 1, now_s=0.2)
    t.refused("batch")
    told = heartbeat(t, 1.0).classes
    assert told["gold"] == ClassSample(
        running_requests=1,
        arrived_prompts=(50,),
        arrived_output_tokens=20,
        ttfts_s=(0.2,),
    )
    assert told["batch"] == ClassSample(
        waiting_requests=1,
        waiting_tokens=70,
        oldest_wait_s=0.5,
        arrived_prompts=(70,),
        arrived_output_tokens=30,
        refused_requests=1,
    )


def test_steps_are_told_once_in_the_order_in_which_they_ran() -> None:
    t = telemetry()
    one, other = (Step(Work(0, 1, 0, keys), duration_s=0.01) for keys in (7, 8))
    t.stepped(STEP, {})
    t.decoded([one, other])
    assert heartbeat(t).steps == (STEP, one, other)
    assert heartbeat(t).steps == ()


def test_a_shed_request_has_left_the_queue_at_once_and_counts_once() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 20, now_s=0.0)
    told_of(t)
    t.shed("x")
    t.shed("x")
    t.ended("x", now_s=1.0)
    assert t.queues(1.0)[DEFAULT_CLASS] == Queue()
    assert told_of(t, 1.0) == ClassSample(shed_requests=1)


def test_queues_show_who_waits_in_order_and_who_has_begun() -> None:
    t = telemetry()
    for name in "xyz":
        t.arrived(name, DEFAULT_CLASS, 50, 20, now_s=0.0)
    t.stepped(STEP, {"x": 50, "y": 20})
    t.produced("x", 1, now_s=0.1)
    queue = t.queues(0.1)[DEFAULT_CLASS]
    assert [(flight.request_id, flight.started) for flight in queue.waiting] == [
        ("y", True),
        ("z", False),
    ]
    assert (queue.waiting_tokens, queue.running) == (80, 1)


def test_a_queue_stands_if_its_oldest_wait_was_long_at_every_look() -> None:
    t = telemetry()
    t.arrived("x", DEFAULT_CLASS, 50, 20, now_s=0.0)
    for look in (0.5, 1.0, 1.5):
        t.watch(look)
    assert t.queues(1.5)[DEFAULT_CLASS].standing_wait_s == 0.5
    assert told_of(t, 2.0).standing_wait_s == 1.0  # of the last second
    t.ended("x", now_s=2.0)
    t.watch(2.1)
    assert t.queues(2.1)[DEFAULT_CLASS].standing_wait_s == 0.0


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
    t, alive, now_s = telemetry(), set(), 0.0
    for event, request_id, number in [*events, ("sample", "", 0)]:
        now_s += 0.1
        match event:
            case "arrived" if request_id not in alive:  # the replica names each anew
                t.arrived(request_id, DEFAULT_CLASS, number, number, now_s)
                alive.add(request_id)
            case "stepped":
                t.stepped(STEP, {request_id: number})
            case "produced":
                t.produced(request_id, number, now_s)
            case "ended":
                t.ended(request_id, now_s)
                alive.discard(request_id)
            case "sample":
                told = heartbeat(t, now_s).classes.get(DEFAULT_CLASS, ClassSample())
                assert told.waiting_requests >= 0 and told.running_requests >= 0
                assert told.waiting_requests + told.running_requests == len(alive)
                assert told.waiting_tokens >= 0 and told.oldest_wait_s >= 0
                assert told.arrived_requests >= 0 and told.arrived_tokens >= 0
                assert min((*told.ttfts_s, *told.tpots_s), default=0.0) >= 0
    for request_id in alive:
        t.ended(request_id, now_s)
    heartbeat(t, now_s)
    assert heartbeat(t, now_s).classes.get(DEFAULT_CLASS, ClassSample()) == ClassSample()
