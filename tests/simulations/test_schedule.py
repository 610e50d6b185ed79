"""Cutting, scaling and fitting keep order and bounds whatever the trace."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.schedule import burst_end_s, cut, fit_lengths, peak_rps, scale_rate
from simulations.traces import Request, Trace

REQUEST = st.builds(Request, st.floats(0, 1000), st.integers(1, 100_000), st.integers(1, 100_000))
REQUESTS = st.lists(REQUEST, min_size=1, max_size=40).map(
    lambda requests: tuple(sorted(requests, key=lambda request: request.arrival_s))
)


def at(*arrivals_s: float) -> tuple[Request, ...]:
    return tuple(Request(arrival_s, 10, 5) for arrival_s in arrivals_s)


def trace(requests: tuple[Request, ...]) -> Trace:
    return Trace("made-up", requests, {}, sorted_input=True, sha256="")


def test_cut_counts_from_the_start_and_leaves_out_the_end() -> None:
    assert cut(trace(at(0, 10, 12, 15, 20)), 10, 5) == at(0, 2)


def test_cut_without_a_duration_goes_to_the_end() -> None:
    assert cut(trace(at(0, 10, 12)), 5) == at(5, 7)


def test_cut_of_nothing_names_the_span() -> None:
    with pytest.raises(ValueError, match="no request of made-up in the 5 s after 30 s; it spans 0"):
        cut(trace(at(0, 20)), 30, 5)


@given(REQUESTS, st.floats(0, 900), st.floats(0.001, 1000))
def test_cut_is_inside(requests: tuple[Request, ...], start_s: float, duration_s: float) -> None:
    try:
        kept = cut(trace(requests), start_s, duration_s)
    except ValueError:
        return
    assert all(0 <= request.arrival_s < duration_s for request in kept)


def test_factor_one_changes_nothing() -> None:
    assert scale_rate(at(0, 1, 1, 7), 1, seed=3) == at(0, 1, 1, 7)


def test_scaling_shifts_whole_copies_by_up_to_ten_seconds() -> None:
    scaled = [request.arrival_s for request in scale_rate(at(0, 100, 101, 200), 3, seed=0)]
    assert len(scaled) == 12
    assert {0, 100, 101, 200} <= set(scaled)
    rounded_s = {round(each, 6) for each in scaled}
    firsts_s = [each for each in rounded_s if 80 < each < 120 and round(each + 1, 6) in rounded_s]
    assert len(firsts_s) == 3
    assert all(90 <= each <= 110 for each in firsts_s)


def test_scaling_makes_no_bursts() -> None:
    """The variance of counts over their mean is 1 of Poisson arrivals, however many there are."""
    rng = np.random.default_rng(1)
    poisson = at(*np.sort(rng.uniform(0, 2000, 8000)).tolist())
    times_s = [request.arrival_s for request in scale_rate(poisson, 16, seed=2)]
    counts = np.bincount(np.array(times_s, int))
    assert counts.mean() == pytest.approx(64, rel=0.01)
    # Of copies within half a second of their original it is 12.
    assert counts.var() / counts.mean() < 3


def test_scaling_keeps_the_mean_rate() -> None:
    # 4000 draws of probability 0.25: five standard deviations are 137.
    scaled = scale_rate(at(*range(4000)), 1.25, seed=1)
    assert abs(len(scaled) - 5000) < 137


@given(REQUESTS, st.floats(0.01, 4), st.integers(0, 2**32))
def test_scaling_keeps_order_and_range(
    requests: tuple[Request, ...], factor: float, seed: int
) -> None:
    try:
        scaled = scale_rate(requests, factor, seed)
    except ValueError:
        assert factor < 1
        return
    arrivals_s = [request.arrival_s for request in scaled]
    assert arrivals_s == sorted(arrivals_s)
    assert arrivals_s[0] >= 0
    assert arrivals_s[-1] <= requests[-1].arrival_s
    assert len(scaled) <= len(requests) * (int(factor) + 1)
    assert scaled == scale_rate(requests, factor, seed)


@given(REQUESTS, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_thinning_moves_nothing(requests: tuple[Request, ...], factor: float, seed: int) -> None:
    try:
        assert set(scale_rate(requests, factor, seed)) <= set(requests)
    except ValueError as error:
        assert "is left" in str(error)


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_impossible_factors_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0"):
        scale_rate(at(0), factor, seed=0)


def test_lengths_shrink_by_one_factor() -> None:
    requests = (Request(0, 3000, 1000), Request(1, 100, 3), Request(2, 1, 1))
    fitted, factor = fit_lengths(requests, 2000)
    assert factor == 0.5
    assert fitted == (Request(0, 1500, 500), Request(1, 50, 2), Request(2, 1, 1))


def test_lengths_that_fit_stay() -> None:
    assert fit_lengths(at(0, 1), 15) == (at(0, 1), 1.0)


@given(REQUESTS, st.integers(2, 300_000))
def test_fitted_lengths_never_exceed_the_context(
    requests: tuple[Request, ...], context_tokens: int
) -> None:
    fitted, factor = fit_lengths(requests, context_tokens)
    assert 0 < factor <= 1
    for before, after in zip(requests, fitted, strict=True):
        assert after.input_tokens + after.output_tokens <= context_tokens
        assert 1 <= after.input_tokens <= before.input_tokens
        assert 1 <= after.output_tokens <= before.output_tokens


def test_a_context_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 or more"):
        fit_lengths(at(0), 1)


def test_peak_is_the_fullest_trailing_window() -> None:
    assert peak_rps(at(0, 1, 1.5, 2, 9), window_s=2) == 1.5
    assert peak_rps((), window_s=2) == 0


def test_burst_ends_with_the_last_arrival_that_exceeds_capacity() -> None:
    # Capacity is 2 in 4 s. From 11 s to 13 s the window holds 3 or 4 requests, at 30 s one.
    assert burst_end_s(at(0, 5, 10, 10.5, 11, 12, 13, 30), capacity_rps=0.5, window_s=4) == 13


def test_no_burst_where_capacity_is_never_exceeded() -> None:
    assert burst_end_s(at(0, 1, 2, 3), capacity_rps=1, window_s=5) is None


@given(REQUESTS, st.floats(0.1, 3))
def test_a_burst_exists_exactly_above_capacity(
    requests: tuple[Request, ...], capacity_rps: float
) -> None:
    end_s = burst_end_s(requests, capacity_rps)
    assert (end_s is not None) == (peak_rps(requests, 5.0) * 5.0 > capacity_rps * 5.0)
