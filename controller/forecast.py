"""Counts of arrivals in, the rate to expect of the next seconds out, with how wrong that has been.

Counts may be of requests or of tokens. Knows nothing of where they come from or what they cost.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from controller.averages import DecayingMean

FAST_S = 1.0
MEMORY_S = 60.0
HORIZONS_S = (0.5, 1.0, 2.0, 4.0)  # at which forecasts are compared with what came
SHORTEST_S = 0.05  # a rate over less would be noise: such stretches are put together
PRIOR = 10.0  # so many comparisons that found Poisson arrivals are taken to have gone before
POISSON_DEPARTURE = 1 / (2 * FAST_S)  # variance of the fast rate over the rate, if Poisson
ONE_IN_TEN = 1.2816  # standard deviations that a normal value exceeds as often


@dataclass(frozen=True, slots=True)
class Expected:
    """Of the arrivals a second, over the horizon that was asked for."""

    mean_per_s: float
    error_per_s: float  # root mean square

    @property
    def upper_per_s(self) -> float:
        """Exceeded about one time in ten."""
        return self.mean_per_s + ONE_IN_TEN * self.error_per_s


class ArrivalForecast:
    """A slow mean, and as much of the recent departure from it as lately outlasted the horizon.

    With the exponentially weighted rates f (over a second) and s (over `slow_s`), for a horizon h:

        mean   m = s + w (f - s)
        error  e = sqrt(D m / h)
        w = max(slope, 1 - (exceptional * usual / (f - s))^2), within 0 and 1

    slope is the least-squares slope of what came less s upon f - s, usual the root mean square of
    f - s, and D the mean squared error over what Poisson arrivals would have made it. They are of
    the last minute, each forecast compared with the h seconds after it, and each horizon has its
    own, since bursts end. Squares are taken over the rate, as variances grow with it. Weighing
    forecasts by their errors is Bates and Granger (1969), by least squares Granger and Ramanathan
    (1984). No trend is extrapolated: on real traces that was worse (`benchmarks.forecast`).

    Steady: departures are Poisson noise, slope near 0, D near 1; the slow mean holds. Bursts that
    last: slope near 1; the fast rate leads. Bursts that end at once: slope near 0, D large. A step
    is an exceptional departure, believed at once. Silence: the rates fade, what was learned is
    kept. At first: the slow mean, with the error of Poisson arrivals.
    """

    def __init__(self, *, slow_s: float = 15.0, exceptional: float = 2.0) -> None:
        self._fast = DecayingMean(FAST_S)
        self._slow = DecayingMean(slow_s)
        self._now_s = 0.0  # of a clock that runs while counts are added
        self._arrived = 0.0
        self._waiting = 0.0  # counts, of a stretch too short to be a rate
        self._waited_s = 0.0
        self._lookaheads = [_Lookahead(horizon_s, exceptional) for horizon_s in HORIZONS_S]

    def add(self, count: float, dt_s: float) -> None:
        """So many arrived in the last `dt_s`."""
        self._waiting += count
        self._waited_s += dt_s
        if self._waited_s < SHORTEST_S:
            return
        count, self._waiting = self._waiting, 0.0
        dt_s, self._waited_s = self._waited_s, 0.0
        rate = count / dt_s
        self._fast.add(rate, dt_s)
        self._slow.add(rate, dt_s)
        self._now_s += dt_s
        self._arrived += count
        fast, slow = self._rates()
        for lookahead in self._lookaheads:
            lookahead.advance(self._now_s, dt_s, self._arrived, fast, slow)

    def ahead(self, horizon_s: float) -> Expected | None:
        """Over the next seconds, half of one to five. None: nothing is known yet."""
        if self._now_s == 0:
            return None
        nearest = next((a for a in self._lookaheads if a.horizon_s >= horizon_s), None)
        return (nearest or self._lookaheads[-1]).expect(*self._rates(), horizon_s)

    def _rates(self) -> tuple[float, float]:
        return self._fast.value or 0.0, self._slow.value or 0.0


class _Forecast(NamedTuple):
    at_s: float
    arrived: float  # until then
    fast: float
    slow: float
    mean: float


class _Lookahead:
    """Forecasts of one horizon: those whose time has not come, and sums over those compared."""

    def __init__(self, horizon_s: float, exceptional: float) -> None:
        self.horizon_s = horizon_s
        self._exceptional = exceptional
        self._open: deque[_Forecast] = deque()
        self._compared = 0.0
        self._departed = 0.0  # fast less slow, squared
        self._remained = 0.0  # fast less slow, times what came less slow
        self._missed = 0.0  # squared errors, times the seconds they are means of
        self._foretold = 0.0

    def advance(self, now_s: float, dt_s: float, arrived: float, fast: float, slow: float) -> None:
        keep = math.exp(-dt_s / MEMORY_S)
        self._compared *= keep
        self._departed *= keep
        self._remained *= keep
        self._missed *= keep
        self._foretold *= keep
        while self._open and now_s - self._open[0].at_s >= self.horizon_s - dt_s / 2:  # nearest
            forecast = self._open.popleft()
            self._compare(forecast, arrived - forecast.arrived, now_s - forecast.at_s)
        self._open.append(_Forecast(now_s, arrived, fast, slow, self._mean(fast, slow)))

    def expect(self, fast: float, slow: float, horizon_s: float) -> Expected:
        mean = self._mean(fast, slow)
        prior = PRIOR * slow
        compared = self._foretold + prior
        dispersion = (self._missed + prior) / compared if compared > 0 else 1.0
        return Expected(mean, math.sqrt(dispersion * mean / horizon_s))

    def _compare(self, forecast: _Forecast, count: float, seconds: float) -> None:
        slow = forecast.slow
        if slow <= 0:
            return  # nothing came yet: there is no rate to divide by
        came = count / seconds
        departure = forecast.fast - slow
        self._compared += 1
        self._departed += departure * (departure / slow)
        self._remained += (came - slow) * (departure / slow)
        self._missed += (came - forecast.mean) ** 2 * seconds
        self._foretold += forecast.mean

    def _mean(self, fast: float, slow: float) -> float:
        departed = self._departed + PRIOR * POISSON_DEPARTURE
        share = min(1.0, max(0.0, self._remained / departed))
        departure = fast - slow
        usual = self._exceptional**2 * slow * departed / (self._compared + PRIOR)
        if departure**2 > usual:
            share = max(share, 1 - usual / departure**2)
        return slow + share * departure
