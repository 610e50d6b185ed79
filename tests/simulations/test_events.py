"""What is due first goes first; virtual time never goes back."""

from functools import partial
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.events import Events, Order


def test_what_is_due_together_goes_by_its_order_then_first_come_first_served() -> None:
    events, done = Events(), list[str]()
    for time_s, order, name in [
        (2.0, Order.STEP, "later"),
        (1.0, Order.ARRIVAL, "arrival"),
        (1.0, Order.TICK, "first tick"),
        (1.0, Order.TICK, "second tick"),
        (1.0, Order.STEP, "step"),
    ]:
        events.at(time_s, order, partial(done.append, name))
    events.run()
    assert done == ["step", "first tick", "second tick", "arrival", "later"]
    assert events.now_s == 2.0


def test_it_stops_when_told() -> None:
    events, done = Events(), list[int]()
    events.at(1.0, Order.STEP, events.stop)
    events.at(2.0, Order.STEP, partial(done.append, 1))
    events.run()
    assert (events.now_s, done) == (1.0, [])


def test_nothing_can_be_due_in_the_past() -> None:
    events = Events()
    events.at(1.0, Order.STEP, lambda: events.at(0.5, Order.STEP, events.stop))
    with pytest.raises(AssertionError, match="never goes back"):
        events.run()


def test_time_is_skipped_only_where_nothing_else_is_due() -> None:
    events = Events()
    events.at(1.0, Order.STEP, events.stop)
    assert not events.skip_to(1.0)
    assert events.skip_to(0.9)
    assert events.now_s == 0.9


def test_the_end_of_a_step_is_no_news() -> None:
    events = Events()
    assert events.news_s == inf
    events.at(1.0, Order.STEP, events.stop)
    events.at(2.0, Order.TICK, events.stop)
    assert events.news_s == 2.0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=30))
def test_time_never_goes_back(delays: list[tuple[float, float]]) -> None:
    events, seen_s = Events(), list[float]()

    def see() -> None:
        seen_s.append(events.now_s)

    def begin(delay_s: float) -> None:
        see()
        events.after(delay_s, Order.STEP, see)

    for first_s, delay_s in delays:
        events.at(first_s, Order.TICK, partial(begin, delay_s))
    events.run()
    assert seen_s == sorted(seen_s)
    assert len(seen_s) == 2 * len(delays)
