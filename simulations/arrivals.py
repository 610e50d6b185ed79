"""Arrival times by a rate that changes in steps.

Takes phases, gives times; random only by the seed it is given. Lengths are another's: `sent_at`
gives these times to the requests of a trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from simulations.rates import FloatArray
from simulations.schedule import Requests
from simulations.traces import Request

STREAM = 2  # draws of their own, beside those of the prompts and of `simulations.mix`


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


def poisson(phases: Sequence[Phase], seed: int) -> FloatArray:
    """Times in order, from the start of the first phase, of a Poisson process of that rate.

    One of rate 1, its time stretched so that a phase of rate r has r of it a second: with one seed,
    another rate moves the arrivals and does not draw others.
    """
    ends_s = np.cumsum([0.0, *(phase.duration_s for phase in phases)])
    means = np.cumsum([0.0, *(phase.duration_s * phase.rate_rps for phase in phases)])
    rng = np.random.default_rng([seed, STREAM])
    at, drawn = rng.exponential(), []
    while at < means[-1]:
        drawn.append(at)
        at += rng.exponential()
    arrivals_s: FloatArray = np.interp(drawn, means, ends_s)
    return arrivals_s


def sent_at(requests: Sequence[Request], arrivals_s: FloatArray) -> Requests:
    """The requests in order, from the first again where they run out, each at its new time."""
    return tuple(
        replace(request, arrival_s=float(arrival_s))
        for request, arrival_s in zip(cycle(requests), arrivals_s, strict=False)
    )
