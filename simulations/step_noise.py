"""By how much a replica's steps take longer or shorter than they should, by chance."""

from collections.abc import Iterator
from math import exp, sqrt

import numpy as np

from simulations.settings import Noise

NUM_DRAWN = 4096  # at a time


class StepNoise:
    """`factor` is that of the step that begins now; `advance` goes on to one that begins later.

    Its logarithm is an Ornstein-Uhlenbeck process: what two moments have in common fades
    exponentially with the time between them, however many steps there are.
    """

    def __init__(self, noise: Noise, rng: np.random.Generator) -> None:
        self._sigma, self._lasts_s = noise.sigma, noise.lasts_s
        self._mean = -(noise.sigma**2) / 2
        self._deviation = noise.sigma * float(rng.standard_normal())
        self._draws = _draws(rng)
        self.factor = exp(self._mean + self._deviation)

    def advance(self, seconds: float) -> None:
        fresh = next(self._draws)
        if self._lasts_s:
            keep = exp(-seconds / self._lasts_s)
            self._deviation = keep * self._deviation + self._sigma * sqrt(1 - keep * keep) * fresh
        else:
            self._deviation = self._sigma * fresh
        self.factor = exp(self._mean + self._deviation)


def _draws(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.standard_normal(NUM_DRAWN).tolist()
