"""Counts are what arrived, scores are what they say, and tuning prefers the agile."""

import numpy as np
import pytest
from pytest import approx

from benchmarks import forecast
from benchmarks.forecast import (
    Score,
    counted,
    gamma,
    group,
    half_s,
    hindsight,
    judged,
    poisson,
    scaled,
    tuned,
)
from benchmarks.forecasters import (
    HORIZONS_S,
    Ahead,
    Candidate,
    Counts,
    after,
    controllers,
    ewma,
    holt,
    without_error,
)
from simulations.traces import Request, Trace

STEADY = poisson(20.0, np.ones_like, 300.0, seed=3)


def exactly(rate: float) -> Candidate:
    """Says the same, whatever came."""

    def ahead(counts: Counts) -> Ahead:
        mean = np.full(len(counts), rate)
        return dict.fromkeys(HORIZONS_S, (mean, mean))

    return ahead


def test_arrivals_are_counted_by_the_tick() -> None:
    assert counted([0.0, 0.1, 0.25, 0.99]).tolist() == [2, 1, 0, 0, 1]


def test_what_comes_after_a_tick_leaves_the_tick_out() -> None:
    counts = np.array([5, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3])
    assert after(counts, 1.0) == approx(np.array([5, 7, 9, 11, 13, 15]))


@pytest.mark.parametrize("cv", [2, 4])
def test_gamma_arrivals_have_the_rate_and_more_variance_than_poisson(cv: float) -> None:
    counts = gamma(15.0, cv, 600.0)
    seconds = counts[: len(counts) // 5 * 5].reshape(-1, 5).sum(axis=1)
    assert counts.mean() / forecast.TICK_S == approx(15.0, rel=0.15)
    assert seconds.var() / seconds.mean() > 2 * STEADY.var() / STEADY.mean()


def test_a_trace_is_scaled_to_every_rate_and_quickened() -> None:
    requests = tuple(Request(float(second), 1, 1) for second in range(301))
    found = scaled(Trace("even", requests, {}, sorted_input=True, sha256=""))
    assert {group(name) for name in found} == {"even"}
    rates = [counts.mean() / forecast.TICK_S for counts in found.values()]
    assert rates == approx([5, 15, 40, 15], rel=0.05)


def test_a_true_forecast_without_an_error_is_passed_about_half_the_time() -> None:
    mean = STEADY.mean() / forecast.TICK_S
    score = judged(STEADY, exactly(mean)(STEADY))[1]
    assert score.bias == approx(0.0, abs=3.0)
    assert score.passed == approx(50.0, abs=10.0)
    # Half the mean absolute error, whichever way it goes: the weights 0.9 and 0.1 add up to one.
    assert score.pinball == approx(score.error / 2, rel=0.2)


def test_the_pinball_loss_of_falling_short_is_nine_times_that_of_excess() -> None:
    even = np.full(300, 4)
    short, over = judged(even, exactly(10.0)(even))[1], judged(even, exactly(30.0)(even))[1]
    assert (short.bias, short.pinball, short.passed) == approx((-50.0, 45.0, 100.0))
    assert (over.bias, over.pinball, over.passed) == approx((50.0, 5.0, 0.0))


@pytest.mark.parametrize("candidate", [ewma(15), holt(8, 30, 8), controllers(15, 2)])
def test_a_bound_with_its_own_error_is_passed_about_one_time_in_ten(
    candidate: Candidate,
) -> None:
    for score in judged(STEADY, candidate(STEADY)).values():
        assert score.passed == approx(10.0, abs=4.0)


def test_without_its_error_a_bound_is_the_forecast() -> None:
    for mean, bound in without_error(ewma(1))(STEADY).values():
        assert (mean == bound).all()


def test_the_most_agile_of_near_equal_settings_is_taken() -> None:
    settings = {"agile": ewma(1), "near": ewma(29), "best": ewma(30)}
    assert tuned(settings, [STEADY]) == "near"


def test_hindsight_takes_the_least_loss_of_each_test() -> None:
    def score(pinball: float) -> dict[int, Score]:
        return {h: Score(0.0, 0.0, pinball, 0.0, 0.0) for h in HORIZONS_S}

    found = hindsight(
        [{"calm": score(1.0), "wild": score(9.0)}, {"calm": score(2.0), "wild": score(3.0)}]
    )
    assert found == {"calm": score(1.0), "wild": score(3.0)}


def test_a_slower_mean_takes_longer_to_half_a_step() -> None:
    # An exponential mean has gone half the way after 0.69 of its time constant.
    assert half_s(ewma(1), 15.0) == approx(0.7, abs=0.31)
    assert half_s(ewma(4), 15.0) == approx(2.8, abs=0.41)
