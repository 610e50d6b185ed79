"""Who is taken, who is refused, who is let go, and when to try again.

A step of 100 prompt tokens takes 20, 30, 50 and 90 ms at k' 1, 2, 4 and 8: at the floor a replica
takes in 5000 tokens a second.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.admission import Admission, Refusal
from controller.config import SloPolicy
from controller.signals import Correction, Pace, Plan
from controller.telemetry import Flight, Queue
from tests.fakes import plan_at, profile, slo_policy

FLOOR, FULL = plan_at(profile(), 1, 1), plan_at(profile(), 8, 1)
RIGHT = Pace()


def policy(**changes: object) -> SloPolicy:
    """A default class with a second to its first token; gold before it, batch with five after."""
    classes = {
        "gold": {"ttft_s": 1.0, "tpot_s": 0.1, "priority": 1},
        "batch": {"ttft_s": 5.0, "tpot_s": 0.1, "priority": -1},
    }
    return slo_policy(**({"classes": classes} | changes))


def queue(
    *tokens: int, running: int = 0, standing_wait_s: float = 0.0, every_s: float = 0.1
) -> Queue:
    """One request of so many tokens each, come at 0, 0.1, 0.2 s ... and not yet begun."""
    waiting = [Flight(str(n), "any", every_s * n, each, each) for n, each in enumerate(tokens)]
    return Queue(waiting, sum(tokens), running, standing_wait_s)


def crowd(tokens: int, running: int = 0, standing_wait_s: float = 0.0) -> Queue:
    """As many tokens in prompts of 100, come at 0."""
    prompts = [100] * (tokens // 100)
    return queue(*prompts, running=running, standing_wait_s=standing_wait_s, every_s=0.0)


def arrival(
    slo_class: str = "default",
    tokens: int = 100,
    plan: Plan = FULL,
    pace: Pace = RIGHT,
    of: SloPolicy | None = None,
    **queues: Queue,
) -> Refusal | None:
    return Admission(of or policy(), profile()).on_arrival(
        slo_class, tokens, queues, plan, pace, now_s=0.0
    )


def shed(
    now_s: float,
    plan: Plan = FULL,
    pace: Pace = RIGHT,
    of: SloPolicy | None = None,
    **queues: Queue,
) -> list[str]:
    """`class:request` of those that are let go."""
    admission = Admission(of or policy(), profile())
    name_of = {id(f): f"{name}:{f.request_id}" for name, q in queues.items() for f in q.waiting}
    return [name_of[id(flight)] for flight, _ in admission.to_shed(queues, plan, pace, now_s)]


def test_an_empty_replica_takes_what_comes() -> None:
    assert arrival() is None


def test_the_wait_is_reckoned_at_the_floor_whatever_runs() -> None:
    assert arrival(tokens=100, default=crowd(4900)) is None  # 1 s at the floor, 4.5 s at full k'
    refusal = arrival(tokens=200, default=crowd(4900))
    assert refusal is not None
    assert refusal.reason == "its first token is 1.02 s away, class default allows 1.00 s"
    assert not refusal.queue_full


def test_a_constant_k_is_as_low_as_it_goes() -> None:
    fixed = policy(policy={"name": "fixed", "k": 8})
    assert arrival(of=fixed, tokens=100, default=crowd(1000)) is None  # 0.99 s at full k'
    assert arrival(of=fixed, tokens=200, default=crowd(1000)) is not None


def test_who_is_refused_shall_come_back_when_there_is_room_and_not_before_a_second() -> None:
    soon = arrival(tokens=200, default=crowd(4900))
    later = arrival(tokens=100, default=crowd(19900))
    assert soon is not None and soon.retry_after_s == 1.0
    assert later is not None and later.retry_after_s == pytest.approx(3.0)


def test_slower_steps_are_reckoned_with() -> None:
    slower = Pace(Correction(base=2.0, experts=2.0, rest=2.0))
    assert arrival(tokens=100, default=crowd(3000)) is None
    assert arrival(tokens=100, default=crowd(3000), pace=slower) is not None


def test_as_much_longer_as_the_model_was_off_of_late_has_to_fit_as_well() -> None:
    off = Pace(error=0.2)
    assert arrival(tokens=100, default=crowd(4000), pace=off) is None  # 0.98 s
    assert arrival(tokens=100, default=crowd(4200), pace=off) is not None  # 1.03 s, 0.86 s by it
    assert arrival("default", tokens=100, gold=crowd(4200), pace=off) is not None
    assert shed(0.0, FULL, default=crowd(4800)) == []
    assert shed(0.0, FULL, off, default=crowd(4100)) == []
    assert len(shed(0.0, FULL, off, default=crowd(4800))) == 7


def test_one_that_nobody_is_before_is_given_the_chance_that_the_model_is_right() -> None:
    off = Pace(error=0.5)
    assert arrival(tokens=4900, pace=off) is None  # 0.98 s
    assert shed(0.0, FULL, off, default=queue(4900)) == []
    assert shed(0.0, FULL, off, default=queue(4900, 100)) == ["default:0"]


def test_running_requests_take_room_of_a_step() -> None:
    assert arrival(tokens=100, default=crowd(2500)) is None
    assert arrival(tokens=100, default=crowd(2500, running=50)) is not None


def test_a_class_waits_for_its_own_and_higher_priorities_and_not_for_lower_ones() -> None:
    assert arrival("gold", default=crowd(20_000), batch=crowd(20_000)) is None
    assert arrival("default", gold=crowd(6000), batch=crowd(20_000)) is not None
    assert arrival("batch", gold=crowd(9000), default=crowd(9000)) is None
    assert arrival("batch", gold=crowd(13_000), default=crowd(13_000)) is not None


def test_a_full_queue_refuses_at_once_though_time_would_do() -> None:
    small = policy(admission={"max_waiting": 2})
    assert arrival(of=small, default=queue(10)) is None
    refusal = arrival(of=small, default=queue(10, 10))
    assert refusal is not None and refusal.queue_full
    assert refusal.reason == "2 requests of class default wait"
    assert arrival("gold", of=small, default=queue(10, 10)) is None  # each class has its own


def test_a_class_may_have_a_bound_of_its_own() -> None:
    batch = {"ttft_s": 5.0, "tpot_s": 0.1, "max_waiting": 1}
    bounded = policy(classes={"batch": batch})
    assert arrival("batch", of=bounded, batch=queue(10)) is not None
    assert arrival("default", of=bounded, default=queue(10)) is None


def test_a_class_that_may_be_late_is_refused_only_by_a_full_queue() -> None:
    late = policy(admission={"late": "serve", "max_waiting": 2})
    assert arrival(of=late, default=queue(50_000)) is None
    assert arrival(of=late, default=queue(50_000, 10)) is not None
    assert shed(60.0, of=late, default=queue(50_000)) == []


def test_of_a_queue_that_cannot_all_make_it_the_longest_goes() -> None:
    waits = queue(900, 3000, 1900)  # 0.18, 0.6 and 0.38 s at the floor
    assert shed(0.2, default=waits) == ["default:1"]  # the others take 0.56 s
    assert shed(0.45, default=waits) == ["default:1"]  # as the second has 0.65 s, and needs 0.78
    assert shed(0.75, default=waits) == ["default:1", "default:2"]  # the first has 0.25 s


def test_one_that_is_shorter_is_taken_for_one_that_is_longer() -> None:
    long = queue(4900)  # 0.98 s of the second
    assert arrival(tokens=100, default=long) is None
    assert arrival(tokens=4800, default=long) is None
    assert arrival(tokens=4900, default=long) is not None  # of equals who was there first
    shorter = {"default": queue(4900, 4800, every_s=0.0)}
    assert shed(0.0, **shorter) == ["default:0"]


def test_who_is_let_go_hears_why_and_when_to_come_again() -> None:
    admission = Admission(policy(), profile())
    standing = {"default": crowd(15_000)}
    (_, refusal), *_ = admission.to_shed(standing, FULL, RIGHT, now_s=0.5)
    assert refusal.reason == (
        "not all that wait can be in time, and its prompt is the longest of them, 100 tokens; "
        "class default allows 1.00 s"
    )
    assert refusal.retry_after_s == pytest.approx(2.0)  # 3 s of work, and one is allowed


def test_who_waited_for_the_whole_objective_is_let_go_also_while_prefilled() -> None:
    begun = Queue([Flight("0", "default", 0.0, 500, 1)], 1)
    assert shed(0.9, default=begun) == []
    assert shed(1.01, default=begun) == ["default:0"]


def test_the_lowest_priority_is_let_go_first_and_within_it_the_oldest() -> None:
    gone = shed(9.0, gold=queue(10, 10), default=queue(10), batch=queue(10))
    assert gone == ["batch:0", "default:0", "gold:0", "gold:1"]


MARGIN = policy(slo={"ttft_s": 1.0, "tpot_s": 0.1, "margin": 0.8})


def test_a_standing_queue_at_the_floor_takes_only_what_is_served_within_the_margin() -> None:
    standing, burst = crowd(4000, standing_wait_s=0.41), crowd(4000, standing_wait_s=0.39)
    assert arrival(of=MARGIN, plan=FLOOR, tokens=100, default=burst) is None
    refusal = arrival(of=MARGIN, plan=FLOOR, tokens=100, default=standing)
    assert refusal is not None
    assert refusal.reason == "its first token is 0.82 s away, class default allows 0.80 s"


def test_a_queue_that_has_just_come_is_no_reason_to_refuse_while_fewer_experts_would_help() -> None:
    burst = crowd(4000, standing_wait_s=0.19)
    assert arrival(of=MARGIN, plan=FULL, tokens=100, default=burst) is None


def test_a_queue_that_k_has_had_the_time_to_follow_is_taken_to_last_at_the_k_that_runs() -> None:
    """4100 tokens at k' 8: who is taken beyond what it can do is late, or makes others late."""
    lasting = crowd(4000, standing_wait_s=0.21)
    refusal = arrival(of=MARGIN, plan=FULL, tokens=100, default=lasting)
    assert refusal is not None
    assert refusal.reason == "its first token is 3.69 s away, class default allows 1.00 s"
    assert arrival(of=MARGIN, plan=FLOOR, tokens=100, default=lasting) is None
    flights = [Flight("0", "default", 0.0, 1500, 1500)]
    assert shed(0.1, plan=FULL, of=MARGIN, default=Queue(flights, 1500)) == []
    standing = Queue(flights, 1500, standing_wait_s=0.21)
    assert shed(0.1, plan=FULL, of=MARGIN, default=standing) == ["default:0"]
    assert shed(0.1, plan=FLOOR, of=MARGIN, default=standing) == []


def test_a_standing_queue_lets_go_of_who_waited_beyond_the_margin_and_has_not_begun() -> None:
    """The model says that all is well, and it is not: it must not be needed."""
    flights = [Flight("begun", "d", 0.0, 20, 10), Flight("fresh", "d", 0.1, 20, 20)]
    standing = Queue(flights, 30, standing_wait_s=0.5)
    assert shed(0.85, plan=FLOOR, of=MARGIN, default=standing) == []
    assert shed(0.91, plan=FLOOR, of=MARGIN, default=standing) == ["default:fresh"]
    assert shed(0.91, plan=FULL, of=MARGIN, default=standing) == []


def test_a_class_that_the_policy_knows_no_more_keeps_its_requests() -> None:
    assert shed(99.0, gone=queue(10)) == []
    assert arrival("default", gone=queue(6000)) is not None  # they are before it all the same


tokens = st.lists(st.integers(1, 3000), max_size=8)
queues = st.fixed_dictionaries(dict.fromkeys(("gold", "default", "batch"), tokens))
classes = st.sampled_from(["gold", "default", "batch"])


@given(classes, st.integers(0, 3000), queues, classes, st.integers(1, 3000))
def test_more_in_the_queue_never_opens_the_door_unless_somebody_goes_for_it(
    slo_class: str, prompt: int, waiting: dict[str, list[int]], longer: str, more: int
) -> None:
    """Of its own class one may make a longer one go, and that was what stood in the way."""
    before = {name: queue(*each) for name, each in waiting.items()}
    after = before | {longer: queue(*waiting[longer], more)}
    if arrival(slo_class, prompt, **before) is not None:
        goes = any(each.startswith(f"{slo_class}:") for each in shed(0.0, **after))
        assert arrival(slo_class, prompt, **after) is not None or (longer == slo_class and goes)


@given(classes, st.integers(0, 3000), queues)
def test_a_refusal_says_why_and_when_and_a_longer_prompt_is_not_let_in_instead(
    slo_class: str, prompt: int, waiting: dict[str, list[int]]
) -> None:
    standing = {name: queue(*each) for name, each in waiting.items()}
    refusal = arrival(slo_class, prompt, **standing)
    if refusal is not None:
        assert refusal.reason and refusal.retry_after_s >= 1.0
        assert arrival(slo_class, prompt + 1, **standing) is not None


@given(queues, st.floats(0, 10))
def test_nobody_is_let_go_twice_and_none_who_is_in_time(
    waiting: dict[str, list[int]], now_s: float
) -> None:
    standing = {name: queue(*each) for name, each in waiting.items()}
    gone = shed(now_s, **standing)
    assert len(gone) == len(set(gone))
    served = {
        name: Queue([f for f in q.waiting if f"{name}:{f.request_id}" not in gone], 0)
        for name, q in standing.items()
    }
    left = {
        name: Queue(q.waiting, sum(f.tokens_to_prefill for f in q.waiting))
        for name, q in served.items()
    }
    assert shed(now_s, **left) == []
