"""How many replicas are asked for. In these numbers a request takes 0.18 s of an engine at full k'
and 0.04 s at k' 1; planned to 90 %, ten a second need 2 replicas at full k' and 0.44 at the floor.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config import SloPolicy
from controller.scaling import Demand, Scaling
from controller.signals import Correction, Load
from tests.fakes import load, profile, slo_policy

SETTINGS = {"utilisation": 0.9, "up_at": 0.5, "up_after_s": 10.0, "down_after_s": 60.0}


def policy(**changes: object) -> SloPolicy:
    return slo_policy(**({"replicas": SETTINGS} | changes))


def scaling(asked: int | None = None, **changes: object) -> Scaling:
    return Scaling(profile(), policy(**changes), asked)


def busy(rps: float, **changes: object) -> Load:
    return load(arrival_rps=rps, arrival_rps_sustained=rps, **changes)


def through(scaling: Scaling, each: Load, seconds: range) -> list[int | None]:
    """What is wished second after second under one load."""
    return [scaling.decide(replace(each, at_s=float(at_s))).replicas for at_s in seconds]


def test_demand_is_reckoned_at_full_k_and_at_the_floor() -> None:
    reason = scaling().decide(busy(10.0)).reason
    assert "full k' needs 2.00 replicas, the floor 0.44: 1 take k' 64% of the way down" in reason


def test_lowering_k_does_not_hide_the_overload() -> None:
    high, low = (scaling().decide(busy(10.0, mean_k=mean_k)) for mean_k in (8.0, 1.0))
    assert high == low


def test_asks_for_what_full_k_needs_once_the_floor_has_been_near_for_long_enough() -> None:
    assert through(scaling(), busy(10.0), range(12)) == [None] * 10 + [2, 2]
    assert through(scaling(), busy(19.0), range(11))[-1] == 4


def test_holds_while_k_has_far_to_go_to_the_floor() -> None:
    assert set(through(scaling(), busy(8.0), range(100))) == {None}  # 1.6 at full: 48 % of the way


def test_a_burst_shorter_than_that_asks_for_nothing() -> None:
    each = scaling()
    for start_s in (0, 20, 40):
        assert set(through(each, busy(30.0), range(start_s, start_s + 9))) == {None}
        assert set(through(each, busy(1.0), range(start_s + 9, start_s + 20))) == {None}


def test_a_break_costs_the_time_it_lasts_and_no_more() -> None:
    each = scaling()
    through(each, busy(10.0), range(9))
    through(each, busy(1.0), range(9, 11))
    assert through(each, busy(10.0), range(11, 15)) == [None, None, None, 2]


def test_asks_for_the_least_that_was_needed_all_the_while() -> None:
    each = scaling()
    through(each, busy(30.0), range(5))
    through(each, busy(9.0), range(5, 8))
    assert through(each, busy(30.0), range(8, 12))[-1] == 2


def test_no_more_are_asked_for_while_one_starts() -> None:
    each = scaling(asked=2)
    assert set(through(each, busy(40.0, replicas=1), range(100))) == {2}
    assert "1 of 2 asked for are there" in each.decide(busy(40.0, at_s=100.0)).reason
    assert through(each, busy(40.0, replicas=2), range(101, 112))[-1] == 8


def test_asks_for_fewer_once_full_k_would_have_held_with_them_for_long_enough() -> None:
    idle = busy(4.0, replicas=2)  # 0.8 at full
    assert through(scaling(asked=2), idle, range(62)) == [2] * 60 + [1, 1]


def test_one_fewer_has_to_leave_a_tenth_free() -> None:
    assert set(through(scaling(asked=2), busy(4.6, replicas=2), range(200))) == {2}  # 0.92


def test_asks_for_as_few_as_would_have_done_all_the_while() -> None:
    each = scaling(asked=6)
    through(each, busy(4.0, replicas=6), range(30))
    through(each, busy(12.0, replicas=6), range(30, 40))  # 2.4
    assert through(each, busy(4.0, replicas=6), range(40, 61))[-1] == 3


def test_what_was_asked_for_in_vain_is_taken_back_all_the_same() -> None:
    assert through(scaling(asked=6), busy(4.0, replicas=2), range(61))[-1] == 1


def test_a_replica_that_drains_is_no_longer_counted_on() -> None:
    each = scaling(asked=1)
    assert through(each, busy(10.0, replicas=2), range(11))[-1] == 2


def test_never_asks_for_none() -> None:
    assert set(through(scaling(asked=1), load(), range(200))) == {1}


def test_before_any_reason_to_move_there_is_no_wish() -> None:
    assert set(through(scaling(), busy(4.0), range(200))) == {None}


UNKNOWN = [
    {"replicas": 0, "arrival_rps_sustained": None},
    {"arrival_rps_sustained": None},
    {"prompt_tokens": None},
    {"output_tokens": None},
    {"stale_replicas": 1},
]


@pytest.mark.parametrize("missing", UNKNOWN)
def test_missing_data_holds_and_begins_the_time_anew(missing: dict[str, object]) -> None:
    each = scaling(asked=2)
    blind = replace(busy(40.0, replicas=2), **missing)
    through(each, busy(40.0, replicas=2), range(9))
    assert set(through(each, blind, range(9, 200))) == {2}
    assert through(each, busy(40.0, replicas=2), range(200, 211)) == [2] * 10 + [8]


def test_the_reason_of_a_hold_says_what_is_missing() -> None:
    assert scaling().decide(load(arrival_rps_sustained=None)).reason == "load unknown: hold"
    assert scaling().decide(busy(1.0, stale_replicas=2)).reason == "hold: 2 stale replicas"


def test_the_reason_says_for_how_long_already() -> None:
    each = scaling()
    each.decide(busy(10.0))
    assert each.decide(busy(10.0, at_s=4.0)).reason.startswith("short for 4 of 10 s; ")
    assert scaling().decide(busy(1.0)).reason.startswith("enough; ")


def test_nothing_known_of_requests_that_never_came_is_no_demand() -> None:
    nothing = load(prompt_tokens=None, output_tokens=None, replicas=2)
    assert through(scaling(), nothing, range(61))[-1] == 1


def test_requests_that_wait_count_as_if_to_be_worked_off_in_the_time_to_ask() -> None:
    reason = scaling().decide(busy(5.0, waiting_requests=50)).reason  # 5 + 50 / 10 a second
    assert "full k' needs 2.00 replicas" in reason


def test_the_step_times_are_the_corrected_ones() -> None:
    slower = Correction(base=2.0, experts=2.0, rest=2.0)
    assert "full k' needs 2.00 replicas" in scaling().decide(busy(5.0, correction=slower)).reason


def test_a_model_that_is_off_has_to_leave_more_free_before_one_is_given_up() -> None:
    off = busy(4.0, replicas=2, step_time_error=0.3)  # 0.8, maybe 1.04
    assert set(through(scaling(asked=2), off, range(200))) == {2}
    assert through(scaling(asked=2), busy(3.0, replicas=2, step_time_error=0.3), range(61))[-1] == 1
    assert through(scaling(), busy(10.0, step_time_error=0.3), range(11))[-1] == 2


def test_where_k_is_constant_there_is_no_way_to_the_floor() -> None:
    fixed = scaling(policy={"name": "fixed", "k": 8})
    assert "needs 1.20 replicas, the floor 1.20" in fixed.decide(busy(6.0)).reason
    assert through(fixed, busy(6.0), range(1, 11))[-1] == 2


def test_a_dry_run_wishes_as_if_it_acted() -> None:
    wished = scaling(mode="dry-run").decide(busy(10.0))
    assert wished == scaling().decide(busy(10.0))


def test_a_stricter_floor_is_nearer() -> None:
    strict = scaling(experts={"floor": 4, "ceiling": 8})
    assert through(strict, busy(8.0), range(11))[-1] == 2  # 0.89 at k' 4: 84 % of the way


def test_with_up_at_zero_more_are_asked_for_as_soon_as_full_k_does_not_hold() -> None:
    eager = scaling(replicas=SETTINGS | {"up_at": 0.0})
    assert set(through(eager, busy(5.0), range(50))) == {None}  # 1.0
    assert through(eager, busy(5.1), range(50, 61))[-1] == 2


def test_how_far_k_has_to_go() -> None:
    demand = Demand(full=3.0, floor=1.0)
    assert [demand.spent(replicas) for replicas in (4, 3, 2, 1)] == [0.0, 0.0, 0.5, 1.0]
    assert Demand(full=3.0, floor=2.0).spent(1) == 2.0
    assert Demand(full=2.0, floor=2.0).spent(1) == 1.0


rates = st.floats(0.0, 100.0)
constant = st.builds(
    busy,
    rates,
    replicas=st.integers(1, 8),
    waiting_requests=st.integers(0, 100),
    mean_k=st.floats(1.0, 8.0),
)


def served(scaling: Scaling, each: Load, seconds: range, late_s: int) -> Iterator[int | None]:
    """As `through`, with a Serve that does what is wished `late_s` later."""
    wished: list[int | None] = []
    for at_s in seconds:
        there = wished[-late_s] if len(wished) >= late_s else None
        now = replace(each, at_s=float(at_s), replicas=there or each.replicas)
        wished.append(scaling.decide(now).replicas)
        yield wished[-1]


def changes(wishes: Iterable[int | None]) -> list[int]:
    """Each number asked for, once in a row."""
    row = [wish for wish in wishes if wish is not None]
    return [each for n, each in enumerate(row) if n == 0 or each != row[n - 1]]


@given(constant, st.integers(1, 30))
def test_a_constant_load_is_answered_once(each: Load, late_s: int) -> None:
    assert len(changes(served(scaling(), each, range(300), late_s))) <= 1


@given(st.lists(constant, max_size=20))
def test_the_wish_is_never_below_one(loads: list[Load]) -> None:
    each = scaling(asked=3)
    for start_s, now in enumerate(loads):
        wishes = through(each, now, range(70 * start_s, 70 * start_s + 70))
        assert all(wish is not None and wish >= 1 for wish in wishes)


@given(st.lists(st.sampled_from(UNKNOWN), max_size=20), rates)
def test_no_data_no_change(missing: list[dict[str, object]], rps: float) -> None:
    each = scaling(asked=3)
    for start_s, gap in enumerate(missing):
        blind = replace(busy(rps, replicas=3, waiting_requests=1), **gap)
        assert set(through(each, blind, range(70 * start_s, 70 * start_s + 70))) == {3}
