"""The search for the rate factor: as close under the wanted peak as the trace allows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.schedule import BISECTIONS, peak_rps, scale_to_peak
from simulations.traces import Request

WINDOW_S = 5.0
SEEDS = st.integers(0, 2**32)
REQUESTS = st.lists(st.floats(0, 60), min_size=1, max_size=40).map(lambda times: at(*sorted(times)))
DENSE = st.lists(st.floats(0, 60), min_size=30, max_size=60).map(lambda times: at(*sorted(times)))
PEAKS = st.floats(0.2, 20)  # requests/s; one request in a window of 5 s is a peak of 0.2


def at(*arrivals_s: float) -> tuple[Request, ...]:
    return tuple(Request(arrival_s, 10, 5) for arrival_s in arrivals_s)


def test_half_the_peak_takes_about_half_the_requests() -> None:
    every_tenth_second = at(*(number / 10 for number in range(1000)))
    scaled, factor = scale_to_peak(every_tenth_second, peak=5.0, window_s=WINDOW_S, seed=1)
    # 500 draws would be kept by a factor of one half; the fullest of 200 windows decides.
    assert 0.3 < factor < 0.5
    assert 300 < len(scaled) < 500
    assert peak_rps(scaled, WINDOW_S) == 5.0


def test_a_higher_peak_takes_copies() -> None:
    scaled, factor = scale_to_peak(at(*range(100)), peak=3.0, window_s=WINDOW_S, seed=1)
    assert 2 <= factor < 3
    assert 200 <= len(scaled) < 300
    assert peak_rps(scaled, WINDOW_S) <= 3.0


def test_the_seed_decides() -> None:
    requests = at(*(number / 10 for number in range(200)))
    first, again, other = (scale_to_peak(requests, 5.0, WINDOW_S, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", range(20))
def test_a_peak_of_one_request_keeps_one_of_a_burst(seed: int) -> None:
    """Factors that keep none are no reason to give up: a higher one keeps exactly one."""
    scaled, _ = scale_to_peak(at(0, 0.1, 0.2, 0.3, 0.4), peak=0.2, window_s=WINDOW_S, seed=seed)
    assert len(scaled) == 1


def test_a_peak_that_not_even_one_request_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match="is left"):
        scale_to_peak(at(0, 20, 40), peak=0.1, window_s=WINDOW_S, seed=1)


@settings(deadline=None)  # a busy machine is no failure
@given(REQUESTS, PEAKS, SEEDS)
def test_the_peak_is_never_above_the_wanted_one(
    requests: tuple[Request, ...], peak: float, seed: int
) -> None:
    try:
        scaled, factor = scale_to_peak(requests, peak, WINDOW_S, seed)
    except ValueError as error:  # of so few requests the draw may keep none
        assert "is left" in str(error)
        return
    assert peak_rps(scaled, WINDOW_S) <= peak
    assert factor > 0


@settings(deadline=None)  # a busy machine is no failure
@given(DENSE, st.floats(0.1, 1), st.floats(0.1, 1), SEEDS)
def test_a_higher_peak_never_takes_a_lower_factor(
    requests: tuple[Request, ...], one: float, other: float, seed: int
) -> None:
    """Up to the resolution of the search, and as long as it thins: copies move by chance."""
    full = peak_rps(requests, WINDOW_S)
    low, high = sorted((one, other))
    try:
        _, low_factor = scale_to_peak(requests, low * full, WINDOW_S, seed)
        _, high_factor = scale_to_peak(requests, high * full, WINDOW_S, seed)
    except ValueError:
        return
    if high_factor < 1:
        resolution = 2 * high / 2**BISECTIONS
        assert low_factor <= high_factor + resolution
