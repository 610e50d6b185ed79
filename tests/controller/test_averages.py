"""Means that fade with time, ratios that fade with use, and windows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from controller.averages import (
    DecayingMean,
    DecayingRatio,
    RecentMinimum,
    RecentQuantiles,
    RecentRatio,
    quantile_of,
)


def test_a_mean_of_nothing_is_unknown() -> None:
    mean = DecayingMean(tau_s=1.0)
    assert mean.value is None
    mean.add(7.0, dt_s=0.0)
    assert mean.value is None


def test_the_first_value_is_the_mean_however_short_it_stood() -> None:
    mean = DecayingMean(tau_s=10.0)
    mean.add(7.0, dt_s=0.001)
    assert mean.value == approx(7.0)


def test_while_warming_up_equal_stretches_count_about_equally() -> None:
    mean = DecayingMean(tau_s=1000.0)
    mean.add(2.0, dt_s=1.0)
    mean.add(4.0, dt_s=1.0)
    assert mean.value == approx(3.0, abs=0.001)


def test_a_stretch_of_tau_leaves_37_percent_of_the_past() -> None:
    mean = DecayingMean(tau_s=2.0)
    mean.add(10.0, dt_s=100.0)
    mean.add(0.0, dt_s=2.0)
    assert mean.value == approx(3.679, abs=0.001)


def test_two_short_stretches_move_the_mean_like_one_long() -> None:
    once, twice = DecayingMean(tau_s=1.0), DecayingMean(tau_s=1.0)
    for mean in (once, twice):
        mean.add(10.0, dt_s=3.0)
    once.add(4.0, dt_s=1.0)
    twice.add(4.0, dt_s=0.25)
    twice.add(4.0, dt_s=0.75)
    assert twice.value == approx(once.value)


def test_a_ratio_of_nothing_is_unknown() -> None:
    assert DecayingRatio(memory=20.0).value is None


def test_a_ratio_weighs_by_its_denominators() -> None:
    ratio = DecayingRatio(memory=1e9)
    ratio.add(10.0, 1.0)
    ratio.add(30.0, 9.0)
    assert ratio.value == approx(4.0)


def test_a_ratio_forgets_by_what_came_after() -> None:
    ratio = DecayingRatio(memory=1.0)
    ratio.add(100.0, 1.0)
    for _ in range(20):
        ratio.add(3.0, 1.0)
    assert ratio.value == approx(3.0, abs=0.001)


def test_quantiles_are_of_what_is_no_older_than_the_span() -> None:
    recent = RecentQuantiles(span_s=10.0)
    recent.add(5.0, now_s=0.0)
    recent.add(1.0, now_s=1.0)
    assert recent.quantile(1.0, now_s=10.0) == approx(5.0, rel=0.01)
    assert recent.quantile(1.0, now_s=10.5) == approx(1.0, rel=0.01)
    assert recent.quantile(1.0, now_s=11.5) is None


def test_one_value_is_every_quantile() -> None:
    recent = RecentQuantiles(span_s=10.0)
    recent.add(4.0, now_s=0.0)
    assert [recent.quantile(q, now_s=0.0) for q in (0.01, 1.0)] == approx([4.0, 4.0], rel=0.01)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 9.9), st.floats(1e-4, 1e3)), min_size=1),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_a_quantile_is_within_a_hundredth_of_a_value_that_has_that_rank(
    dated: list[tuple[float, float]], share: float
) -> None:
    recent = RecentQuantiles(span_s=10.0)
    for now_s, value in sorted(dated):
        recent.add(value, now_s)
    values = [value for _, value in dated]
    low, high = (np.quantile(values, share, method=method) for method in ("lower", "higher"))
    found = recent.quantile(share, now_s=9.9)
    assert found is not None
    assert 0.99 * low - 1e-9 <= found <= 1.011 * high + 1e-9


stretches = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3)), min_size=1)


@settings(deadline=None)
@given(stretches)
def test_a_mean_stays_within_what_it_was_given(stretches: list[tuple[float, float]]) -> None:
    mean = DecayingMean(tau_s=1.0)
    for value, dt_s in stretches:
        mean.add(value, dt_s)
    values = [value for value, _ in stretches]
    assert mean.value is not None
    assert min(values) - 1e-6 <= mean.value <= max(values) + 1e-6


def test_a_recent_ratio_needs_enough_beneath_it() -> None:
    ratio = RecentRatio(span_s=60.0)
    assert ratio.value(0.0, at_least=1.0) is None
    ratio.add(0.3, 0.9, now_s=0.0)
    assert ratio.value(0.0, at_least=1.0) is None
    ratio.add(0.1, 0.1, now_s=0.5)
    assert ratio.value(0.5, at_least=1.0) == approx(0.4)


def test_a_recent_ratio_weighs_by_its_denominators_and_forgets_after_its_span() -> None:
    ratio = RecentRatio(span_s=60.0)
    ratio.add(3.0, 3.0, now_s=0.9)
    ratio.add(0.0, 1.0, now_s=1.0)
    assert ratio.value(60.0, at_least=1.0) == approx(0.75)
    assert ratio.value(60.1, at_least=1.0) == approx(0.0)  # the second from 0.0 on is gone
    assert ratio.value(61.1, at_least=1.0) is None


def test_quantiles_of_several_are_those_of_all_values_together() -> None:
    one, other = RecentQuantiles(span_s=10.0), RecentQuantiles(span_s=10.0)
    for value in (1.0, 2.0):
        one.add(value, now_s=0.0)
    for value in (3.0, 4.0, 5.0):
        other.add(value, now_s=0.0)
    assert quantile_of([one, other], 0.5, now_s=0.0) == approx(3.0, rel=0.01)
    assert quantile_of([], 0.5, now_s=0.0) is None


def test_the_least_of_late_stands_until_it_is_too_old_or_a_lesser_comes() -> None:
    least = RecentMinimum()
    assert least.value(0.0, span_s=1.0) is None
    seen = []
    for at_s, value in [(0.0, 3.0), (0.4, 2.0), (0.8, 5.0), (1.5, 4.0)]:
        least.add(value, at_s)
        seen.append(least.value(at_s, span_s=1.0))
    assert seen == [3.0, 2.0, 2.0, 4.0]
    assert least.value(9.0, span_s=1.0) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=40))
def test_the_least_is_that_of_the_values_in_the_window(moves: list[tuple[int, int]]) -> None:
    least, now, seen = RecentMinimum(), 0, []
    for gap, value in moves:
        now += gap
        seen.append((now, value))
        least.add(value, now)
        within = [value for at, value in seen if at >= now - 10]
        assert least.value(now, span_s=10) == min(within)


def test_values_count_at_once_also_after_the_window_was_asked() -> None:
    quantiles = RecentQuantiles(span_s=10.0)
    for second in range(3):
        quantiles.add(1.0 + second, now_s=float(second))
        assert quantiles.quantile(1.0, float(second)) == approx(1.0 + second, rel=0.01)
    quantiles.add(9.0, now_s=2.5)  # in the same second as the last
    for _ in range(2):  # asking changes nothing
        assert quantiles.quantile(1.0, 2.5) == approx(9.0, rel=0.01)
        assert quantiles.quantile(0.0, 2.5) == approx(1.0, rel=0.01)
    assert quantiles.quantile(0.0, 10.5) == approx(2.0, rel=0.01)  # the first is forgotten


@given(st.lists(st.tuples(st.floats(0, 4), st.floats(1e-4, 1e3)), min_size=1, max_size=40))
def test_quantiles_do_not_depend_on_when_they_were_asked(moves: list[tuple[float, float]]) -> None:
    asked, unasked, now_s = RecentQuantiles(span_s=10.0), RecentQuantiles(span_s=10.0), 0.0
    for gap_s, value in moves:
        now_s += gap_s
        asked.quantile(0.5, now_s)
        for each in (asked, unasked):
            each.add(value, now_s)
        asked.quantile(0.95, now_s)
    for share in (0.0, 0.5, 0.95):
        assert asked.quantile(share, now_s) == unasked.quantile(share, now_s)
