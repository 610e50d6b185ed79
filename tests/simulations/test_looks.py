"""Looks are 50 ms apart, and none is taken while nobody waits."""

from pytest import approx

from simulations.events import Events, Order
from simulations.looks import Looks


def looked(*waiting: bool, begin_at_s: float) -> tuple[list[float], list[float]]:
    """When it looked, where those were who waited at each look, and which looks it left out."""
    events, looks_s, left_out_s, waits = Events(), list[float](), list[float](), iter(waiting)

    def look() -> bool:
        looks_s.append(events.now_s)
        return next(waits)

    events.at(begin_at_s, Order.ARRIVAL, Looks(events, look, left_out_s.append).begin)
    events.run()
    return looks_s, left_out_s


def test_it_looks_until_nobody_waits() -> None:
    looks_s, _ = looked(True, True, False, begin_at_s=0.01)
    assert looks_s == approx([0.05, 0.10, 0.15])


def test_the_last_look_that_was_left_out_is_told() -> None:
    looks_s, left_out_s = looked(False, begin_at_s=7.12)
    assert left_out_s == approx([7.10])
    assert looks_s == approx([7.15])


def test_who_comes_while_it_looks_changes_nothing() -> None:
    events, looks_s = Events(), list[float]()

    def look() -> bool:
        looks_s.append(events.now_s)
        return len(looks_s) < 3

    looks = Looks(events, look, lambda _: None)
    for at_s in (0.01, 0.02, 0.07):
        events.at(at_s, Order.ARRIVAL, looks.begin)
    events.run()
    assert looks_s == approx([0.05, 0.10, 0.15])
