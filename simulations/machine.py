"""What all replicas of a simulated run have in common, the noise of their steps included."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from controller.config import SloPolicy
from controller.profiles import Profile
from simulations.events import Events
from simulations.faults import Faults
from simulations.settings import Settings
from simulations.step_cost import StepCost

NOISE_STREAM = 3  # draws of their own, beside those of `simulations.mix` and `simulations.arrivals`
NUM_DRAWN = 4096  # at a time


@dataclass(frozen=True, slots=True)
class Machine:
    events: Events
    slo_policy: SloPolicy
    profile: Profile
    cost: StepCost
    settings: Settings
    faults: Faults
    seed: int

    def noise(self, number: int, life: int) -> Iterator[float]:
        """Factors of a replica's step times for ever: lognormal, of mean 1, as far off as the fit.

        The mean error of a lognormal factor is about sigma * sqrt(2 / pi). Every replica draws from
        a stream of its own, so that arms have the draws in common.
        """
        sigma = self.profile.fit.mape_held_out * sqrt(pi / 2)
        rng = np.random.default_rng([self.seed, NOISE_STREAM, number, life])
        while True:
            yield from rng.lognormal(-(sigma**2) / 2, sigma, NUM_DRAWN).tolist()
