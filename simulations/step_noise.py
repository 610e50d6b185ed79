"""By how much a replica's steps take longer or shorter than they should, by chance."""

from collections.abc import Iterator
from itertools import chain
from math import exp, sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulations.settings import Noise

NUM_DRAWN = 4096  # at a time: every step comes by here
SLICE = 0.15  # of the time that noise lasts: so long a step goes at one speed


class StepNoise(Protocol):
    def stretch(self, seconds: float) -> float:
        """What the next step takes that should take so many seconds."""
        ...


def step_noise(noise: Noise, rng: np.random.Generator) -> StepNoise:
    return LastingNoise(noise, rng) if noise.lasts_s else LoneNoise(noise, rng)


class LoneNoise:
    """Each step by itself: a lognormal factor of mean 1."""

    def __init__(self, noise: Noise, rng: np.random.Generator) -> None:
        mean, sigma = -(noise.sigma**2) / 2, noise.sigma
        self._factors: Iterator[float] = chain.from_iterable(
            np.exp(mean + sigma * draws).tolist() for draws in _draws(rng)
        )

    def stretch(self, seconds: float) -> float:
        return seconds * next(self._factors)


class LastingNoise:
    """The logarithm of the speed at which steps run is an Ornstein-Uhlenbeck process: what two
    moments have in common fades exponentially with the time between them, however many steps there
    are. The speed is 1 in the mean over time, so that much work takes the time it should: were it
    the steps' factor that is, most steps would run while it is low, and take less.
    """

    def __init__(self, noise: Noise, rng: np.random.Generator) -> None:
        self._sigma, self._lasts_s = noise.sigma, noise.lasts_s
        self._slice_s = SLICE * noise.lasts_s
        self._draws: Iterator[float] = chain.from_iterable(draws.tolist() for draws in _draws(rng))
        self._deviation = noise.sigma * next(self._draws)

    def stretch(self, seconds: float) -> float:
        took_s = 0.0
        while seconds > 0:
            factor = exp(self._sigma**2 / 2 - self._deviation)
            slice_s = min(seconds * factor, self._slice_s)
            took_s += slice_s
            # Of the last slice nothing is left, whatever rounding says.
            seconds = seconds - slice_s / factor if slice_s == self._slice_s else 0.0
            self._advance(slice_s)
        return took_s

    def _advance(self, seconds: float) -> None:
        keep = exp(-seconds / self._lasts_s)
        fresh = self._sigma * sqrt(1 - keep * keep) * next(self._draws)
        self._deviation = keep * self._deviation + fresh


def _draws(rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    while True:
        yield rng.standard_normal(NUM_DRAWN)
