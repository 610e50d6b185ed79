"""Arrival times by a rate that changes in steps: evenly spaced, Poisson, gamma or in bursts.

Takes phases, gives times; random only by the seed it is given. Lengths are another's: `sent_at`
gives these times to the requests of a trace. What shape a rate has is `simulations.shapes`'s.

All but the bursts are drawn at rate 1 and stretched in time, so that a phase of rate r has r of
them a second (Çinlar, Introduction to Stochastic Processes, 1975, 4.7, for the Poisson process).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from simulations.rates import FloatArray
from simulations.schedule import Requests
from simulations.traces import Request

STREAM = 2  # draws of their own, beside those of the prompts and of `simulations.mix`
MOST_REQUESTS = 10_000_000  # in the mean; more would not fit in memory
LONGEST_S = 10_000_000.0  # 115 days; bursts are drawn for every second
CVS = (0.001, 100.0)  # beyond them gamma gaps are all alike, or nearly all too small for a float
HIGHEST_DISPERSION = 1000.0  # beyond it one second could be more than fits in memory
CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Phase:
    """So many requests a second, in the mean, for so long."""

    duration_s: float
    rate_rps: float

    def __post_init__(self) -> None:
        if not (0 < self.duration_s < np.inf and 0 <= self.rate_rps < np.inf):
            raise ValueError(
                f"{self.rate_rps:g} requests/s for {self.duration_s:g} s: expected a rate from 0 "
                "and a duration above 0"
            )


def constant(phases: Sequence[Phase]) -> FloatArray:
    """Evenly spaced times, the first at the start."""
    means, ends_s = _cumulative(phases)
    # A whole number of requests may come out a rounding error above it.
    return _stretched(np.arange(np.ceil(means[-1] - 1e-6)), means, ends_s)


def poisson(phases: Sequence[Phase], seed: int) -> FloatArray:
    """Times in order, from the start of the first phase, of a Poisson process of that rate.

    With one seed, another rate moves the arrivals and does not draw others.
    """
    means, ends_s = _cumulative(phases)
    rng = np.random.default_rng([seed, STREAM])
    at = _renewals(means[-1], rng.exponential(size=1), lambda size: rng.exponential(size=size))
    return _stretched(at, means, ends_s)


def gamma(phases: Sequence[Phase], cv: float, seed: int) -> FloatArray:
    """Times of a renewal process whose gaps have that coefficient of variation; 1 is Poisson.

    Gaps are gamma of shape 1 / cv^2, as vLLM's `--burstiness` draws them, but the first is that of
    a process long under way (Cox, Renewal Theory, 1962): the rate holds from the start.
    """
    if not CVS[0] <= cv <= CVS[1]:
        raise ValueError(f"cv {cv:g}: expected a number from {CVS[0]:g} to {CVS[1]:g}")
    means, ends_s = _cumulative(phases)
    rng = np.random.default_rng([seed, STREAM])
    shape = cv**-2
    # The gap that a moment falls in is the longer the likelier, and the moment anywhere inside.
    first = rng.random(1) * rng.gamma(shape + 1, 1 / shape, 1)
    at = _renewals(means[-1], first, lambda size: rng.gamma(shape, 1 / shape, size))
    return _stretched(at, means, ends_s)


def negative_binomial(phases: Sequence[Phase], dispersion: float, seed: int) -> FloatArray:
    """Times whose counts per second have `dispersion` times the variance of Poisson's.

    The counts are negative binomial: Poisson of a gamma-distributed mean, drawn anew every second
    (Greenwood and Yule, 1920). Unlike one CV of the gaps, this says how much comes at once.
    """
    if not 1 < dispersion <= HIGHEST_DISPERSION:
        raise ValueError(
            f"dispersion {dispersion:g}: expected a number above 1, which is Poisson, and at most "
            f"{HIGHEST_DISPERSION:g}"
        )
    means, ends_s = _cumulative(phases)
    seconds_s = np.append(np.arange(0.0, ends_s[-1]), ends_s[-1])
    edges = np.interp(seconds_s, ends_s, means)
    rng = np.random.default_rng([seed, STREAM])
    rates = rng.gamma(np.diff(edges) / (dispersion - 1), dispersion - 1)
    second = np.repeat(np.arange(len(rates)), rng.poisson(rates))
    at = edges[second] + rng.random(len(second)) * np.diff(edges)[second]
    return _stretched(np.sort(at), means, ends_s)


def _cumulative(phases: Sequence[Phase]) -> tuple[FloatArray, FloatArray]:
    """Requests in the mean up to each phase's end, and the ends; both begin with 0."""
    means = np.cumsum([0.0, *(phase.duration_s * phase.rate_rps for phase in phases)])
    if means[-1] > MOST_REQUESTS:
        raise ValueError(f"{means[-1]:.3g} requests: expected at most {MOST_REQUESTS:,}")
    ends_s = np.cumsum([0.0, *(phase.duration_s for phase in phases)])
    if ends_s[-1] > LONGEST_S:
        raise ValueError(f"{ends_s[-1]:.3g} s: expected at most {LONGEST_S:,.0f} s")
    return means, ends_s


def _renewals(end: float, first: FloatArray, draw: Callable[[int], FloatArray]) -> FloatArray:
    """Sums of the first gap and those drawn, as far as they are below the end."""
    gaps = np.concatenate([first, draw(CHUNK)])
    while (at := np.cumsum(gaps))[-1] < end:
        gaps = np.concatenate([gaps, draw(len(gaps))])
    return at[at < end]


def _stretched(at: FloatArray, means: FloatArray, ends_s: FloatArray) -> FloatArray:
    """From the time in which one request is due a unit to seconds."""
    arrivals_s: FloatArray = np.interp(at, means, ends_s)
    return arrivals_s


def sent_at(requests: Sequence[Request], arrivals_s: FloatArray) -> Requests:
    """The requests in order, from the first again where they run out, each at its new time."""
    return tuple(
        replace(request, arrival_s=float(arrival_s))
        for request, arrival_s in zip(cycle(requests), arrivals_s, strict=False)
    )
