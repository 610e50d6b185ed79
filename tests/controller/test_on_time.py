"""Who of a queue is let go: as few as can be, and nobody without need."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from controller.on_time import Turn, to_let_go

BEGINS_S = 0.25


def in_time(queue: list[Turn], begins_s: float = 0.0) -> bool:
    ends_s = begins_s
    for takes_s, left_s in queue:
        ends_s += takes_s
        if ends_s > left_s:
            return False
    return True


def without(queue: list[Turn], gone: set[int]) -> list[Turn]:
    return [turn for position, turn in enumerate(queue) if position not in gone]


def test_a_queue_that_is_in_time_keeps_all() -> None:
    assert to_let_go([]) == set()
    assert to_let_go([Turn(0.5, 0.5), Turn(0.5, 1.0)]) == set()


def test_the_longest_of_those_before_goes_and_not_the_one_that_would_be_late() -> None:
    assert to_let_go([Turn(0.5, 1.0), Turn(0.25, 1.0), Turn(0.5, 1.0)]) == {2}  # of equals the last
    assert to_let_go([Turn(0.75, 1.0), Turn(0.25, 1.0), Turn(0.5, 1.0)]) == {0}


def test_who_has_no_time_left_goes_though_nobody_is_before() -> None:
    assert to_let_go([Turn(0.1, 0.0), Turn(0.1, 1.0)]) == {0}
    assert to_let_go([Turn(0.1, 1.0)], begins_s=1.0) == {0}


# In eighths of a second, which add up without an error; due in the order of the queue.
eighths = st.integers(0, 16).map(lambda n: n / 8)
queues = st.lists(st.tuples(eighths, eighths), max_size=7).map(
    lambda pairs: [
        Turn(takes_s, left_s)
        for (takes_s, _), left_s in zip(pairs, sorted(left for _, left in pairs), strict=True)
    ]
)


@given(queues)
def test_all_that_stay_are_in_time_and_nothing_keeps_more(queue: list[Turn]) -> None:
    gone = to_let_go(queue, BEGINS_S)
    assert in_time(without(queue, gone), BEGINS_S)
    fewer = (set(each) for n in range(len(gone)) for each in combinations(range(len(queue)), n))
    assert not any(in_time(without(queue, each), BEGINS_S) for each in fewer)


@given(queues)
def test_letting_go_is_over_at_once(queue: list[Turn]) -> None:
    kept = without(queue, to_let_go(queue, BEGINS_S))
    assert to_let_go(kept, BEGINS_S) == set()
