"""The fluid oracle on cases solved by hand, and against every constant in the same fluid."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.oracle import (
    Fluid,
    Objective,
    best_static,
    binned,
    oracle,
    regret,
    solve,
    static,
)

BOTH = pytest.mark.parametrize("objective", list(Objective))


def fluid(
    *arrivals: float,
    deadline_s: float = 0.0,
    rates: tuple[float, ...] = (4.0, 2.0),
    qualities: tuple[float, ...] = (0.8, 1.0),
) -> Fluid:
    """Windows of a second; a cheap rung twice as fast as the full one."""
    return Fluid(np.array(arrivals, float), 1.0, deadline_s, np.array(rates), np.array(qualities))


@BOTH
def test_what_full_quality_can_carry_is_served_in_full(objective: Objective) -> None:
    best = oracle(fluid(2, 1, 0, 2), objective)
    assert (best.attainment, best.served_quality) == pytest.approx((1, 1))


@BOTH
def test_between_two_rungs_time_is_shared(objective: Objective) -> None:
    # 3 a window: x at the full rung and 3 - x at the cheap one, x / 2 + (3 - x) / 4 = 1: x = 1.
    schedule = solve(fluid(3, 3), objective)
    assert schedule.served_TC[:2] == pytest.approx(np.array([[2, 1], [2, 1]]))
    assert oracle(fluid(3, 3), objective).served_quality == pytest.approx((2 * 0.8 + 1) / 3)


@BOTH
def test_beyond_the_cheapest_rung_the_excess_is_dropped(objective: Objective) -> None:
    best = oracle(fluid(8, 0), objective)
    assert best.attainment == pytest.approx(0.5)
    assert best.served_quality == pytest.approx(0.8)
    assert best.effective_quality == pytest.approx(0.4)
    assert solve(fluid(8, 0), objective).dropped_T.sum() == pytest.approx(4)


@BOTH
def test_work_may_wait_until_its_deadline_and_no_longer(objective: Objective) -> None:
    # With two windows to wait, 6 are served in three windows at full quality.
    assert oracle(fluid(6, deadline_s=2), objective).effective_quality == pytest.approx(1)
    # With one, two windows of the mix that serves 3.
    waiting = oracle(fluid(6, deadline_s=1), objective)
    assert waiting.attainment == pytest.approx(1)
    assert waiting.served_quality == pytest.approx((2 * 0.8 + 1) / 3)


def test_the_last_arrivals_may_drain_after_the_end() -> None:
    schedule = solve(fluid(0, 6, deadline_s=2), Objective.QUALITY)
    assert len(schedule.served_TC) == 5  # two windows and three to drain
    assert schedule.served_TC.sum(axis=1) == pytest.approx([0, 2, 2, 2, 0])


def test_work_that_is_served_arrived_before() -> None:
    # Clairvoyant, but nothing can be served ahead: the first window stays empty.
    assert oracle(fluid(0, 8), Objective.ATTAINMENT).attainment == pytest.approx(0.5)


def test_for_quality_alone_work_of_little_worth_is_dropped() -> None:
    # A rung twice as fast at a tenth of the quality: serving all 3 a window takes half the time for
    # 2 at 0.1, which leaves 1 at 1.0; dropping one serves 2 at 1.0.
    poor = fluid(3, qualities=(0.1, 1.0))
    all_served, best = oracle(poor, Objective.ATTAINMENT), oracle(poor, Objective.QUALITY)
    assert (all_served.attainment, all_served.effective_quality) == pytest.approx((1, 0.4))
    assert (best.attainment, best.effective_quality) == pytest.approx((2 / 3, 2 / 3))


@BOTH
def test_the_unit_of_work_does_not_matter(objective: Objective) -> None:
    requests = fluid(3, 9, 1, deadline_s=2)
    tokens = replace(requests, arrivals_T=requests.arrivals_T * 1e6, rates_C=requests.rates_C * 1e6)
    assert vars_of(tokens, objective) == pytest.approx(vars_of(requests, objective), abs=1e-6)


def vars_of(each: Fluid, objective: Objective) -> tuple[float, float, float]:
    best = oracle(each, objective)
    return best.attainment, best.served_quality, best.effective_quality


def test_a_constant_serves_in_order_and_misses_what_is_late() -> None:
    # At 2 a window of 4 arrivals: 2 on time, 2 a window late; then 2 wait behind them.
    at_once = static(fluid(4, 2), rung=1)
    assert at_once.attainment == pytest.approx(2 / 6)
    assert at_once.served_quality == 1
    assert at_once.effective_quality == pytest.approx(2 / 6)
    assert static(fluid(4, 2, deadline_s=1), rung=1).attainment == pytest.approx(1)
    assert static(fluid(4, 2), rung=0).effective_quality == pytest.approx(0.8)


def test_an_idle_constant_saves_nothing_up() -> None:
    assert static(fluid(0, 0, 0, 4), rung=1).attainment == pytest.approx(0.5)


def test_the_best_constant_is_that_of_the_highest_effective_quality() -> None:
    assert best_static(fluid(4, 4)) == 0
    assert best_static(fluid(2, 2)) == 1
    assert best_static(fluid(1, 1, qualities=(1.0, 1.0))) in (0, 1)


ARRIVALS = st.lists(st.floats(0, 50), min_size=1, max_size=12).filter(lambda each: sum(each) > 0.1)
RUNGS = st.lists(st.tuples(st.floats(0.5, 20), st.floats(0.05, 1)), min_size=1, max_size=5)


@settings(deadline=None)
@given(ARRIVALS, RUNGS, st.floats(0, 5))
def test_no_constant_is_above_the_oracle(
    arrivals: list[float], rungs: list[tuple[float, float]], deadline_s: float
) -> None:
    rates, qualities = zip(*rungs, strict=True)
    each = fluid(*arrivals, deadline_s=deadline_s, rates=rates, qualities=qualities)
    most_served = oracle(each, Objective.ATTAINMENT)
    best = oracle(each, Objective.QUALITY)
    assert best.effective_quality >= most_served.effective_quality - 1e-6
    assert most_served.attainment >= best.attainment - 1e-6
    for rung in range(len(rungs)):
        constant = static(each, rung)
        assert constant.attainment <= most_served.attainment + 1e-6
        assert constant.effective_quality <= best.effective_quality + 1e-6


@settings(deadline=None)
@given(ARRIVALS, RUNGS, st.floats(0, 5), st.sampled_from(Objective))
def test_a_schedule_keeps_time_balance_and_deadline(
    arrivals: list[float],
    rungs: list[tuple[float, float]],
    deadline_s: float,
    objective: Objective,
) -> None:
    rates, qualities = zip(*rungs, strict=True)
    each = fluid(*arrivals, deadline_s=deadline_s, rates=rates, qualities=qualities)
    schedule = solve(each, objective)
    assert ((schedule.served_TC / each.rates_C).sum(axis=1) <= 1 + 1e-6).all()
    gone_T = np.cumsum(schedule.served_TC.sum(axis=1) + schedule.dropped_T)
    arrived_T = np.cumsum(each.drained_T)
    assert (gone_T <= arrived_T + 1e-5).all()
    assert gone_T[-1] == pytest.approx(each.total, abs=1e-5)
    due_T = arrived_T[: len(arrived_T) - each.num_late]
    assert (gone_T[each.num_late :] >= due_T - 1e-5).all()


def test_regret_is_nought_for_the_oracle_and_one_for_the_best_constant() -> None:
    assert regret(0.9, 0.9, 0.8) == pytest.approx(0)
    assert regret(0.8, 0.9, 0.8) == pytest.approx(1)
    assert regret(0.85, 0.9, 0.8) == pytest.approx(0.5)
    assert regret(0.7, 0.9, 0.8) == pytest.approx(2)


def test_regret_is_undefined_where_a_constant_is_as_good_as_the_oracle() -> None:
    assert regret(0.7, 0.9, 0.9) is None
    assert regret(0.7, 0.9, 0.8996) is None
    assert regret(0.7, 0.9, 0.8994) == pytest.approx(200 / 0.6)


def test_arrivals_fall_into_the_window_that_contains_them() -> None:
    binned_T = binned(np.array([0.0, 0.4, 0.5, 1.9]), window_s=0.5)
    assert binned_T.tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"arrivals_T": np.zeros(3)}, "arrivals: expected"),
        ({"arrivals_T": np.array([1.0, -1.0])}, "arrivals: expected"),
        ({"arrivals_T": np.ones((2, 2))}, "arrivals: expected"),
        ({"rates_C": np.array([1.0])}, "one of each for every rung"),
        ({"rates_C": np.array([1.0, 0.0])}, "rates: expected"),
        ({"qualities_C": np.array([1.0, np.nan])}, "qualities: expected"),
        ({"window_s": 0.0}, "window above 0 s"),
        ({"deadline_s": -1.0}, "deadline from 0 s"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(fluid(1, 2), **changes)  # type: ignore[arg-type]
