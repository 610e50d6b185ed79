"""What all replicas of a simulated run have in common, the sources of chance included."""

from dataclasses import dataclass
from math import log, pi, sqrt

import numpy as np

from controller.config import SloPolicy
from controller.profiles import Profile
from simulations.events import Events
from simulations.faults import Faults
from simulations.host import Host
from simulations.settings import Noise, Settings
from simulations.step_cost import StepCost
from simulations.step_noise import StepNoise, step_noise

NOISE_STREAM = 3  # draws of their own, beside those of `simulations.mix` and `simulations.arrivals`
WAY_STREAM = 5


@dataclass(frozen=True, slots=True)
class Machine:
    events: Events
    slo_policy: SloPolicy
    profile: Profile
    cost: StepCost
    settings: Settings
    faults: Faults
    host: Host
    seed: int

    def step_noise(self, number: int, life: int) -> StepNoise:
        """Of a replica. Each draws from a stream of its own: arms have the draws in common."""
        noise = self.settings.noise or self._noise_of_fit()
        return step_noise(noise, np.random.default_rng([self.seed, NOISE_STREAM, number, life]))

    def ways(self, num_requests: int) -> list[tuple[float, float]]:
        """Of each request, what its first and its last token take besides."""
        way = self.settings.way
        if way is None:
            return [(0.0, 0.0)] * num_requests
        rng = np.random.default_rng([self.seed, WAY_STREAM])
        delays = rng.lognormal(log(way.mean_s) - way.sigma**2 / 2, way.sigma, (num_requests, 2))
        return [(first_s, last_s) for first_s, last_s in delays.tolist()]

    def _noise_of_fit(self) -> Noise:
        """The mean error of a lognormal factor is about sigma * sqrt(2 / pi)."""
        return Noise(self.profile.fit.mape_held_out * sqrt(pi / 2))
