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
        self.factor = exp(self._mean + self._deviation)
        # Every step comes by here: where each is alone, all that is drawn at once is made at once.
        self._draws = self._fresh(rng) if noise.lasts_s else self._factors(rng)

    def advance(self, seconds: float) -> None:
        draw = next(self._draws)
        if not self._lasts_s:
            self.factor = draw
            return
        keep = exp(-seconds / self._lasts_s)
        self._deviation = keep * self._deviation + self._sigma * sqrt(1 - keep * keep) * draw
        self.factor = exp(self._mean + self._deviation)

    def _fresh(self, rng: np.random.Generator) -> Iterator[float]:
        while True:
            yield from rng.standard_normal(NUM_DRAWN).tolist()

    def _factors(self, rng: np.random.Generator) -> Iterator[float]:
        while True:
            yield from np.exp(self._mean + self._sigma * rng.standard_normal(NUM_DRAWN)).tolist()
