"""Forecasts of arrivals to compare: the controller's, and what else there is.

Shapes: counts of T ticks of 0.2 s in; by horizon, T forecasts and T upper bounds out.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.averages import DecayingMean
from controller.forecast import MEMORY_S, ONE_IN_TEN, ArrivalForecast

TICK_S = 0.2
HORIZONS_S = (1, 2, 4)

Counts = NDArray[np.int64]
Values = NDArray[np.floating[Any]]
Ahead = dict[int, tuple[Values, Values]]  # by horizon: forecasts and their upper bounds
Candidate = Callable[[Counts], Ahead]


def families() -> dict[str, dict[str, Candidate]]:
    """By family and setting, the most agile setting first."""
    return {
        "EWMA": {f"{tau:g} s": ewma(tau) for tau in (0.5, 1, 2, 4, 8, 15, 30)},
        "EWMA 1 s": {"": ewma(1)},
        "EWMA 4 s": {"": ewma(4)},
        "larger of both": {"": larger(1, 4)},
        "larger, no error": {"": without_error(larger(1, 4))},
        "Holt": {f"{a:g}, {b:g} s": holt(a, b) for a, b in product((1, 2, 4, 8, 15), (8, 30))},
        "Holt, damped": {
            f"{a:g}, {b:g}, {c:g} s": holt(a, b, c)
            for a, b, c in product((1, 2, 4, 8, 15), (8, 30), (8, 2))
        },
        "if significant": {
            f"{tau:g} s, {z} SE": significant(tau, z) for tau, z in product((4, 8, 15), (2, 3, 4))
        },
        "reversion": {
            f"{a:g}, {b:g}, {c:g} s": reversion(a, b, c)
            for a, b, c in product((1, 2, 4), (15, 30), (4, 2, 1, 0.5))
        },
        "by error": {f"power {p}": by_error((1, 4, 15, 30), p) for p in (4, 2)},
        "controller's": {
            f"{b:g} s, {z} SD": controllers(b, z) for z, b in product((1.5, 2, 3, 4), (8, 15, 30))
        },
    }


def averaged(counts: Counts, tau_s: float) -> Values:
    mean, means = DecayingMean(tau_s), np.empty(len(counts))
    for tick, count in enumerate(counts.tolist()):
        mean.add(count / TICK_S, TICK_S)
        means[tick] = mean.value
    return means


def with_own_error(counts: Counts, forecasts: dict[int, Values]) -> Ahead:
    """As the controller's: squared errors over what Poisson arrivals would have made them."""
    keep = math.exp(-TICK_S / MEMORY_S)
    bounded: Ahead = {}
    for horizon_s, means in forecasts.items():
        ticks, came = round(horizon_s / TICK_S), after(counts, horizon_s)
        squared, foretold, bounds = 0.0, 0.0, np.empty(len(counts))
        for tick, mean in enumerate(means.tolist()):
            if tick >= ticks:
                earlier = means[tick - ticks]
                squared = keep * squared + (came[tick - ticks] - earlier) ** 2 * horizon_s
                foretold = keep * foretold + earlier
            dispersion = squared / foretold if foretold > 0 else 1.0
            bounds[tick] = mean + ONE_IN_TEN * math.sqrt(dispersion * mean / horizon_s)
        bounded[horizon_s] = means, bounds
    return bounded


def ewma(tau_s: float) -> Candidate:
    return lambda counts: with_own_error(counts, dict.fromkeys(HORIZONS_S, averaged(counts, tau_s)))


def larger(fast_s: float, slow_s: float) -> Candidate:
    def ahead(counts: Counts) -> Ahead:
        mean = np.maximum(averaged(counts, fast_s), averaged(counts, slow_s))
        return with_own_error(counts, dict.fromkeys(HORIZONS_S, mean))

    return ahead


def without_error(candidate: Candidate) -> Candidate:
    return lambda counts: {h: (mean, mean) for h, (mean, _) in candidate(counts).items()}


def holt(level_s: float, trend_s: float, damping_s: float = math.inf) -> Candidate:
    """Holt (1957); the trend fades over `damping_s` as in Gardner and McKenzie (1985)."""

    def ahead(counts: Counts) -> Ahead:
        gain, trend_gain = -math.expm1(-TICK_S / level_s), -math.expm1(-TICK_S / trend_s)
        keep = math.exp(-TICK_S / damping_s)
        level, trend, states = counts[0] / TICK_S, 0.0, []
        for rate in (counts / TICK_S).tolist():
            foretold = level + keep * trend * TICK_S
            error = rate - foretold
            level = foretold + gain * error
            trend = keep * trend + gain * trend_gain * error / TICK_S
            states.append((level, trend))
        levels, trends = np.array(states).T
        means = {h: np.maximum(0, levels + trends * lead_s(h, damping_s)) for h in HORIZONS_S}
        return with_own_error(counts, means)

    return ahead


def lead_s(horizon_s: float, damping_s: float) -> float:
    """By how many seconds of trend the mean over the horizon is ahead."""
    if math.isinf(damping_s):
        return horizon_s / 2
    return damping_s - damping_s**2 / horizon_s * -math.expm1(-horizon_s / damping_s)


def significant(level_s: float, errors: float, window_s: float = 4.0) -> Candidate:
    """A line through the last seconds if its slope is so many standard errors, else the EWMA."""

    def ahead(counts: Counts) -> Ahead:
        rates, ticks = counts / TICK_S, round(window_s / TICK_S)
        times_s = (np.arange(ticks) - (ticks - 1) / 2) * TICK_S
        slopes, middles = np.zeros(len(counts)), np.zeros(len(counts))
        slopes[ticks - 1 :] = np.convolve(rates, times_s[::-1], "valid") / (times_s @ times_s)
        middles[ticks - 1 :] = np.convolve(rates, np.full(ticks, 1 / ticks), "valid")
        standard_error = np.sqrt(middles / TICK_S / (times_s @ times_s))  # of Poisson counts
        level, means = averaged(counts, level_s), dict[int, Values]()
        for h in HORIZONS_S:
            line = np.maximum(0, middles + slopes * (window_s + h) / 2)
            means[h] = np.where(abs(slopes) > errors * standard_error, line, level)
        return with_own_error(counts, means)

    return ahead


def reversion(fast_s: float, slow_s: float, tau_s: float) -> Candidate:
    """A departure from the slow mean fades over `tau_s`, whatever was measured."""

    def ahead(counts: Counts) -> Ahead:
        slow = averaged(counts, slow_s)
        departure = averaged(counts, fast_s) - slow
        left = {h: tau_s / h * -math.expm1(-h / tau_s) for h in HORIZONS_S}
        return with_own_error(counts, {h: slow + left[h] * departure for h in HORIZONS_S})

    return ahead


def by_error(taus_s: tuple[float, ...], power: int) -> Candidate:
    """EWMAs weighted by their inverse squared errors of the last minute, to a power."""

    def ahead(counts: Counts) -> Ahead:
        keep = math.exp(-TICK_S / MEMORY_S)
        rates = np.array([averaged(counts, tau_s) for tau_s in taus_s]).T
        means: dict[int, Values] = {}
        for h in HORIZONS_S:
            ticks, mean = round(h / TICK_S), np.empty(len(counts))
            errors = (rates[: len(rates) - ticks] - after(counts, h)[:, None]) ** 2
            squared = np.full(len(taus_s), 1e-9)
            for tick in range(len(counts)):
                if tick >= ticks:
                    squared = keep * squared + errors[tick - ticks]
                weights = (squared / squared.min()) ** -power
                mean[tick] = weights @ rates[tick] / weights.sum()
            means[h] = mean
        return with_own_error(counts, means)

    return ahead


def controllers(slow_s: float, exceptional: float) -> Candidate:
    def ahead(counts: Counts) -> Ahead:
        forecast = ArrivalForecast(slow_s=slow_s, exceptional=exceptional)
        found = np.empty((len(HORIZONS_S), 2, len(counts)))
        for tick, count in enumerate(counts.tolist()):
            forecast.add(count, TICK_S)
            for row, horizon_s in enumerate(HORIZONS_S):
                expected = forecast.ahead(horizon_s)
                assert expected is not None
                found[row, :, tick] = expected.mean_per_s, expected.upper_per_s
        return {h: (means, bounds) for h, (means, bounds) in zip(HORIZONS_S, found, strict=True)}

    return ahead


# How good that was.


def after(counts: Counts, horizon_s: float) -> Values:
    """The rate over the horizon after each tick that has one."""
    ticks, until = round(horizon_s / TICK_S), np.cumsum(counts)
    return (until[ticks:] - until[:-ticks]) / horizon_s
