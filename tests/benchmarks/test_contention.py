"""What two requests at once say of each other's steps, beside one alone."""

from dataclasses import replace

import pytest

from benchmarks.contention import APART_S, PAIR_S, ROUND_S, ROUNDS, contention_of, schedule
from simulations.results import Record
from tests.benchmarks.fake_stage import answer


def records(alone_s: float, both_s: float) -> list[Record]:
    """Every answer at the pace of its kind."""
    return [
        replace(answer(index, request), tpot_s=both_s if index % 3 else alone_s)
        for index, request in enumerate(schedule())
    ]


def test_one_request_is_sent_and_then_two_round_after_round() -> None:
    arrivals_s = [request.arrival_s for request in schedule()]
    assert len(arrivals_s) == 3 * ROUNDS
    assert arrivals_s[:4] == [0.0, PAIR_S, PAIR_S + APART_S, ROUND_S]
    assert arrivals_s == sorted(arrivals_s)


def test_steps_of_two_that_take_longer_are_contention() -> None:
    assert contention_of(records(0.010, 0.014)) == pytest.approx(0.4)


def test_a_machine_on_which_two_are_faster_than_one_has_none() -> None:
    assert contention_of(records(0.010, 0.009)) == 0


def test_one_slow_answer_does_not_count() -> None:
    first, *others = records(0.010, 0.012)
    assert contention_of([replace(first, tpot_s=1.0), *others]) == pytest.approx(0.2)


def test_without_an_answer_of_either_kind_nothing_is_said() -> None:
    with pytest.raises(ValueError, match="no request alone, or none of a pair, was answered"):
        contention_of(records(0.010, 0.010)[::3])
