"""The arrivals of the next seconds, and how far from them the forecast has lately been."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from controller.averages import DecayingMean
from controller.forecast import ArrivalForecast, Expected

TICK_S = 0.2


def fed(*counts: float) -> ArrivalForecast:
    """One count a tick."""
    forecast = ArrivalForecast()
    for count in counts:
        forecast.add(count, TICK_S)
    return forecast


def expected(forecast: ArrivalForecast, horizon_s: float = 1.0) -> Expected:
    found = forecast.ahead(horizon_s)
    assert found is not None
    return found


def poisson(rate: float, seconds: float, seed: int = 0) -> list[float]:
    counts = np.random.default_rng(seed).poisson(rate * TICK_S, round(seconds / TICK_S))
    return [float(count) for count in counts]


def test_before_the_first_count_nothing_is_expected() -> None:
    forecast = ArrivalForecast()
    assert forecast.ahead(1.0) is None
    forecast.add(3.0, dt_s=0.0)
    assert forecast.ahead(1.0) is None


def test_the_first_count_is_believed_with_the_error_of_poisson_arrivals() -> None:
    forecast = fed(2.0)
    soon, later = expected(forecast, 1.0), expected(forecast, 4.0)
    assert (soon.mean_per_s, later.mean_per_s) == approx((10.0, 10.0))
    assert (soon.error_per_s, later.error_per_s) == approx((3.162, 1.581), abs=0.001)
    assert soon.upper_per_s == approx(14.05, abs=0.01)


def test_even_arrivals_are_expected_to_go_on_with_hardly_an_error() -> None:
    found = expected(fed(*[2.0] * 600))
    assert found.mean_per_s == approx(10.0)
    assert found.error_per_s < 0.25 * math.sqrt(10.0)


@pytest.mark.parametrize("horizon_s", [0.5, 1.0, 2.0, 4.0, 5.0])
def test_poisson_arrivals_have_a_poisson_error(horizon_s: float) -> None:
    found = expected(fed(*poisson(20.0, 300.0)), horizon_s)
    assert found.mean_per_s == approx(20.0, rel=0.15)
    assert found.error_per_s == approx(math.sqrt(20.0 / horizon_s), rel=0.35)


def test_poisson_noise_moves_the_forecast_less_than_the_fast_rate() -> None:
    forecast, fast = ArrivalForecast(), DecayingMean(1.0)
    forecasts, rates = [], []
    for count in poisson(20.0, 300.0):
        forecast.add(count, TICK_S)
        fast.add(count / TICK_S, TICK_S)
        forecasts.append(expected(forecast).mean_per_s)
        rates.append(fast.value or 0.0)
    assert np.std(forecasts[300:]) < 0.6 * np.std(rates[300:])


def test_a_ramp_is_followed_more_closely_than_by_the_sustained_rate() -> None:
    forecast, sustained = ArrivalForecast(), DecayingMean(4.0)
    for tick in range(150):
        forecast.add(0.2 * tick, TICK_S)
        sustained.add(0.2 * tick / TICK_S, TICK_S)
    assert sustained.value is not None
    assert sustained.value + 2.0 < expected(forecast).mean_per_s <= 149.0


def test_a_step_is_believed_before_it_has_proved_to_last() -> None:
    forecast = fed(*[4.0] * 600)
    for count in [8.0] * 5:  # less than the horizon of four seconds
        forecast.add(count, TICK_S)
    assert expected(forecast, 4.0).mean_per_s > 30.0


def after_bursts(quiet: int, burst: int) -> ArrivalForecast:
    """A second into one more burst like those before, of so many ticks."""
    return fed(*([2.0] * quiet + [10.0] * burst) * 20, *[2.0] * quiet, *[10.0] * 5)


def test_a_burst_is_expected_to_last_as_those_before_it() -> None:
    long, short = after_bursts(150, 50), after_bursts(20, 5)
    assert expected(long, 4.0).mean_per_s > 32.0
    assert expected(short, 4.0).mean_per_s < 25.0


def test_a_burst_of_five_seconds_ends_within_four_but_not_within_half_of_one() -> None:
    forecast = after_bursts(100, 25)
    assert expected(forecast, 0.5).mean_per_s > 34.0
    assert expected(forecast, 4.0).mean_per_s < 27.0


def test_uneven_arrivals_have_a_larger_error() -> None:
    even, uneven = fed(*[3.0] * 900), fed(*[0.0, 0.0, 0.0, 0.0, 0.0, 18.0] * 150)
    assert expected(uneven).mean_per_s == approx(15.0, rel=0.2)
    assert expected(uneven, 0.5).error_per_s > 5 * expected(even, 0.5).error_per_s


def test_silence_from_the_start_expects_nothing() -> None:
    assert expected(fed(*[0.0] * 100)) == Expected(0.0, 0.0)


def test_silence_fades_the_rate_and_keeps_what_was_learned() -> None:
    arrivals = poisson(20.0, 120.0)
    forecast = fed(*arrivals)
    before = expected(forecast)
    for _ in range(900):
        forecast.add(0.0, TICK_S)
    silent = expected(forecast)
    assert silent.upper_per_s < 0.01
    for count in arrivals:
        forecast.add(count, TICK_S)
    assert expected(forecast).mean_per_s == approx(before.mean_per_s, rel=0.1)


def test_arrivals_after_long_silence_are_believed_at_once() -> None:
    forecast = fed(*[0.0] * 3000, *[4.0] * 5)
    assert expected(forecast, 0.5).mean_per_s == approx(20.0 * (1 - math.exp(-1)), rel=0.1)


def test_a_pause_of_the_caller_is_one_long_stretch() -> None:
    forecast = fed(*poisson(20.0, 120.0))
    before = expected(forecast)
    forecast.add(200.0, dt_s=10.0)
    after = expected(forecast)
    assert after.mean_per_s == approx(20.0, rel=0.2)
    assert after.error_per_s == approx(before.error_per_s, rel=0.2)


def test_a_horizon_is_judged_by_the_next_longer_that_is_compared() -> None:
    forecast = fed(*poisson(20.0, 60.0))
    asked, compared = expected(forecast, 1.5), expected(forecast, 2.0)
    assert asked.mean_per_s == compared.mean_per_s
    assert asked.error_per_s == approx(compared.error_per_s * math.sqrt(2.0 / 1.5))


counts = st.lists(st.integers(0, 1000), min_size=1, max_size=120)
stretches = st.lists(
    st.tuples(st.integers(0, 1000), st.floats(0.0, 30.0)), min_size=1, max_size=120
)
horizons_s = st.floats(0.5, 5.0)


@settings(deadline=None)
@given(stretches, horizons_s)
def test_what_is_expected_is_never_negative_and_always_finite(
    stretches: list[tuple[int, float]], horizon_s: float
) -> None:
    forecast = ArrivalForecast()
    for count, dt_s in stretches:
        forecast.add(count, dt_s)
        found = forecast.ahead(horizon_s)
        if found is not None:
            assert 0 <= found.mean_per_s <= found.upper_per_s < math.inf


@settings(deadline=None)
@given(counts, horizons_s)
def test_the_mean_stays_within_the_rates_that_were_seen(
    counts: list[int], horizon_s: float
) -> None:
    mean = expected(fed(*counts), horizon_s).mean_per_s
    assert min(counts) / TICK_S * (1 - 1e-9) <= mean <= max(counts) / TICK_S * (1 + 1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=60))
def test_two_calls_in_the_same_instant_lose_nothing(pairs: list[tuple[int, int]]) -> None:
    together, apart = ArrivalForecast(), ArrivalForecast()
    for one, other in pairs:
        together.add(one + other, TICK_S)
        apart.add(one, 0.0)
        apart.add(other, TICK_S)
    assert apart.ahead(1.0) == together.ahead(1.0)


@settings(deadline=None)
@given(counts, horizons_s)
def test_in_bulk_the_unit_of_the_counts_does_not_matter(
    counts: list[int], horizon_s: float
) -> None:
    bulk = expected(fed(*(1e6 * count for count in counts)), horizon_s)
    twice = expected(fed(*(2e6 * count for count in counts)), horizon_s)
    assert twice.mean_per_s == approx(2 * bulk.mean_per_s, rel=0.01)
